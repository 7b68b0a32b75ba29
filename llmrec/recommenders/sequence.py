"""The training loop that all sequential baselines share; SASRec, GRU4Rec and gSASRec add an encoder and a loss.

Their only input is the order of item ids: no titles, no profiles, no purchases.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel

from llmrec.data.ragged import Ragged
from llmrec.data.windows import cut_windows
from llmrec.distributed import own_device
from llmrec.recommenders.protocol import Histories, Score
from llmrec.recommenders.schedule import warmup_cosine

BATCH_SIZE = 32  # windows per optimizer step
WARMUP_SHARE = 0.05  # of all steps
EVALUATIONS = 12  # evaluations on validation, as many as PPO has with its default lengths
EMA_DECAY = 0.99  # share of the average of weights that a step keeps


class ItemEncoder(nn.Module):
    """An encoder of item sequences whose input embeddings are also the output embeddings.

    Args:
        num_items: size N of the catalogue.
        hidden_size: width D.
    """

    def __init__(self, num_items: int, hidden_size: int) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items, hidden_size)
        self.bias = nn.Parameter(torch.zeros(num_items))
        nn.init.normal_(self.items.weight, std=0.02)

    def forward(self, items: Tensor) -> Tensor:
        """State after each item: item indices int64 [B, T], padded on the right -> float [B, T, D]."""
        raise NotImplementedError

    def logits(self, states: Tensor) -> Tensor:
        """Logits of all items as the next one, [..., D] -> [..., N]."""
        return nn.functional.linear(states, self.items.weight, self.bias)


@dataclass(frozen=True)
class Batch:
    """Windows of histories, and the R decisions in them.

    Attributes:
        inputs: all items of each window but the last, padded on the right, int64 [B, T].
        is_decision: whether a position is a decision, which excludes padding, bool [B, T].
        targets: the next item at each decision, in the order of `is_decision`, int64 [R].
        windows: number of decisions of each window, [B].
        before: items that a user had seen before each window, int64 [n] each; none with repeats.
        seen_rows: with `seen_items`, the items of a window that a user had seen before a decision in it. Each pair is
            the index of a decision and an item, int64 [S]; none with repeats.
        seen_items: see `seen_rows`, int64 [S].
    """

    inputs: Tensor
    is_decision: Tensor
    targets: Tensor
    windows: list[int]
    before: list[Tensor]
    seen_rows: Tensor
    seen_items: Tensor

    @classmethod
    def of(cls, histories: Histories, windows: np.ndarray, device: torch.device, repeats: bool = False) -> Self:
        """The batch of windows (user, start, end) of histories, int [B, 3]; a window of one item has no decision.

        With `repeats`, a seen item can be the next one, so none is excluded.
        """
        places = [(histories[user], start, end) for user, start, end in windows.tolist()]
        items = [np.asarray(history[start:end], dtype=np.int64) for history, start, end in places]
        decisions = np.array([max(0, len(part) - 1) for part in items])
        row, column = _ragged(decisions)  # window of each decision, and its position there
        inputs = np.zeros((len(items), max(1, int(decisions.max()))), dtype=np.int64)
        is_decision = np.zeros(inputs.shape, dtype=bool)
        is_decision[row, column] = True
        inputs[row, column] = np.concatenate([part[:-1] for part in items])
        seen_rows, position = _ragged((column + 1) * (not repeats))
        arrays = {
            "inputs": inputs,
            "is_decision": is_decision,
            "targets": np.concatenate([part[1:] for part in items]),
            "seen_rows": seen_rows,
            "seen_items": inputs[row[seen_rows], position],
        }
        before = [
            torch.from_numpy(np.asarray(history[: 0 if repeats else start], dtype=np.int64)).to(device)
            for history, start, _ in places
        ]
        tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        return cls(windows=decisions.tolist(), before=before, **tensors)

    @torch.no_grad()
    def exclude_seen(self, values: Tensor, value: float | bool) -> None:
        """Sets values of all items at each decision, [R, N], to `value` where the user had seen the item, in place.

        Targets keep their values, because a log with repeats can have a target that was seen.
        """
        of_targets = values.gather(1, self.targets[:, None])
        values[self.seen_rows, self.seen_items] = value
        for part, items in zip(values.split(self.windows), self.before, strict=True):
            part.index_fill_(1, items, value)
        values.scatter_(1, self.targets[:, None], of_targets)


def _ragged(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every cell of rows of these lengths, int64 [B] -> two of int64 [sum of lengths]."""
    row = np.repeat(np.arange(len(lengths)), lengths)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


class SequenceModel:
    """A sequential baseline: trained for a fixed number of epochs, of which the best evaluation is kept.

    An exponential moving average of the weights is evaluated `EVALUATIONS` times, at equal distances. Training never
    stops early, because most of the improvement comes late, when the learning rate is low. The result depends on the
    seed alone.

    Args:
        validate: returns the validation NDCG@10 of a scoring function.
        hidden_size: width D of the states.
        num_layers: number of layers of the encoder.
        dropout: dropout probability.
        learning_rate: peak learning rate of AdamW. It rises over the first twentieth of all steps and then follows
            half a cosine.
        epochs: number of passes over the training events.
        window: number of newest items of a history that are read.
        seed: seed of weights, windows and dropout.
        repeats: whether a seen item can be the next one.

    Attributes:
        validation: validation NDCG@10 at each evaluation.
    """

    def __init__(
        self,
        validate: Callable[[Score], float],
        hidden_size: int = 64,
        num_layers: int = 2,
        dropout: float = 0.2,
        learning_rate: float = 3e-3,
        epochs: int = 30,
        window: int = 50,
        seed: int = 0,
        repeats: bool = False,
    ) -> None:
        self.validate = validate
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.window = window
        self.seed = seed
        self.repeats = repeats
        self.validation: list[float] = []

    def make_encoder(self, num_items: int) -> ItemEncoder:
        """A new encoder for a catalogue of N items."""
        raise NotImplementedError

    def loss(self, encoder: ItemEncoder, states: Tensor, batch: Batch) -> Tensor:
        """Mean loss of R decisions, from the states before them, float [R, D]."""
        raise NotImplementedError

    @property
    def still_rises(self) -> bool:
        """Whether the last evaluation was the best."""
        return len(self.validation) > 0 and self.validation[-1] > max(self.validation[:-1], default=-math.inf)

    def fit(self, train_histories: Histories, num_items: int) -> Self:
        """Trains the encoder and keeps the evaluation that was best on validation."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            histories = Ragged.of(train_histories)
            self._fit(histories.select(np.flatnonzero(histories.lengths > 1)), num_items)
        return self

    def _fit(self, histories: Ragged, num_items: int) -> None:
        rng = np.random.default_rng(self.seed)
        encoder = self.make_encoder(num_items).to(own_device())
        average = AveragedModel(encoder, multi_avg_fn=_average)
        optimizer = torch.optim.AdamW(encoder.parameters(), self.learning_rate, betas=(0.9, 0.98), fused=True)
        total_steps = self.epochs * math.ceil(len(cut_windows(histories, self.window, rng)) / BATCH_SIZE)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_share_of_peak, total_steps=total_steps))
        evaluated = {math.ceil(total_steps * (number + 1) / EVALUATIONS) for number in range(EVALUATIONS)}
        self.validation = []
        self.encoder = cast(ItemEncoder, average.module)
        best = self._copy_of_state()
        for step, batch in enumerate(self._batches(histories, rng, encoder.bias.device), 1):
            encoder.train()
            loss = self.loss(encoder, encoder(batch.inputs)[batch.is_decision], batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(encoder)
            if step in evaluated:
                self.validation.append(self.validate(self.scores))
                if self.still_rises:
                    best = self._copy_of_state()
        self.encoder.load_state_dict(best)

    def _batches(self, histories: Ragged, rng: np.random.Generator, device: torch.device) -> Iterator[Batch]:
        for _ in range(self.epochs):
            windows = cut_windows(histories, self.window, rng)
            for start in range(0, len(windows), BATCH_SIZE):
                yield Batch.of(histories, windows[start : start + BATCH_SIZE], device, self.repeats)

    def _copy_of_state(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.encoder.state_dict().items()}

    @torch.no_grad()
    def scores(self, histories: Histories) -> np.ndarray:
        """Logits of all items after each of B histories, float32 [B, N]; the biases alone if a history is empty."""
        self.encoder.eval()
        newest = [np.asarray(history, dtype=np.int64)[-self.window :] for history in histories]
        lengths = torch.tensor([len(history) for history in newest])
        items = np.zeros((len(newest), max(1, int(lengths.max()))), dtype=np.int64)
        for row, history in enumerate(newest):
            items[row, : len(history)] = history
        states = self.encoder(torch.from_numpy(items).to(self.encoder.bias.device))
        last = states[torch.arange(len(newest)), (lengths - 1).clamp(min=0)]
        last[lengths == 0] = 0.0
        return self.encoder.logits(last).float().cpu().numpy()


def _average(averages: PARAM_LIST, weights: PARAM_LIST, updates: Tensor | int) -> None:
    """Moves averages towards weights, in place, by the rule of PPO's average of weights.

    After n updates at most (1 + n) / (10 + n) of an average is kept, so the initial weights lose influence quickly.
    """
    keep = min(EMA_DECAY, (1 + int(updates)) / (10 + int(updates)))
    torch._foreach_lerp_(averages, weights, 1 - keep)  # pyright: ignore[reportPrivateImportUsage]


def _share_of_peak(step: int, total_steps: int) -> float:
    """The learning rate of a step as a share of the peak. The first step has a twentieth of the peak."""
    warmup_steps = WARMUP_SHARE * total_steps
    return warmup_cosine(step, total_steps, warmup_steps, first_step=0.05 * warmup_steps)

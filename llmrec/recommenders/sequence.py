"""The training loop that all sequential baselines share; SASRec, GRU4Rec and gSASRec add an encoder and a loss.

Their only input is the order of item ids: no titles, no profiles, no purchases.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel

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
        seen_rows: with `seen_items`, the items that a user had seen before a decision, also those before the window.
            Each pair is the index of a decision and an item, int64 [S]. Targets are not among them.
        seen_items: see `seen_rows`, int64 [S].
    """

    inputs: Tensor
    is_decision: Tensor
    targets: Tensor
    seen_rows: Tensor
    seen_items: Tensor

    @classmethod
    def of(cls, histories: Histories, windows: Sequence[tuple[int, int, int]], device: torch.device) -> Self:
        """The batch of windows (user, start, end) of histories; a window of one item has no decision."""
        _, starts, ends = np.array(windows, dtype=np.int64).T
        seen = np.concatenate([histories[user][:end] for user, _, end in windows]).astype(np.int64)
        first = np.cumsum(ends) - ends  # index in `seen` of the first item of each window's history
        row, column = _ragged(ends - starts - 1)  # window of each decision, and its position there
        lengths = starts[row] + column + 1  # items that were seen before each decision
        inputs = np.zeros((len(windows), max(1, int((ends - starts).max()) - 1)), dtype=np.int64)
        is_decision = np.zeros(inputs.shape, dtype=bool)
        inputs[row, column] = seen[first[row] + lengths - 1]
        is_decision[row, column] = True
        targets = seen[first[row] + lengths]
        seen_rows, position = _ragged(lengths)
        seen_items = seen[first[row[seen_rows]] + position]
        is_other = seen_items != targets[seen_rows]  # a log with repeats can have a target that was seen
        arrays = (inputs, is_decision, targets, seen_rows[is_other], seen_items[is_other])
        return cls(*(torch.from_numpy(array).to(device) for array in arrays))


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
    ) -> None:
        self.validate = validate
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.window = window
        self.seed = seed
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
            self._fit([history for history in train_histories if len(history) > 1], num_items)
        return self

    def _fit(self, histories: list[np.ndarray], num_items: int) -> None:
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

    def _batches(self, histories: list[np.ndarray], rng: np.random.Generator, device: torch.device) -> Iterator[Batch]:
        for _ in range(self.epochs):
            windows = cut_windows(histories, self.window, rng)
            for start in range(0, len(windows), BATCH_SIZE):
                yield Batch.of(histories, windows[start : start + BATCH_SIZE], device)

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

"""SASRec, the sequential baseline: a small causal transformer over item ids (Kang & McAuley, ICDM 2018).

It is trained with the softmax over the whole catalogue, which makes it competitive with later models (Klenitskiy &
Vasilev, RecSys 2023). Its only input is the order of item ids: no titles, no profiles, no purchases.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmrec.data.windows import cut_windows
from llmrec.recommenders.protocol import Histories, Score
from llmrec.recommenders.schedule import warmup_cosine

BATCH_SIZE = 32  # windows per optimizer step
WARMUP_SHARE = 0.05  # of all steps


class Encoder(nn.Module):
    """Item and position embeddings, and pre-norm transformer blocks with a causal mask.

    Args:
        num_items: size N of the catalogue.
        hidden_size: width D. Heads are 32 wide, or the next larger width that divides D.
        num_layers: number of transformer blocks.
        dropout: dropout probability of the embeddings and inside the blocks.
        window: largest sequence length T.
    """

    def __init__(self, num_items: int, hidden_size: int, num_layers: int, dropout: float, window: int) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items, hidden_size)
        self.positions = nn.Embedding(window, hidden_size)
        self.bias = nn.Parameter(torch.zeros(num_items))
        self.dropout = nn.Dropout(dropout)
        heads = next(count for count in range(max(1, hidden_size // 32), 0, -1) if hidden_size % count == 0)
        block = nn.TransformerEncoderLayer(
            hidden_size, heads, 2 * hidden_size, dropout, "gelu", batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(hidden_size)
        self.blocks = nn.TransformerEncoder(block, num_layers, norm, enable_nested_tensor=False)
        for embedding in (self.items, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, items: Tensor) -> Tensor:
        """State after each item: item indices int64 [B, T], padded on the right -> float [B, T, D]."""
        length = items.shape[1]
        x = self.dropout(self.items(items) + self.positions.weight[:length])
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=items.device)
        return self.blocks(x, mask=mask, is_causal=True)

    def logits(self, states: Tensor) -> Tensor:
        """Logits of all items as the next one, [..., D] -> [..., N]. The output embedding is the input embedding."""
        return F.linear(states, self.items.weight, self.bias)


class SASRec:
    """The baseline: trained for a fixed number of epochs, of which the best on validation is kept.

    Training never stops early, because most of the improvement comes late, when the learning rate is low. The result
    depends on the seed alone.

    Args:
        validate: returns the validation NDCG@10 of a scoring function; called after every epoch.
        hidden_size: see `Encoder`.
        num_layers: see `Encoder`.
        dropout: see `Encoder`.
        learning_rate: peak learning rate of AdamW. It rises over the first twentieth of all steps and then follows
            half a cosine.
        epochs: number of passes over the training events.
        window: number of newest items of a history that are read.
        seed: seed of weights, windows and dropout.

    Attributes:
        validation: validation NDCG@10 after each epoch.
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

    def fit(self, train_histories: Histories, num_items: int) -> Self:
        """Trains the encoder and restores the epoch that was best on validation."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._fit([history for history in train_histories if len(history) > 1], num_items)
        return self

    def _fit(self, histories: list[np.ndarray], num_items: int) -> None:
        rng = np.random.default_rng(self.seed)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        encoder = Encoder(num_items, self.hidden_size, self.num_layers, self.dropout, self.window)
        self.encoder = encoder.to(device)
        optimizer = torch.optim.AdamW(self.encoder.parameters(), self.learning_rate, betas=(0.9, 0.98))
        steps_per_epoch = math.ceil(len(cut_windows(histories, self.window, rng)) / BATCH_SIZE)
        share_of_peak = partial(_share_of_peak, total_steps=max(1, self.epochs * steps_per_epoch))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_peak)
        self.validation = []
        best = self._copy_of_state()
        for _ in range(self.epochs):
            self.encoder.train()
            windows = cut_windows(histories, self.window, rng)
            for start in range(0, len(windows), BATCH_SIZE):
                loss = self._loss(histories, windows[start : start + BATCH_SIZE])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
                optimizer.step()
                schedule.step()
            self.validation.append(self.validate(self.scores))
            if self.validation[-1] > max(self.validation[:-1], default=-math.inf):
                best = self._copy_of_state()
        self.encoder.load_state_dict(best)

    def _loss(self, histories: Histories, windows: Sequence[tuple[int, int, int]]) -> Tensor:
        """Mean cross-entropy of every next item in the windows (user, start, end), in nats."""
        device = self.encoder.bias.device
        width = max(2, *(end - start for _, start, end in windows))
        items = np.zeros((len(windows), width), dtype=np.int64)
        mask = np.zeros((len(windows), width - 1), dtype=bool)
        for row, (user, start, end) in enumerate(windows):
            items[row, : end - start] = histories[user][start:end]
            mask[row, : end - start - 1] = True
        batch = torch.from_numpy(items).to(device)
        valid = torch.from_numpy(mask).to(device)
        logits = self.encoder.logits(self.encoder(batch[:, :-1])[valid])
        return F.cross_entropy(logits, batch[:, 1:][valid])

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


def _share_of_peak(step: int, total_steps: int) -> float:
    """The learning rate of a step as a share of the peak. The first step has a twentieth of the peak."""
    warmup_steps = WARMUP_SHARE * total_steps
    return warmup_cosine(step, total_steps, warmup_steps, first_step=0.05 * warmup_steps)

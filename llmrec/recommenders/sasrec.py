"""SASRec, the sequential baseline: a small causal transformer over item ids (Kang & McAuley, ICDM 2018), trained with
the softmax over the whole catalogue, which makes it as good as later models (Klenitskiy & Vasilev, RecSys 2023).

It reads nothing but the order of item ids: no titles, no profiles, no purchases.
"""

import math
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmrec.data.windows import cut_windows

Score = Callable[[Sequence[np.ndarray]], np.ndarray]  # histories [B] -> float [B, N]


class Encoder(nn.Module):
    """Item and position embeddings, and pre-norm transformer blocks under a causal mask.

    Args:
        num_items: size N of the catalogue.
        hidden_size: width D; the heads are 32 wide, or the next larger width that divides it.
        num_layers: blocks.
        dropout: on the embeddings and inside the blocks.
        window: longest sequence T.
    """

    def __init__(self, num_items: int, hidden_size: int, num_layers: int, dropout: float, window: int):
        super().__init__()
        self.items = nn.Embedding(num_items, hidden_size)
        self.places = nn.Embedding(window, hidden_size)
        self.bias = nn.Parameter(torch.zeros(num_items))
        self.dropout = nn.Dropout(dropout)
        heads = next(count for count in range(max(1, hidden_size // 32), 0, -1) if hidden_size % count == 0)
        block = nn.TransformerEncoderLayer(
            hidden_size, heads, 2 * hidden_size, dropout, "gelu", batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(hidden_size)
        self.blocks = nn.TransformerEncoder(block, num_layers, norm, enable_nested_tensor=False)
        for embedding in (self.items, self.places):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, items: Tensor) -> Tensor:
        """State after each item: int64 [B, T], left-aligned -> [B, T, D]."""
        length = items.shape[1]
        x = self.dropout(self.items(items) + self.places.weight[:length])
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=items.device)
        return self.blocks(x, mask=mask, is_causal=True)

    def logits(self, states: Tensor) -> Tensor:
        """Scores of all items as the next, [..., D] -> [..., N]; the output embedding is the input's."""
        return F.linear(states, self.items.weight, self.bias)


class SASRec:
    """The baseline: the epoch that is best on validation, deterministic by its seed.

    It is never stopped early: most of what it learns comes when the learning rate is low.

    Args:
        validate: NDCG@10 on validation of a scoring function, higher is better; asked after every epoch.
        hidden_size, num_layers, dropout: see `Encoder`.
        learning_rate: peak of AdamW's; it rises over the first twentieth and falls along half a cosine.
        epochs: passes over the training events.
        window: newest items of a history that are read.
        seed: of weights, windows and dropout.

    Attributes:
        validation: NDCG@10 on validation after each epoch.
    """

    BATCH = 32  # windows a step

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
    ):
        self.validate, self.learning_rate = validate, learning_rate
        self.shape = {"hidden_size": hidden_size, "num_layers": num_layers, "dropout": dropout, "window": window}
        self.epochs, self.seed = epochs, seed

    def fit(self, train_histories: Sequence[np.ndarray], num_items: int) -> Self:
        """Trains, and goes back to the epoch that was best on validation."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._fit([history for history in train_histories if len(history) > 1], num_items)
        return self

    def _fit(self, histories: list[np.ndarray], num_items: int) -> None:
        rng = np.random.default_rng(self.seed)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.encoder = Encoder(num_items, **self.shape).to(device)
        optimizer = torch.optim.AdamW(self.encoder.parameters(), self.learning_rate, betas=(0.9, 0.98))
        steps = max(1, self.epochs * math.ceil(len(cut_windows(histories, self.shape["window"], rng)) / self.BATCH))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_peak(step / steps))
        self.validation: list[float] = []
        best = self._copied_state()
        for _ in range(self.epochs):
            self.encoder.train()
            pieces = cut_windows(histories, self.shape["window"], rng)
            for start in range(0, len(pieces), self.BATCH):
                loss = self._loss(histories, pieces[start : start + self.BATCH])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
                optimizer.step()
                schedule.step()
            self.validation.append(self.validate(self.scores))
            if self.validation[-1] > max(self.validation[:-1], default=-math.inf):
                best = self._copied_state()
        self.encoder.load_state_dict(best)

    def _loss(self, histories: Sequence[np.ndarray], pieces: Sequence[tuple[int, int, int]]) -> Tensor:
        """Mean cross-entropy, nats, of each next item of windows (user, start, end)."""
        device = self.encoder.bias.device
        width = max(2, *(end - start for _, start, end in pieces))
        items = np.zeros((len(pieces), width), dtype=np.int64)
        mask = np.zeros((len(pieces), width - 1), dtype=bool)
        for row, (user, start, end) in enumerate(pieces):
            items[row, : end - start] = histories[user][start:end]
            mask[row, : end - start - 1] = True
        batch, valid = torch.from_numpy(items).to(device), torch.from_numpy(mask).to(device)
        logits = self.encoder.logits(self.encoder(batch[:, :-1])[valid])
        return F.cross_entropy(logits, batch[:, 1:][valid])

    def _copied_state(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.encoder.state_dict().items()}

    @torch.no_grad()
    def scores(self, histories: Sequence[np.ndarray]) -> np.ndarray:
        """[B] histories -> [B, N] logits; without a history, what is popular (the bias)."""
        self.encoder.eval()
        newest = [np.asarray(history, dtype=np.int64)[-self.shape["window"] :] for history in histories]
        lengths = torch.tensor([len(history) for history in newest])
        items = np.zeros((len(newest), max(1, int(lengths.max()))), dtype=np.int64)
        for row, history in enumerate(newest):
            items[row, : len(history)] = history
        states = self.encoder(torch.from_numpy(items).to(self.encoder.bias.device))
        last = states[torch.arange(len(newest)), (lengths - 1).clamp(min=0)]
        last[lengths == 0] = 0.0
        return self.encoder.logits(last).float().cpu().numpy()


def _share_of_peak(progress: float) -> float:
    """Of the learning rate, at a share of the run: a linear rise, then half a cosine down to a twentieth."""
    return min(1.0, 20 * progress + 0.05) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))

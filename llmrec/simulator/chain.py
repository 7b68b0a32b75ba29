"""Tastes as a factorized personal Markov chain: what a user takes next depends on the user and on the last clicks.

Source: Rendle, Freudenthaler & Schmidt-Thieme, Factorizing Personalized Markov Chains, WWW 2010, here with the softmax
over the whole catalogue.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from llmrec.simulator.events import Choices, LogFacts
from llmrec.simulator.tastes import Moments

BATCH = 512
EPOCHS = 10
LEARNING_RATE = 6e-3
WEIGHT_DECAY = 2e-5
DROPOUT = 0.3
WIDTH = 48


@dataclass(frozen=True)
class ChainTastes:
    """Utility of item i for user u after t clicks, the last ones h: b_i + p_u q_i + (mean of m_j, j in h) n_i + drift.

    The drift is a number times log(1 + t) times the log-popularity of i: people take popular items first.

    Attributes:
        users: p, float32 [U, d].
        items: q, float32 [N, d].
        before: m, the last row is zero and stands for no click, float32 [N + 1, d].
        after: n, float32 [N, d].
        bias: b, float32 [N].
        drift: the number of the drift times the log-popularity of each item, float32 [N].
    """

    users: np.ndarray
    items: np.ndarray
    before: np.ndarray
    after: np.ndarray
    bias: np.ndarray
    drift: np.ndarray
    family: ClassVar[str] = "chain"

    @property
    def num_items(self) -> int:
        """Number N of items."""
        return len(self.items)

    def utilities(self, at: Moments, items: np.ndarray) -> np.ndarray:
        """Utilities of some items, float32 [n, K]; see `Tastes`."""
        taste = np.einsum("nd,nkd->nk", self.users[at.users], self.items[items])
        context = np.einsum("nd,nkd->nk", self._context(at.recent), self.after[items])
        return taste + context + self.bias[items] + _log_taken(at)[:, None] * self.drift[items]

    def all_utilities(self, at: Moments) -> np.ndarray:
        """Utilities of all items, float32 [n, N]; see `Tastes`."""
        taste = self.users[at.users] @ self.items.T
        return taste + self._context(at.recent) @ self.after.T + self.bias + _log_taken(at)[:, None] * self.drift

    def _context(self, recent: np.ndarray) -> np.ndarray:
        """Mean of m over the clicks of each row, float32 [n, d]."""
        count = np.maximum((recent < self.num_items).sum(axis=1, keepdims=True), 1)
        return self.before[recent].sum(axis=1) / count.astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are saved, by name."""
        return {name: getattr(self, name) for name in ("users", "items", "before", "after", "bias", "drift")}


def _log_taken(at: Moments) -> np.ndarray:
    return np.log1p(at.taken).astype(np.float32)


class _Chain(nn.Module):
    """The same utilities with gradients."""

    log_popularity: torch.Tensor

    def __init__(self, num_users: int, counts: np.ndarray) -> None:
        super().__init__()
        num_items = len(counts)
        self.users = nn.Embedding(num_users, WIDTH)
        self.items = nn.Embedding(num_items, WIDTH)
        self.before = nn.Embedding(num_items + 1, WIDTH, padding_idx=num_items)
        self.after = nn.Embedding(num_items, WIDTH)
        self.bias = nn.Parameter(torch.from_numpy(np.log(counts + 0.5)).float())
        self.drift = nn.Parameter(torch.zeros(1))
        self.register_buffer("log_popularity", self.bias.detach() - self.bias.detach().mean())
        self.dropout = nn.Dropout(DROPOUT)
        for table in (self.users, self.items, self.before, self.after):
            nn.init.normal_(table.weight, std=0.1)
        with torch.no_grad():
            self.before.weight[num_items] = 0.0

    def forward(self, users: torch.Tensor, recent: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
        count = (recent < self.items.num_embeddings).sum(dim=1, keepdim=True).clamp(min=1)
        context = self.before(recent).sum(dim=1) / count
        taste = self.dropout(self.users(users)) @ self.items.weight.T
        drift = torch.log1p(taken.float())[:, None] * (self.drift * self.log_popularity)
        return self.bias + taste + self.dropout(context) @ self.after.weight.T + drift

    def export(self) -> ChainTastes:
        """The utilities without torch."""
        drift = self.drift * self.log_popularity
        tables = (self.users.weight, self.items.weight, self.before.weight, self.after.weight, self.bias, drift)
        return ChainTastes(*(table.detach().numpy().astype(np.float32).copy() for table in tables))


def fit_chain(train: Choices, valid: Choices, facts: LogFacts, seed: int) -> ChainTastes:
    """Fits the chain by maximum likelihood: `valid` chooses the number of epochs, then both parts are fitted again.

    Args:
        train: choices that are fitted.
        valid: choices after them that choose the number of epochs.
        facts: which items a user had taken, and how tired of them, at each choice.
        seed: seed of the start and of the batches.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        values = []
        for model in _epochs(train, facts, EPOCHS):
            with torch.no_grad():
                values.append(float(_log_likelihood(model, valid, facts).mean()))
        torch.manual_seed(seed)
        *_, model = _epochs(train.joined(valid), facts, 1 + int(np.argmax(values)))
        return model.export()


def _epochs(fitted: Choices, facts: LogFacts, epochs: int) -> Iterator[_Chain]:
    """Yields the model in evaluation mode after each epoch of training."""
    model = _Chain(facts.num_users, np.bincount(fitted.items, minlength=facts.num_items))
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for _ in range(epochs):
        model.train()
        for batch in torch.randperm(len(fitted)).split(BATCH):
            loss = -_log_likelihood(model, fitted.part(batch.numpy()), facts).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield model.eval()


def _log_likelihood(model: _Chain, chosen: Choices, facts: LogFacts) -> torch.Tensor:
    """Log-probability of each choice among the items that the user had not taken before, [M]."""
    scores = model(*(torch.from_numpy(values) for values in (chosen.users, chosen.recent, chosen.positions)))
    scores = scores - torch.from_numpy(facts.loss(chosen))
    scores = scores.masked_fill(torch.from_numpy(facts.seen(chosen)), -1e9)
    return -F.cross_entropy(scores, torch.from_numpy(chosen.items), reduction="none")

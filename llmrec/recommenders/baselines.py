"""Baselines that take seconds to fit. A learned recommender that does not beat them has learned nothing of use.

Each has `fit(train_histories, num_items)` (histories: item indices in time order, one array a user) and
`scores(histories) -> float32 [B, N]`, higher is better; items of the history are scored like all others and
must be excluded by the caller (`metrics.ranks`).
"""

from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np

from llmrec.catalogue.cooccurrence import cooccurrence
from reward_models.judge import ease_weights

Histories = Sequence[np.ndarray]


class Baseline(Protocol):
    """What the evaluation needs of a baseline."""

    def fit(self, train_histories: Histories, num_items: int) -> Self: ...

    def scores(self, histories: Histories) -> np.ndarray: ...


def _counts(histories: Histories, num_items: int) -> np.ndarray:
    """How often each item occurs, float64 [N]."""
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *histories]), minlength=num_items).astype(np.float64)


class Popularity:
    """Every item by its number of training clicks, the same for everybody."""

    def fit(self, train_histories: Histories, num_items: int) -> Self:
        self.counts = _counts(train_histories, num_items).astype(np.float32)
        return self

    def scores(self, histories: Histories) -> np.ndarray:
        """[B] histories -> [B, N] clicks."""
        return np.tile(self.counts, (len(histories), 1))


class Markov:
    """First-order transitions from the last few items, the newest counting most, filled up by popularity.

    score(j) = sum_k decay^k C[i_k, j] / (sum_j C[i_k, j] + smoothing) + fill P(j), where i_0 is the newest
    item and C counts j at distance d after i with weight decay^(d - 1), d <= `context`.

    Args:
        context: items looked back at.
        decay: weight of one more step of distance.
        smoothing: transitions of an average item, so that an item seen once is not trusted.
        fill: weight of popularity P(j).
    """

    def __init__(self, context: int = 10, decay: float = 0.8, smoothing: float = 30.0, fill: float = 0.1):
        self.context, self.decay, self.smoothing, self.fill = context, decay, smoothing, fill

    def fit(self, train_histories: Histories, num_items: int) -> Self:
        transitions = np.zeros((num_items, num_items), dtype=np.float32)
        for distance in range(1, self.context + 1):
            pairs = [
                (history[:-distance], history[distance:]) for history in train_histories if len(history) > distance
            ]
            if pairs:
                before, after = map(np.concatenate, zip(*pairs, strict=True))
                np.add.at(transitions, (before, after), np.float32(self.decay ** (distance - 1)))
        self.transitions = transitions / (transitions.sum(1, keepdims=True) + self.smoothing)
        counts = _counts(train_histories, num_items)
        self.popularity = (counts / max(1.0, counts.sum())).astype(np.float32)
        return self

    def scores(self, histories: Histories) -> np.ndarray:
        """[B] histories -> [B, N]."""
        result = np.tile(self.fill * self.popularity, (len(histories), 1))
        for row, history in enumerate(histories):
            for back, item in enumerate(history[::-1][: self.context]):
                result[row] += self.decay**back * self.transitions[item]
        return result


class ItemKNN:
    """Neighbours of the items of a history by shrunk cosine (Sarwar et al., WWW 2001; shrinkage: Bell & Koren, KDD Cup
    2007): score(j) = sum over i in the history of s_ij, s_ij = n_ij / (sqrt(n_i n_j) + shrinkage), where n counts users
    and of each column j the `neighbours` largest s_ij count.

    Args:
        neighbours: items i that speak for one item j.
        shrinkage: users; takes weight from similarities that rest on few.
    """

    def __init__(self, neighbours: int = 100, shrinkage: float = 10.0):
        self.neighbours, self.shrinkage = neighbours, shrinkage

    def fit(self, train_histories: Histories, num_items: int) -> Self:
        together = cooccurrence(train_histories, num_items, "users").numpy()
        users = np.diag(together)
        similar = together / np.maximum(np.sqrt(np.outer(users, users)) + self.shrinkage, 1e-12)
        np.fill_diagonal(similar, 0.0)
        if self.neighbours < num_items:
            weakest = np.partition(similar, -self.neighbours, axis=0)[-self.neighbours]
            similar[similar < weakest] = 0.0
        self.weights = similar.astype(np.float32)
        return self

    def scores(self, histories: Histories) -> np.ndarray:
        """[B] histories -> [B, N]."""
        return _sums_of_rows(self.weights, histories)


class EASE:
    """Linear item-item autoencoder in closed form (Steck, Embarrassingly Shallow Autoencoders, WWW 2019).

    Time N^3, memory N^2: for catalogues up to some 20 thousand items.

    Args:
        l2: regularisation, in users.
    """

    def __init__(self, l2: float = 100.0):
        self.l2 = l2

    def fit(self, train_histories: Histories, num_items: int) -> Self:
        self.weights = ease_weights(train_histories, num_items, self.l2)
        return self

    def scores(self, histories: Histories) -> np.ndarray:
        """[B] histories -> [B, N]."""
        return _sums_of_rows(self.weights, histories)


def _sums_of_rows(weights: np.ndarray, histories: Histories) -> np.ndarray:
    """Sum of the rows of an item-item matrix [N, N] that each history names, float32 [B, N]."""
    had = np.zeros((len(histories), len(weights)), dtype=np.float32)
    for row, history in enumerate(histories):
        had[row, history] = 1.0
    return had @ weights

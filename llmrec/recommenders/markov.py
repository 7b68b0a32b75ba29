"""Markov: the baseline that predicts the next item from transitions between the last few items."""

from typing import Self

import numpy as np
from scipy import sparse

from llmrec.recommenders.bags import bags
from llmrec.recommenders.popularity import item_counts
from llmrec.recommenders.protocol import Histories


class Markov:
    """Item-to-item transitions from the newest items of a history, plus a small share of popularity.

    score(j) = sum_k decay^k C[i_k, j] / (sum_j C[i_k, j] + smoothing) + popularity_weight P(j). Item i_0 is the newest
    of the history. C[i, j] counts how often j follows i at a distance d of at most `context`, with weight
    decay^(d - 1). P(j) is the share of training clicks on item j.

    Args:
        context: number of newest items that are used.
        decay: factor by which the weight falls with each step of distance.
        smoothing: pseudo-count added to the transitions of each item, which shrinks the scores of rare items.
        popularity_weight: weight of P(j).
    """

    def __init__(
        self, context: int = 10, decay: float = 0.8, smoothing: float = 30.0, popularity_weight: float = 0.1
    ) -> None:
        self.context = context
        self.decay = decay
        self.smoothing = smoothing
        self.popularity_weight = popularity_weight

    def fit(self, train_histories: Histories, num_items: int) -> Self:
        """Counts the transitions of training histories. Memory grows with the number of distinct pairs."""
        counts = sparse.csr_array((num_items, num_items), dtype=np.float64)
        for distance in range(1, self.context + 1):
            counts += self.decay ** (distance - 1) * _counts(train_histories, num_items, distance)
        totals = np.maximum(counts.sum(axis=1) + self.smoothing, 1e-12)
        self.transitions = sparse.csr_array(sparse.diags_array(1 / totals) @ counts, dtype=np.float32)
        clicks = item_counts(train_histories, num_items)
        self.popularity = (clicks / max(1.0, clicks.sum())).astype(np.float32)
        return self

    def scores(self, histories: Histories) -> np.ndarray:
        """Scores of all items after each of B histories, float32 [B, N]."""
        newest = bags(histories, len(self.popularity), self.context, self.decay)
        followers = sparse.csr_array(newest @ self.transitions, dtype=np.float32)
        return followers.toarray() + np.float32(self.popularity_weight) * self.popularity


def _counts(histories: Histories, num_items: int, distance: int) -> sparse.csr_array:
    """How often item j stands `distance` positions after item i, float64 [N, N]."""
    empty = np.zeros(0, np.int64)
    before = np.concatenate([empty, *(history[:-distance] for history in histories)])
    after = np.concatenate([empty, *(history[distance:] for history in histories)])
    return sparse.csr_array((np.ones(len(before)), (before, after)), shape=(num_items, num_items))

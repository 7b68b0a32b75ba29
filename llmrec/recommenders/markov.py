"""Markov: the baseline that predicts the next item from transitions between the last few items."""

from typing import Self

import numpy as np

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
        """Counts the transitions of training histories. Memory is N^2."""
        transitions = np.zeros((num_items, num_items), dtype=np.float32)
        for distance in range(1, self.context + 1):
            long_enough = [history for history in train_histories if len(history) > distance]
            if long_enough:
                before = np.concatenate([history[:-distance] for history in long_enough])
                after = np.concatenate([history[distance:] for history in long_enough])
                np.add.at(transitions, (before, after), np.float32(self.decay ** (distance - 1)))
        self.transitions = transitions / (transitions.sum(1, keepdims=True) + self.smoothing)
        counts = item_counts(train_histories, num_items)
        self.popularity = (counts / max(1.0, counts.sum())).astype(np.float32)
        return self

    def scores(self, histories: Histories) -> np.ndarray:
        """Scores of all items after each of B histories, float32 [B, N]."""
        result = np.tile(self.popularity_weight * self.popularity, (len(histories), 1))
        for row, history in enumerate(histories):
            for steps_back, item in enumerate(history[::-1][: self.context]):
                result[row] += self.decay**steps_back * self.transitions[item]
        return result

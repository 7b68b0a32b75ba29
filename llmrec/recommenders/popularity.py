"""Popularity: the baseline that ranks items by their number of training clicks, the same for every user."""

from typing import Self

import numpy as np

from llmrec.data.ragged import Ragged
from llmrec.recommenders.protocol import Histories


class Popularity:
    """Scores each item by its number of training clicks."""

    def fit(self, train_histories: Histories, num_items: int) -> Self:
        """Counts the clicks of training histories."""
        self.counts = item_counts(train_histories, num_items).astype(np.float32)
        return self

    def scores(self, histories: Histories) -> np.ndarray:
        """Clicks of all items, repeated for each of B histories, float32 [B, N]."""
        return np.tile(self.counts, (len(histories), 1))


def item_counts(histories: Histories, num_items: int) -> np.ndarray:
    """How often each item occurs in the histories, float64 [N]."""
    counts = np.zeros(num_items)
    for part in Ragged.of(histories).parts():
        counts += np.bincount(part.flat(), minlength=num_items)
    return counts

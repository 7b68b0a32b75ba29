"""The interface that all baselines share."""

from collections.abc import Callable, Sequence
from typing import Protocol, Self

import numpy as np

Histories = Sequence[np.ndarray]  # item indices of each user, oldest first
Score = Callable[[Histories], np.ndarray]  # B histories -> scores of all items, float [B, N], higher is better


class Fitted(Protocol):
    """A fitted recommender that scores all items after a history."""

    def scores(self, histories: Histories) -> np.ndarray:
        """Scores all items after each history.

        Args:
            histories: item indices of B users, oldest first; a history may be empty.

        Returns:
            float [B, N], higher is better. Seen items are scored as well; the caller excludes them.
        """
        ...


class Baseline(Fitted, Protocol):
    """A recommender that is fitted on training histories."""

    def fit(self, train_histories: Histories, num_items: int) -> Self:
        """Fits the recommender.

        Args:
            train_histories: item indices of each user, oldest first; training events only.
            num_items: number N of items in the catalogue.
        """
        ...

"""EASE, a linear item-item model in closed form (Steck, Embarrassingly Shallow Autoencoders, WWW 2019)."""

from collections.abc import Iterable
from typing import Self

import numpy as np

from llmrec.catalogue.cooccurrence import cooccurrence
from llmrec.recommenders.bags import distinct_bags
from llmrec.recommenders.popularity import item_counts
from llmrec.recommenders.protocol import Histories

MAX_ITEMS = 8_000  # largest number of items of the dense matrix that is inverted


def ease_weights(histories: Iterable[np.ndarray], num_items: int, l2: float) -> np.ndarray:
    """Weights B of EASE: argmin |X - XB|^2 + l2 |B|^2 with a zero diagonal (Steck, 2019, eq. 8).

    Args:
        histories: item indices of each user.
        num_items: number N of items.
        l2: L2 regularization, in users.

    Returns:
        float32 [N, N]. The scores of a history are the sum of the rows of its items.
    """
    gram = cooccurrence(histories, num_items, "users").numpy()
    gram[np.diag_indices(num_items)] += l2
    inverse = np.linalg.inv(gram)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights.astype(np.float32)


class EASE:
    """The baseline: scores are the sums of `ease_weights` over a history.

    Fitting takes time K^3 and memory K^2, where K is the number of covered items. Items that are not covered contribute
    nothing and score 0.

    Args:
        l2: L2 regularization, in users.
        max_items: largest number of covered items; the most clicked are covered.
    """

    def __init__(self, l2: float = 100.0, max_items: int = MAX_ITEMS) -> None:
        self.l2 = l2
        self.max_items = max_items

    def fit(self, train_histories: Histories, num_items: int) -> Self:
        """Computes the weights from training histories."""
        self.num_items = num_items
        clicks = item_counts(train_histories, num_items)
        self.covered = np.sort(np.argsort(-clicks, kind="stable")[: self.max_items])
        row_of_item = np.full(num_items, -1)
        row_of_item[self.covered] = np.arange(len(self.covered))
        rows = (row_of_item[history] for history in train_histories)
        self.weights = ease_weights((row[row >= 0] for row in rows), len(self.covered), self.l2)
        return self

    def scores(self, histories: Histories) -> np.ndarray:
        """Scores of all items after each of B histories, float32 [B, N]."""
        result = np.zeros((len(histories), self.num_items), dtype=np.float32)
        result[:, self.covered] = distinct_bags(histories, self.num_items)[:, self.covered] @ self.weights
        return result

"""EASE, a linear item-item model in closed form (Steck, Embarrassingly Shallow Autoencoders, WWW 2019)."""

from typing import Self

import numpy as np

from llmrec.catalogue.cooccurrence import cooccurrence
from llmrec.data.seen_mask import seen_mask
from llmrec.recommenders.protocol import Histories


def ease_weights(histories: Histories, num_items: int, l2: float) -> np.ndarray:
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


def sums_of_rows(weights: np.ndarray, histories: Histories) -> np.ndarray:
    """Sums the rows of an item-item matrix over the items of each history.

    Args:
        weights: item-item matrix, [N, N].
        histories: item indices of each user, [B] histories of any length.

    Returns:
        scores of all items, float32 [B, N].
    """
    return seen_mask(histories, len(weights)).astype(np.float32) @ weights


class EASE:
    """The baseline: scores are the sums of `ease_weights` over a history.

    Fitting takes time N^3 and memory N^2, so it suits catalogues of up to about 20,000 items.

    Args:
        l2: L2 regularization, in users.
    """

    def __init__(self, l2: float = 100.0) -> None:
        self.l2 = l2

    def fit(self, train_histories: Histories, num_items: int) -> Self:
        """Computes the weights from training histories."""
        self.weights = ease_weights(train_histories, num_items, self.l2)
        return self

    def scores(self, histories: Histories) -> np.ndarray:
        """Scores of all items after each of B histories, float32 [B, N]."""
        return sums_of_rows(self.weights, histories)

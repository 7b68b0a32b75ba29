"""Item kNN: the baseline that recommends the items most similar to those of the history."""

from typing import Self

import numpy as np

from llmrec.catalogue.cooccurrence import cooccurrence
from llmrec.recommenders.ease import sums_of_rows
from llmrec.recommenders.protocol import Histories


class ItemKNN:
    """Nearest neighbors of items by shrunk cosine similarity.

    score(j) = sum of s_ij over the items i of the history, with s_ij = n_ij / (sqrt(n_i n_j) + shrinkage). n_i counts
    the users who have item i, and n_ij those who have both. Only the `neighbors` largest s_ij of each item j count.
    Source: Sarwar et al., WWW 2001; the shrinkage is that of Bell & Koren, KDD Cup 2007.

    Args:
        neighbors: number of similar items i that contribute to the score of an item j.
        shrinkage: number of users; it lowers similarities that rest on few users.
    """

    def __init__(self, neighbors: int = 100, shrinkage: float = 10.0) -> None:
        self.neighbors = neighbors
        self.shrinkage = shrinkage

    def fit(self, train_histories: Histories, num_items: int) -> Self:
        """Computes the similarities of all items. Memory is N^2."""
        shared_users = cooccurrence(train_histories, num_items, "users").numpy()
        users = np.diag(shared_users)
        similarity = shared_users / np.maximum(np.sqrt(np.outer(users, users)) + self.shrinkage, 1e-12)
        np.fill_diagonal(similarity, 0.0)
        if self.neighbors < num_items:
            smallest = np.partition(similarity, -self.neighbors, axis=0)[-self.neighbors]
            similarity[similarity < smallest] = 0.0
        self.weights = similarity.astype(np.float32)
        return self

    def scores(self, histories: Histories) -> np.ndarray:
        """Scores of all items after each of B histories, float32 [B, N]."""
        return sums_of_rows(self.weights, histories)

"""Item kNN: the baseline that recommends the items most similar to those of the history."""

from typing import Self

import numpy as np
from scipy import sparse

from llmrec.recommenders.bags import distinct_bags, shared_users
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
        """Computes the similarities of items that share users. Memory grows with the number of such pairs."""
        shared = shared_users(train_histories, num_items).tocoo()
        users = shared.diagonal()
        rows, columns = shared.coords
        similarity = shared.data / np.maximum(np.sqrt(users[rows] * users[columns]) + self.shrinkage, 1e-12)
        similarity[rows == columns] = 0.0
        weights = sparse.csc_array((similarity, (rows, columns)), shape=shared.shape)
        weights.eliminate_zeros()
        for start, end in zip(weights.indptr, weights.indptr[1:], strict=False):
            if end - start > self.neighbors:
                column = weights.data[start:end]
                column[column < np.partition(column, -self.neighbors)[-self.neighbors]] = 0.0
        weights.eliminate_zeros()
        self.weights = sparse.csr_array(weights, dtype=np.float32)
        self.num_items = num_items
        return self

    def scores(self, histories: Histories) -> np.ndarray:
        """Scores of all items after each of B histories, float32 [B, N]."""
        return sparse.csr_array(distinct_bags(histories, self.num_items) @ self.weights).toarray()

"""Item kNN: the baseline that recommends the items most similar to those of the history."""

from itertools import pairwise
from typing import Self

import numpy as np
from scipy import sparse

from llmrec.data.ragged import Ragged
from llmrec.recommenders.bags import LONGEST, distinct_bags
from llmrec.recommenders.protocol import Histories

BLOCK = 20_000_000  # pairs of items that are counted at once


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
        """Computes the similarities of items, a block of items at a time. Long histories count from `LONGEST` on."""
        bags = distinct_bags(Ragged.of(train_histories).newest(LONGEST), num_items)
        seen = sparse.csr_array(bags, dtype=np.float64)
        by_item = sparse.csc_array(seen)
        users = np.diff(by_item.indptr)  # number of users of each item
        lengths = np.diff(seen.indptr)
        pairs = by_item.T @ lengths  # pairs of items that each item is a part of
        edges = np.searchsorted(np.cumsum(pairs), np.arange(0, pairs.sum() + BLOCK, BLOCK))
        edges = np.unique([0, *edges, num_items])
        blocks = [self._most_similar(seen, by_item, users, slice(*two)) for two in pairwise(edges.tolist())]
        self.weights = sparse.csr_array(sparse.hstack(blocks), dtype=np.float32)
        self.num_items = num_items
        return self

    def _most_similar(
        self, seen: sparse.csr_array, by_item: sparse.csc_array, users: np.ndarray, block: slice
    ) -> sparse.csc_array:
        """The similarities to the items of a block, of the nearest neighbors of each, float [N, b]."""
        shared = sparse.coo_array(seen.T @ by_item[:, block])
        rows, columns = shared.coords
        similarity = shared.data / np.maximum(np.sqrt(users[rows] * users[block][columns]) + self.shrinkage, 1e-12)
        similarity[rows == columns + block.start] = 0.0
        weights = sparse.csc_array((similarity, (rows, columns)), shape=shared.shape)
        weights.eliminate_zeros()
        for start, end in pairwise(weights.indptr):
            if end - start > self.neighbors:
                column = weights.data[start:end]
                column[column < np.partition(column, -self.neighbors)[-self.neighbors]] = 0.0
        weights.eliminate_zeros()
        return weights

    def scores(self, histories: Histories) -> np.ndarray:
        """Scores of all items after each of B histories, float32 [B, N]."""
        return sparse.csr_array(distinct_bags(histories, self.num_items) @ self.weights).toarray()

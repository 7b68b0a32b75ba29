"""Transitions: the baseline that counts, in sparse matrices, which items follow the newest items of a history."""

from typing import Self

import numpy as np
from scipy import sparse

from llmrec.data.ragged import Ragged
from llmrec.recommenders.popularity import item_counts
from llmrec.recommenders.protocol import Histories

PART = 10_000_000  # clicks that are counted at once


class Transitions:
    """Transition counts from the last few items, with popularity as the order of items without transitions.

    score(j) = sum_k decay^k C[i_k, j] / (sum_j C[i_k, j] + 1)^damping + popularity_weight P(j), for k from 0 to
    `last` - 1. Item i_0 is the newest of the history. C[i, j] counts how often j follows i at a distance d of at most
    `distance`, with weight distance_decay^(d - 1). P(j) is the share of training clicks on item j. Memory grows with
    the number of distinct transitions, so the baseline suits catalogues of any size.

    Args:
        last: number of newest items that are used.
        decay: factor by which the weight of an item falls with each step back.
        distance: largest distance of two items that count as a transition.
        distance_decay: factor by which the weight of a transition falls with each step of distance.
        damping: exponent of the number of transitions of an item, 0 to 1. With 0 frequent items have more weight, and
            with 1 all items have equal weight.
        popularity_weight: weight of P(j). The default orders little more than equal scores.
    """

    def __init__(
        self,
        last: int = 5,
        decay: float = 0.5,
        distance: int = 1,
        distance_decay: float = 0.8,
        damping: float = 0.5,
        popularity_weight: float = 0.01,
    ) -> None:
        self.last = last
        self.decay = decay
        self.distance = distance
        self.distance_decay = distance_decay
        self.damping = damping
        self.popularity_weight = popularity_weight

    def fit(self, train_histories: Histories, num_items: int) -> Self:
        """Counts the transitions of training histories."""
        counts = sparse.csr_array((num_items, num_items), dtype=np.float64)
        for part in Ragged.of(train_histories).parts(PART):
            for distance in range(1, self.distance + 1):
                before, after = _pairs(part, distance)
                weights = np.full(len(before), self.distance_decay ** (distance - 1))
                counts += sparse.csr_array((weights, (before, after)), shape=counts.shape)
        row_weights = (counts.sum(axis=1) + 1.0) ** -self.damping
        self.transitions = sparse.csr_array(sparse.diags_array(row_weights) @ counts, dtype=np.float32)
        clicks = item_counts(train_histories, num_items)
        self.popularity = (clicks / max(1.0, clicks.sum())).astype(np.float32)
        return self

    def scores(self, histories: Histories) -> np.ndarray:
        """Scores of all items after each of B histories, float32 [B, N]."""
        newest = [np.asarray(history)[::-1][: self.last] for history in histories]
        lengths = [len(items) for items in newest]
        weights = np.concatenate([self.decay ** np.arange(length, dtype=np.float32) for length in [0, *lengths]])
        columns = np.concatenate([np.zeros(0, np.int64), *newest])
        starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        shape = (len(histories), len(self.popularity))
        context = sparse.csr_array((weights.astype(np.float32), columns, starts), shape=shape)
        followers = sparse.csr_array(context @ self.transitions)
        return followers.toarray() + np.float32(self.popularity_weight) * self.popularity


def _pairs(histories: Ragged, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """The items that stand `distance` places apart in one history, the earlier and the later ones, each [P]."""
    items = histories.flat()
    ends = np.repeat(np.cumsum(histories.lengths), histories.lengths)
    rows = np.flatnonzero(np.arange(distance, len(items) + distance) < ends)
    return items[rows], items[rows + distance]

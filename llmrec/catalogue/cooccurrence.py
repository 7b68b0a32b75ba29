"""Counts of item pairs in the same histories, and item vectors computed from them.

EASE and ItemKNN use the counts. Item embeddings start from the vectors. The vectors factorize the positive pointwise
mutual information of the counts, as word2vec does implicitly (Levy & Goldberg, "Neural Word Embedding as Implicit
Matrix Factorization", NeurIPS 2014).
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch

from llmrec.data.ragged import Ragged

WINDOW = 5  # positions between which two items of a history count as near
MAX_CLICKS = 2_000_000  # clicks whose co-occurrence is counted for item vectors; the counts take 1 KB a click
DIMENSIONS = 128  # largest rank of the factorization


def cooccurrence_vectors(histories: Iterable[np.ndarray], num_items: int, size: int, seed: int = 0) -> torch.Tensor:
    """Vectors of items; items that stand near each other in histories have similar vectors.

    Args:
        histories: item indices in time order, training data only. Of more than `MAX_CLICKS` clicks, the histories of
            a seeded sample of users are read.
        num_items: number N of items.
        size: length d of a vector.
        seed: seed of the random projection to d dimensions.

    Returns:
        float32 [N, d] of norm 1; zeros for an item without a neighbor in any history.
    """
    weights = positive_information(cooccurrence(_sample(Ragged.of(histories), seed), num_items, "distance"))
    rank = min(DIMENSIONS, size, num_items)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left, values, _ = torch.svd_lowrank(weights, min(2 * rank, num_items), niter=4)
        directions = torch.linalg.qr(torch.randn(size, rank, dtype=weights.dtype))[0]
    vectors = (left[:, :rank] * values[:rank].sqrt()) @ directions.T
    norms = vectors.norm(dim=1, keepdim=True)
    has_neighbors = torch.sparse.sum(weights, 1).to_dense()[:, None] > 0
    return torch.where(has_neighbors, vectors / norms.clamp(min=1e-12), 0.0).float()


def _sample(histories: Ragged, seed: int) -> Ragged:
    """The histories of random users with at most `MAX_CLICKS` clicks together; all of them if they have no more.

    A longer history than that gives its newest clicks.
    """
    if histories.lengths.sum() <= MAX_CLICKS:
        return histories
    order = np.random.default_rng(seed).permutation(len(histories))
    shown = histories.select(order).newest(MAX_CLICKS)
    count = int(np.searchsorted(np.cumsum(shown.lengths), MAX_CLICKS, side="right"))
    return shown[: max(1, count)]


def cooccurrence(
    histories: Iterable[np.ndarray],
    num_items: int,
    weighting: Literal["users", "distance"],
    window: int = WINDOW,
) -> torch.Tensor:
    """How often two items occur together.

    Args:
        histories: item indices of each user, in time order.
        num_items: number N of items.
        weighting: `users` counts the users who have both items, and each user once; the diagonal counts the users of
            one item. `distance` adds 1 / distance for every two positions at most `window` apart.
        window: largest distance in positions; used by `distance` only.

    Returns:
        symmetric float64 [N, N]. It is dense for `users`, because EASE inverts it and most pairs of popular items
        occur. It is a coalesced sparse tensor for `distance`, so that large catalogues fit in memory.
    """
    if weighting == "users":
        return _shared_users(histories, num_items)
    return _inverse_distances(Ragged.of(histories), num_items, window)


def _shared_users(histories: Iterable[np.ndarray], num_items: int) -> torch.Tensor:
    counts = np.zeros((num_items, num_items), dtype=np.float64)
    for history in histories:
        items = np.unique(history)
        counts[np.ix_(items, items)] += 1.0
    return torch.from_numpy(counts)


def _inverse_distances(histories: Ragged, num_items: int, window: int) -> torch.Tensor:
    pairs = [np.zeros((2, 0), np.int64)]
    weights = [np.zeros(0)]
    for distance in range(1, window + 1):
        for history in histories:
            if len(history) > distance:
                pairs.append(np.stack([history[:-distance], history[distance:]]))
                weights.append(np.full(len(history) - distance, 1 / distance))
    index = torch.from_numpy(np.concatenate(pairs, 1))
    both_orders = torch.cat([index, index.flip(0)], 1)
    return _sparse(both_orders, torch.from_numpy(np.concatenate(weights)).repeat(2), num_items)


def positive_information(counts: torch.Tensor) -> torch.Tensor:
    """Positive pointwise mutual information max(0, log(p(i, j) / (p(i) p(j)))) of every two items that occur together.

    Args:
        counts: co-occurrence, coalesced sparse [N, N].

    Returns:
        sparse [N, N].
    """
    totals = torch.sparse.sum(counts, 1).to_dense()
    rows, columns = counts.indices()
    information = (counts.values() * totals.sum() / (totals[rows] * totals[columns])).log().clamp(min=0)
    return _sparse(counts.indices(), information, len(counts))


def _sparse(index: torch.Tensor, value: torch.Tensor, size: int) -> torch.Tensor:
    return torch.sparse_coo_tensor(index, value, (size, size), check_invariants=True).coalesce()

"""Which items are had together: vectors to start item embeddings from, before any training.

Levy & Goldberg, "Neural Word Embedding as Implicit Matrix Factorization", NeurIPS 2014: the singular vectors of the
positive pointwise mutual information of a co-occurrence matrix are what word2vec learns.
"""

from collections.abc import Sequence

import numpy as np
import torch

WINDOW = 5
DIMENSIONS = 128


def item_vectors(histories: Sequence[np.ndarray], num_items: int, size: int, seed: int = 0) -> torch.Tensor:
    """Vectors of items that are close where the items stand close in histories.

    Args:
        histories: item indices in time order, of training data alone.
        num_items: N.
        size: d, of the vectors.
        seed: of the random directions.

    Returns:
        float32 [N, d], of length 1; zeros for an item without a neighbour in any history.
    """
    weights = positive_information(cooccurrence(histories, num_items))
    rank = min(DIMENSIONS, size, num_items)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left, values, _ = torch.svd_lowrank(weights, min(2 * rank, num_items), niter=4)
        directions = torch.linalg.qr(torch.randn(size, rank, dtype=weights.dtype))[0]
    vectors = (left[:, :rank] * values[:rank].sqrt()) @ directions.T
    lengths = vectors.norm(dim=1, keepdim=True)
    known = torch.sparse.sum(weights, 1).to_dense()[:, None] > 0
    return torch.where(known, vectors / lengths.clamp(min=1e-12), 0.0).float()


def cooccurrence(histories: Sequence[np.ndarray], num_items: int, window: int = WINDOW) -> torch.Tensor:
    """How often items stand within `window` places of each other, 1/distance each time.

    Returns:
        sparse, symmetric, float64 [N, N].
    """
    pairs, counts = [], []
    for distance in range(1, window + 1):
        for history in histories:
            if len(history) > distance:
                pairs.append(np.stack([history[:-distance], history[distance:]]))
                counts.append(np.full(len(history) - distance, 1 / distance))
    index = torch.from_numpy(np.concatenate([np.zeros((2, 0), np.int64), *pairs], 1))
    value = torch.from_numpy(np.concatenate([np.zeros(0), *counts]))
    both = torch.cat([index, index.flip(0)], 1)
    return _sparse(both, value.repeat(2), num_items)


def positive_information(counts: torch.Tensor) -> torch.Tensor:
    """max(0, log(p(i, j) / (p(i) p(j)))) wherever i and j co-occur; sparse [N, N] to sparse [N, N]."""
    totals = torch.sparse.sum(counts, 1).to_dense()
    one, other = counts.indices()
    information = (counts.values() * totals.sum() / (totals[one] * totals[other])).log().clamp(min=0)
    return _sparse(counts.indices(), information, len(counts))


def _sparse(index: torch.Tensor, value: torch.Tensor, size: int) -> torch.Tensor:
    return torch.sparse_coo_tensor(index, value, (size, size), check_invariants=True).coalesce()

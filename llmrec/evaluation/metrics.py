"""Ranking metrics over the full catalogue, and bootstrap intervals: pure functions of arrays.

Shapes: M targets (rows), N catalogue items, K list length, U users. Metrics are returned per target, so that
    they can
be averaged within users first (`per_user`) and given an interval over users (`bootstrap_ci`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", np.ndarray, "torch.Tensor")
Excluded = np.ndarray | Sequence[np.ndarray] | None  # bool [M, N], or M arrays of item indices


def tie_keys(num_items: int, seed: int) -> np.ndarray:
    """A pseudo-random key for every item index, uint64 [N]; among equal scores the smaller key ranks first.

    It is SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) of seed and index: the same for every model and
    machine, and unrelated to the order of the items, which in many data sets is the order of popularity.
    """
    with np.errstate(over="ignore"):
        z = np.arange(1, num_items + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _allowed(scores: np.ndarray, excluded: Excluded) -> np.ndarray:
    """bool [M, N]: True where an item may be ranked."""
    allowed = np.ones(scores.shape, dtype=bool)
    if excluded is None:
        return allowed
    if len(excluded) != len(scores):
        raise ValueError(f"excluded has {len(excluded)} rows, scores has {len(scores)}.")
    if isinstance(excluded, np.ndarray) and excluded.dtype == bool:
        return ~excluded
    for row, items in enumerate(excluded):
        allowed[row, np.asarray(items, dtype=np.int64)] = False
    return allowed


def _checked(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores)
    if scores.ndim != 2:
        raise ValueError(f"scores must be [M, N], found shape {scores.shape}.")
    if np.isnan(scores).any():
        raise ValueError(f"scores of row {np.isnan(scores).any(1).argmax()} hold NaN: they cannot be ranked.")
    return scores


def ranks(scores: np.ndarray, targets: np.ndarray, excluded: Excluded = None, seed: int = 0) -> np.ndarray:
    """Rank of each target among all items that its row allows.

    Args:
        scores: float [M, N], higher is better; -inf is fine, NaN is not.
        targets: item index of each row's target, int [M].
        excluded: bool [M, N], or for each row the item indices that may not be ranked (usually the history).
        seed: of the order among equal scores, see `tie_keys`.

    Returns:
        int64 [M], 1 is best.

    Raises:
        ValueError: NaN, or a target that its own row excludes (its rank would mean nothing).
    """
    scores, targets = _checked(scores), np.asarray(targets, dtype=np.int64)
    allowed, rows, keys = _allowed(scores, excluded), np.arange(len(scores)), tie_keys(scores.shape[1], seed)
    if not allowed[rows, targets].all():
        raise ValueError(f"The target of row {(~allowed[rows, targets]).argmax()} is among its excluded items.")
    target = scores[rows, targets][:, None]
    before = (scores > target) | ((scores == target) & (keys < keys[targets][:, None]))
    return 1 + (before & allowed).sum(axis=1)


def rank_of_target(scores: Array, targets: Array, ties: Literal["half", "hash"] = "half", seed: int = 0) -> Array:
    """Rank of each target among all items, for NumPy arrays and for PyTorch tensors on any device.

    Args:
        scores: float [M, N], higher is better.
        targets: item index of each row's target, int [M].
        ties: `half` counts each tied item as half a rank lost; `hash` orders ties by `tie_keys`, as `ranks` does.
        seed: seed of the order among ties, for `hash`.

    Returns:
        float or int [M], 1 is best. With `half`, a target whose score is not finite has rank infinity.
    """
    values: Any = scores
    indices: Any = targets
    if ties == "hash":
        if hasattr(values, "cpu"):
            return indices.new_tensor(ranks(values.cpu().numpy(), indices.cpu().numpy(), seed=seed))
        found: Any = ranks(values, indices, seed=seed)
        return found
    target = values[np.arange(len(values)), indices]
    tied = (values == target[:, None]).sum(1)
    rank = 1 + (values > target[:, None]).sum(1) + (tied - 1) / 2
    rank[~(abs(target) < np.inf)] = np.inf
    return rank


def top_k(scores: np.ndarray, k: int, excluded: Excluded = None, seed: int = 0) -> np.ndarray:
    """The K best allowed items of each row in order, int64 [M, K]; -1 where a row allows fewer. Ties as in
    `ranks`.
    """
    scores = _checked(scores)
    allowed, keys = _allowed(scores, excluded), tie_keys(scores.shape[1], seed)
    best = np.full((len(scores), k), -1, dtype=np.int64)
    for row in range(len(scores)):
        items = np.flatnonzero(allowed[row])
        items = items[np.lexsort((keys[items], -scores[row, items]))][:k]
        best[row, : len(items)] = items
    return best


def hit_rate(rank: np.ndarray, k: int) -> np.ndarray:
    """HR@K of single targets: 1 if the target is among the first K, float [M]."""
    return (np.asarray(rank) <= k).astype(np.float64)


def ndcg(rank: np.ndarray, k: int) -> np.ndarray:
    """NDCG@K of single targets: 1 / log2(1 + rank) within the first K, else 0, float [M].

    With one relevant item the ideal gain is 1 (Jarvelin & Kekalainen, TOIS 2002), so gain and NDCG are the
    same.
    """
    rank = np.asarray(rank, dtype=np.float64)
    return np.where(rank <= k, 1.0 / np.log2(1.0 + rank), 0.0)


def reciprocal_rank(rank: np.ndarray) -> np.ndarray:
    """1 / rank over the whole catalogue, float [M]; its mean is MRR."""
    return 1.0 / np.asarray(rank, dtype=np.float64)


def coverage(top: np.ndarray, num_items: int) -> float:
    """Share of the catalogue that occurs in at least one list: `top` int [M, K] (-1 is nothing) -> 0..1."""
    return len(np.unique(top[top >= 0])) / num_items


def per_user(values: np.ndarray, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Averages a metric within each user: values [M], users [M] -> (distinct users [U] ascending, means
    [U]).
    """
    distinct, row = np.unique(users, return_inverse=True)
    return distinct, np.bincount(row, weights=values) / np.bincount(row)


def _resampled_means(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Means of `samples` resamples of values [U] with replacement, float [samples]."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"A bootstrap needs at least one value in one dimension, found shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("A bootstrap needs finite values, found NaN or infinity.")
    rng, users = np.random.default_rng(seed), len(values)
    # Some resamples at a time: [samples, U] indices of a large test set would not fit in memory.
    block = max(1, 1_000_000 // users)
    counts = [min(block, samples - start) for start in range(0, samples, block)]
    return np.concatenate([values[rng.integers(0, users, (count, users))].mean(1) for count in counts])


def bootstrap_ci(
    values: np.ndarray, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean over users and its percentile bootstrap interval (Efron & Tibshirani, 1993, ch. 13).

    Args:
        values: one number a user, [U]; users, not targets, are resampled because targets of a user are
            dependent.
        samples: bootstrap resamples.
        seed: of the resampling.
        level: probability that the interval aims to cover.

    Returns:
        (mean, lower, upper).

    Raises:
        ValueError: no values, NaN or infinity.
    """
    means, tail = _resampled_means(values, samples, seed), (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(np.mean(values)), float(low), float(high)


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float, float]:
    """Difference of two models on the same users: (mean of a - b, lower, upper, two-sided p).

    p is twice the smaller share of resamples on either side of zero, counting the observed sample as one more
    resample so that it is never 0 (Davison & Hinkley, 1997, sec. 4.2).

    Raises:
        ValueError: a and b do not have the same shape, or as `bootstrap_ci`.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(f"A paired comparison needs the same users twice, found {np.shape(a)} and {np.shape(b)}.")
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    means, tail = _resampled_means(difference, samples, seed), (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    p = 2 * (1 + min((means <= 0).sum(), (means >= 0).sum())) / (samples + 1)
    # However the resamples fall, m users that differ can show no less than a sign test of m would.
    p = max(p, 2.0 ** (1 - np.count_nonzero(difference)))
    return float(difference.mean()), float(low), float(high), float(min(1.0, p))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for the number of comparisons (Holm, 1979), in the order given."""
    order, adjusted, largest = np.argsort(p_values, kind="stable"), [0.0] * len(p_values), 0.0
    for step, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - step) * float(p_values[index])))
        adjusted[index] = largest
    return adjusted

# pyright: strict
"""Ranking metrics over the full catalogue, and bootstrap intervals and tests: pure functions of arrays.

Shapes: M targets (rows), N catalogue items, K list length, U users. Metrics are returned per target. `per_user`
averages them within users, and `bootstrap_ci` gives the mean over users an interval.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", np.ndarray, "torch.Tensor")
Excluded = np.ndarray | Sequence[np.ndarray] | None  # bool [M, N], or M arrays of item indices


def tie_keys(num_items: int, seed: int) -> np.ndarray:
    """A pseudo-random key for every item index; of equal scores, lists show the item with the smaller key first.

    The key is SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) of seed and index. It is the same for every model and
    machine, and independent of the order of items, which in many datasets is the order of popularity.

    Returns:
        uint64 [N].
    """
    with np.errstate(over="ignore"):
        z = np.arange(1, num_items + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _allowed(scores: np.ndarray, excluded: Excluded) -> np.ndarray:
    """bool [M, N]: True for items that may be ranked."""
    allowed = np.ones(scores.shape, dtype=bool)
    if excluded is None:
        return allowed
    if len(excluded) != len(scores):
        raise ValueError(f"excluded has {len(excluded)} rows, scores has {len(scores)}. Give one row per target.")
    if isinstance(excluded, np.ndarray) and excluded.dtype == bool:
        return ~excluded
    for row, items in enumerate(excluded):
        allowed[row, np.asarray(items, dtype=np.int64)] = False
    return allowed


def _checked(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores)
    if scores.ndim != 2:
        raise ValueError(f"scores has shape {scores.shape}, expected [M, N].")
    if np.isnan(scores).any():
        raise ValueError(f"scores has NaN in row {np.isnan(scores).any(1).argmax()}, which cannot be ranked.")
    return scores


def ranks(scores: np.ndarray, targets: np.ndarray, excluded: Excluded = None) -> np.ndarray:
    """Rank of each target among the allowed items of its row, by the rule of `rank_of_target`.

    Args:
        scores: float [M, N], higher is better; -inf is allowed, NaN is not.
        targets: item index of each row's target, int [M].
        excluded: items that may not be ranked, usually the history: bool [M, N], or item indices for each row.

    Returns:
        float64 [M], 1 is best.

    Raises:
        ValueError: scores hold NaN, or a row excludes its own target.
    """
    scores = _checked(scores)
    targets = np.asarray(targets, dtype=np.int64)
    allowed = _allowed(scores, excluded)
    of_targets = allowed[np.arange(len(scores)), targets]
    if not of_targets.all():
        raise ValueError(f"The target of row {(~of_targets).argmax()} is among its excluded items.")
    return rank_of_target(np.where(allowed, scores, -np.inf), targets)


def rank_of_target(scores: Array, targets: Array) -> Array:
    """Rank of each target among all items, for NumPy arrays and for PyTorch tensors on any device.

    A target that ties with t other items gets the mean of their t + 1 places, so each tied item costs half a rank. This
    is the expected rank under a random order of ties. It is the only rule of ties: selection and test share it.

    Args:
        scores: float [M, N], higher is better.
        targets: item index of each row's target, int [M].

    Returns:
        float [M], 1 is best. A target whose score is not finite has rank infinity.
    """
    values: Any = scores
    indices: Any = targets
    target = values[np.arange(len(values)), indices]
    tied = (values == target[:, None]).sum(1)
    rank = 1 + (values > target[:, None]).sum(1) + (tied - 1) / 2
    rank[~(abs(target) < np.inf)] = np.inf
    return rank


def top_k(scores: np.ndarray, k: int, excluded: Excluded = None, seed: int = 0) -> np.ndarray:
    """The K best allowed items of each row, best first.

    Args:
        scores: float [M, N], higher is better; -inf is allowed, NaN is not.
        k: length of the lists.
        excluded: items that may not be ranked, as in `ranks`.
        seed: seed of the order among equal scores, see `tie_keys`.

    Returns:
        int64 [M, K], filled up with -1 if a row allows fewer items.
    """
    scores = _checked(scores)
    allowed = _allowed(scores, excluded)
    keys = tie_keys(scores.shape[1], seed)
    best = np.full((len(scores), k), -1, dtype=np.int64)
    for row in range(len(scores)):
        items = np.flatnonzero(allowed[row])
        items = items[np.lexsort((keys[items], -scores[row, items]))][:k]
        best[row, : len(items)] = items
    return best


def hit_rate(rank: np.ndarray, k: int) -> np.ndarray:
    """HR@K of single targets: 1 if the rank is at most K, else 0, float [M]."""
    return (np.asarray(rank) <= k).astype(np.float64)


def ndcg(rank: np.ndarray, k: int) -> np.ndarray:
    """NDCG@K of single targets: 1 / log2(1 + rank) if the rank is at most K, else 0, float [M].

    With one relevant item the ideal gain is 1 (Jarvelin & Kekalainen, TOIS 2002), so DCG and NDCG are equal.
    """
    rank = np.asarray(rank, dtype=np.float64)
    return np.where(rank <= k, 1.0 / np.log2(1.0 + rank), 0.0)


def reciprocal_rank(rank: np.ndarray) -> np.ndarray:
    """1 / rank over the whole catalogue, float [M]; its mean is MRR."""
    return 1.0 / np.asarray(rank, dtype=np.float64)


def coverage(top: np.ndarray, num_items: int) -> float:
    """Share of the N items that occur in at least one list.

    Args:
        top: lists of item indices, int [M, K]; -1 is ignored.
        num_items: N.
    """
    return len(np.unique(top[top >= 0])) / num_items


def per_user(values: np.ndarray, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Averages a metric within each user.

    Args:
        values: value of each target, [M].
        users: user of each target, [M].

    Returns:
        The distinct users in ascending order [U], and their means [U].
    """
    distinct, row = np.unique(users, return_inverse=True)
    return distinct, np.bincount(row, weights=values) / np.bincount(row)


def _resampled_means(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Means of resamples of values [U] with replacement, float [samples]."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"A bootstrap needs at least one value in one dimension, found shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("A bootstrap needs finite values, found NaN or infinity.")
    rng = np.random.default_rng(seed)
    users = len(values)
    # Resamples are drawn in blocks, because the indices [samples, U] of a large test set would not fit in memory.
    block = max(1, 1_000_000 // users)
    counts = [min(block, samples - start) for start in range(0, samples, block)]
    return np.concatenate([values[rng.integers(0, users, (count, users))].mean(1) for count in counts])


def _percentile_interval(means: np.ndarray, level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_ci(
    values: np.ndarray, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean over users and its percentile bootstrap interval (Efron & Tibshirani, 1993, ch. 13).

    Users are resampled, not targets, because the targets of one user are dependent.

    Args:
        values: one value per user, [U].
        samples: number of resamples.
        seed: seed of the resampling.
        level: nominal coverage of the interval.

    Returns:
        (mean, lower, upper).

    Raises:
        ValueError: there are no values, or NaN or infinity.
    """
    low, high = _percentile_interval(_resampled_means(values, samples, seed), level)
    return float(np.mean(values)), low, high


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float, float]:
    """Difference of two models on the same users, with interval and two-sided p-value.

    p is twice the smaller share of resamples on either side of zero. The observed sample counts as one more resample,
    so p is never 0 (Davison & Hinkley, 1997, sec. 4.2).

    Args:
        a: values of the first model, one per user, [U].
        b: values of the second model for the same users, [U].
        samples: number of resamples.
        seed: seed of the resampling.
        level: nominal coverage of the interval.

    Returns:
        (mean of a - b, lower, upper, p).

    Raises:
        ValueError: a and b differ in shape, there are no values, or NaN or infinity.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(
            f"A paired comparison needs one value per model for the same users, found {np.shape(a)} and {np.shape(b)}."
        )
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    means = _resampled_means(difference, samples, seed)
    low, high = _percentile_interval(means, level)
    p = 2 * (1 + min((means <= 0).sum(), (means >= 0).sum())) / (samples + 1)
    # A lower bound: m users with a difference cannot be more significant than in a sign test, 2^(1 - m).
    p = max(p, 2.0 ** (1 - np.count_nonzero(difference)))
    return float(difference.mean()), low, high, min(1.0, float(p))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for the number of comparisons (Holm, 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for step, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - step) * float(p_values[index])))
        adjusted[index] = largest
    return adjusted

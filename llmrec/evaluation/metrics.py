# pyright: strict
"""Ranking metrics over the full catalogue, and bootstrap intervals and tests: pure functions of arrays.

Shapes: M targets (rows), N catalogue items, K list length, U users. Metrics are returned per target. `per_user`
averages them within users, and `bootstrap_ci` gives the mean over users an interval. `user_matrix` lines up the users
of S training seeds.
"""

from collections.abc import Sequence
from statistics import NormalDist
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


def _excluded_items(scores: np.ndarray, excluded: Excluded) -> list[np.ndarray]:
    """Distinct items that may not be ranked, int64 of any length for each of the M rows."""
    if excluded is None:
        return [np.zeros(0, dtype=np.int64)] * len(scores)
    if len(excluded) != len(scores):
        raise ValueError(f"excluded has {len(excluded)} rows, scores has {len(scores)}. Give one row per target.")
    if isinstance(excluded, np.ndarray) and excluded.dtype == bool:
        return [np.flatnonzero(row) for row in excluded]
    ordered = [np.sort(np.asarray(items, dtype=np.int64)) for items in excluded]
    return [items[np.flatnonzero(np.diff(items, prepend=-1))] for items in ordered]


def _checked(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores)
    if scores.ndim != 2:
        raise ValueError(f"scores has shape {scores.shape}, expected [M, N].")
    if np.isnan(scores.min(initial=np.inf)):
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
    rank = rank_of_target(scores, targets)
    for row, items in enumerate(_excluded_items(scores, excluded)):
        if targets[row] in items:
            raise ValueError(f"The target of row {row} is among its excluded items.")
        target = scores[row, targets[row]]
        of_items = scores[row, items]
        rank[row] -= (of_items > target).sum() + (of_items == target).sum() / 2
    return rank


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
    keys = tie_keys(scores.shape[1], seed)
    best = np.full((len(scores), k), -1, dtype=np.int64)
    for row, not_allowed in enumerate(_excluded_items(scores, excluded)):
        values = scores[row]
        items = np.arange(len(values))
        enough = k + len(not_allowed)  # the best of these hold the best k allowed ones
        if len(items) > enough:  # sorting all items would take most of the time
            items = np.flatnonzero(values >= np.partition(values, -enough)[-enough])
        items = np.setdiff1d(items, not_allowed, assume_unique=True)
        items = items[np.lexsort((keys[items], -values[items]))][:k]
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


def resampled_means(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Means of bootstrap resamples of users, and of training seeds if there are several.

    With S seeds both are drawn with replacement and independently of each other (the pigeonhole bootstrap: Owen, Annals
    of Applied Statistics 2007). A mean is taken over users within a seed, then over seeds. Two arrays of one shape get
    the same draws under one `seed`, so ratios and differences of their resampled means are paired.

    Args:
        values: one value per user, [U], or per seed and user, [S, U]. NaN in the second form: the user has no target
            under that seed.
        samples: number of resamples.
        seed: seed of the resampling.

    Returns:
        float64 [samples].

    Raises:
        ValueError: there are no values, or infinity, or NaN in the first form.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (1, 2) or not values.size:
        raise ValueError(f"A bootstrap needs at least one value per seed, found an array of shape {values.shape}.")
    if np.isinf(values).any() or (values.ndim == 1 and np.isnan(values).any()):
        raise ValueError("A bootstrap needs finite values, found NaN or infinity.")
    values = np.atleast_2d(values)
    defined = ~np.isnan(values)
    if not defined.any(1).all():
        raise ValueError("A bootstrap needs at least one value per seed, found a seed without any.")
    complete = bool(defined.all())
    filled = np.where(defined, values, 0.0)
    seeds, users = values.shape
    rng = np.random.default_rng(seed)
    # Resamples are drawn in blocks, because the values [S, samples, U] of a large test set would not fit in memory.
    block = max(1, 1_000_000 // values.size)
    means: list[np.ndarray] = []
    for start in range(0, samples, block):
        size = min(block, samples - start)
        drawn = rng.integers(0, users, (size, users))
        counts = users if complete else defined[:, drawn].sum(2)
        with np.errstate(invalid="ignore"):  # 0 / 0 where a resample has no user with a target under a seed
            of_seeds = filled[:, drawn].sum(2) / counts  # [S, size]
        if seeds > 1:
            of_seeds = of_seeds[rng.integers(0, seeds, (seeds, size)), np.arange(size)]
        means.append(of_seeds.mean(0))
    return np.concatenate(means)


def mean_over_seeds(values: np.ndarray) -> float:
    """Mean over users within each seed, then over seeds, of values [U] or [S, U] as in `resampled_means`."""
    return float(np.nanmean(np.atleast_2d(np.asarray(values, dtype=np.float64)), axis=1).mean())


def _percentile_interval(means: np.ndarray, level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    low, high = np.nanquantile(means, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_ci(
    values: np.ndarray, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean over users and its percentile bootstrap interval (Efron & Tibshirani, 1993, ch. 13).

    Users are resampled, not targets, because the targets of one user are dependent. Several training seeds are
    resampled as well. With S seeds, resampling shows only (S - 1) / S of the variance between seeds on average.

    Args:
        values: one value per user, [U], or per seed and user, [S, U]; see `resampled_means`.
        samples: number of resamples.
        seed: seed of the resampling.
        level: nominal coverage of the interval.

    Returns:
        (mean, lower, upper).

    Raises:
        ValueError: as `resampled_means`.
    """
    low, high = _percentile_interval(resampled_means(values, samples, seed), level)
    return mean_over_seeds(values), low, high


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float, float]:
    """Difference of two models on the same users, with interval and two-sided p-value.

    p is twice the smaller share of resamples on either side of zero. The observed sample counts as one more resample,
    so p is never 0 (Davison & Hinkley, 1997, sec. 4.2).

    Args:
        a: values of the first model, one per user, [U], or per seed and user, [S, U]; see `resampled_means`.
        b: values of the second model for the same users.
        samples: number of resamples.
        seed: seed of the resampling.
        level: nominal coverage of the interval.

    Returns:
        (mean of a - b, lower, upper, p).

    Raises:
        ValueError: a and b differ in shape, or as `resampled_means`.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(
            f"A paired comparison needs one value per model for the same users, found {np.shape(a)} and {np.shape(b)}."
        )
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    means = resampled_means(difference, samples, seed)
    low, high = _percentile_interval(means, level)
    p = 2 * (1 + min((means <= 0).sum(), (means >= 0).sum())) / (samples + 1)
    # A lower bound: m users with a difference cannot be more significant than in a sign test, 2^(1 - m).
    differing = (np.nan_to_num(np.atleast_2d(difference)) != 0).any(0)
    p = max(p, 2.0 ** (1 - np.count_nonzero(differing)))
    return mean_over_seeds(difference), low, high, min(1.0, float(p))


def bootstrap_ratio(
    numerator: np.ndarray, denominator: np.ndarray, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float] | None:
    """Ratio of two means over the same users, with its percentile bootstrap interval.

    Args:
        numerator: values of the numerator, one per user, [U], or per seed and user, [S, U]; see `resampled_means`.
        denominator: values of the denominator for the same users.
        samples: number of resamples.
        seed: seed of the resampling.
        level: nominal coverage of the intervals.

    Returns:
        (ratio, lower, upper); None if the interval of the denominator is not above 0, so that a ratio has no meaning.

    Raises:
        ValueError: the arrays differ in shape, or as `resampled_means`.
    """
    if np.shape(numerator) != np.shape(denominator):
        raise ValueError(f"A ratio needs the same users, found {np.shape(numerator)} and {np.shape(denominator)}.")
    below = resampled_means(denominator, samples, seed)
    if _percentile_interval(below, level)[0] <= 0:
        return None
    above = resampled_means(numerator, samples, seed)
    low, high = _percentile_interval(above[below > 0] / below[below > 0], level)
    return mean_over_seeds(numerator) / mean_over_seeds(denominator), low, high


def smallest_detectable(low: float, high: float, tests: int = 1, power: float = 0.8, level: float = 0.95) -> float:
    """The smallest true difference that a test finds with a given probability, in the normal approximation.

    It is (z_power + z_alpha) standard errors (Cohen, Statistical Power Analysis, 1988, ch. 2). The standard error is
    that of the interval. z_alpha belongs to the strictest step of Holm's correction, (1 - level) / tests on two sides.

    Args:
        low: lower end of the interval of the observed difference.
        high: upper end of it.
        tests: number of tests that Holm's correction covers.
        power: probability of finding the difference.
        level: coverage of the interval; 1 - level is the significance level.

    Returns:
        The difference, in units of the interval.
    """
    normal = NormalDist()
    error = (high - low) / 2 / normal.inv_cdf(0.5 + level / 2)
    return (normal.inv_cdf(power) + normal.inv_cdf(1 - (1 - level) / (2 * tests))) * error


def user_matrix(values: Sequence[np.ndarray], users: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Means within users for every training seed, with the users of all seeds in the same columns.

    Args:
        values: values of the targets of each of S seeds, [M_s] each; NaN are left out.
        users: user of each of these targets, by an id that does not depend on the seed, [M_s] each.

    Returns:
        The U distinct users that have a value, in ascending order, and their means, float64 [S, U]; NaN where a user
        has no value under a seed.
    """
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for of_targets, of_users in zip(values, users, strict=True):
        defined = ~np.isnan(of_targets)
        parts.append(per_user(of_targets[defined], of_users[defined]))
    everyone = np.unique(np.concatenate([found for found, _ in parts]))
    matrix = np.full((len(parts), len(everyone)), np.nan)
    for row, (found, means) in enumerate(parts):
        matrix[row, np.searchsorted(everyone, found)] = means
    return everyone, matrix


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for the number of comparisons (Holm, 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for step, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - step) * float(p_values[index])))
        adjusted[index] = largest
    return adjusted

"""Distances between a log and what a world generates, and a discriminator that tries to tell them apart."""

from collections.abc import Callable, Sequence

import numpy as np

SAMPLES = 200  # bootstrap resamples behind an interval
FOLDS = 5


def ks_distance(real: np.ndarray, simulated: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance: the largest difference of two empirical distribution functions."""
    if not len(real) or not len(simulated):
        return float("nan")
    grid = np.concatenate([real, simulated])
    of_real = np.searchsorted(np.sort(real), grid, side="right") / len(real)
    of_simulated = np.searchsorted(np.sort(simulated), grid, side="right") / len(simulated)
    return float(np.abs(of_real - of_simulated).max())


def with_interval(
    distance: Callable[[np.ndarray, np.ndarray], float],
    real: Sequence[np.ndarray],
    simulated: Sequence[np.ndarray],
    seed: int,
) -> dict[str, float | int | list[float] | None]:
    """A distance with a percentile bootstrap interval over users, and the distance of the log to itself.

    Args:
        distance: takes the pooled values of both sides.
        real: values of each user in the log, [U] arrays.
        simulated: values of each user in the world, [U] arrays.
        seed: seed of the resampling.

    Returns:
        `value`, `ci95`, `real_to_real` (mean distance of two random halves of the log's users), `n` (users).
    """
    rng = np.random.default_rng(seed)
    pooled = distance(np.concatenate(real), np.concatenate(simulated))
    drawn = []
    halves = []
    for _ in range(SAMPLES):
        users = rng.integers(0, len(real), len(real))
        others = rng.integers(0, len(simulated), len(simulated))
        drawn.append(distance(np.concatenate([real[u] for u in users]), np.concatenate([simulated[u] for u in others])))
        order = rng.permutation(len(real))
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        halves.append(distance(np.concatenate([real[u] for u in first]), np.concatenate([real[u] for u in second])))
    if np.isnan(pooled) or np.isnan(drawn).all():
        return {"value": None, "ci95": None, "real_to_real": None, "n": len(real)}
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return {
        "value": float(pooled),
        "ci95": [float(low), float(high)],
        "real_to_real": float(np.nanmean(halves)),
        "n": len(real),
    }


def discriminator_auc(features: np.ndarray, labels: np.ndarray, users: np.ndarray, seed: int) -> float:
    """Cross-validated AUC of a classifier of real against simulated windows; 0.5 if it cannot tell.

    This is the classifier two-sample test (Lopez-Paz & Oquab, ICLR 2017) with gradient-boosted trees. Folds hold whole
    users, so a user's taste cannot be learned by heart.

    Args:
        features: float [n, F].
        labels: 1 for real, 0 for simulated, [n].
        users: user of each window, int64 [n].
        seed: seed of the trees.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold

    scores = np.zeros(len(labels))
    for train, test in GroupKFold(FOLDS).split(features, labels, users):
        trees = HistGradientBoostingClassifier(max_iter=60, max_depth=3, learning_rate=0.1, random_state=seed)
        scores[test] = trees.fit(features[train], labels[train]).predict_proba(features[test])[:, 1]
    return float(roc_auc_score(labels, scores))


def permutation_null(
    features: np.ndarray, labels: np.ndarray, users: np.ndarray, permutations: int, seed: int
) -> np.ndarray:
    """AUC of the discriminator when labels mean nothing: each user's real and simulated window change places at random.

    Arguments as in `discriminator_auc`; each user has one window of each label.

    Returns:
        float64 [permutations].
    """
    rng = np.random.default_rng(seed)
    _, places = np.unique(users, return_inverse=True)
    swapped = (rng.random((permutations, places.max() + 1)) < 0.5)[:, places]
    return np.array([discriminator_auc(features, np.where(row, 1 - labels, labels), users, seed) for row in swapped])

"""Bootstrap intervals over users for estimates that share the same rounds."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval.

    Attributes:
        value: the estimate.
        ci95: lower and upper bound.
    """

    value: float
    ci95: tuple[float, float]


def bootstrap(
    statistics: Callable[[np.ndarray], dict[str, float]], users: np.ndarray, samples: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Percentile bootstrap over users of several statistics of the same rounds (Efron & Tibshirani, 1993, ch. 13).

    Args:
        statistics: maps round indices of a resample, int of any length with repetitions, to named values. Whatever it
            fits is fitted again on each resample.
        users: user of each round, [n]. All rounds of a user are drawn together. `np.arange(n)` draws single rounds.
        samples: number of resamples.
        seed: seed of the resampling.

    Returns:
        an estimate for each name.
    """
    order = np.argsort(users, kind="stable")
    rounds_of = np.split(order, np.flatnonzero(np.diff(np.asarray(users)[order])) + 1)
    rng = np.random.default_rng(seed)
    values = statistics(np.arange(len(users)))
    drawn = [
        statistics(np.concatenate([rounds_of[u] for u in rng.integers(0, len(rounds_of), len(rounds_of))]))
        for _ in range(samples)
    ]
    estimates: dict[str, Estimate] = {}
    for name, value in values.items():
        low, high = np.nanquantile([sample[name] for sample in drawn], [0.025, 0.975])
        estimates[name] = Estimate(value=value, ci95=(float(low), float(high)))
    return estimates

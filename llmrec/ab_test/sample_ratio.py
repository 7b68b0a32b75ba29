"""Sample-ratio check: whether the arms hold the shares of users that the test assigns."""

from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import gammaln

THRESHOLD = 0.001  # customary: a test is stopped only if its shares are almost certainly wrong
PRIOR_USERS = 100  # users that the alternative of `always_valid_p` weighs as much as; larger ones look nearer by
_LEAST_EXPECTED = 5  # users that an arm must expect on a day for the chi-square distribution to hold


@dataclass(frozen=True)
class SampleRatio:
    """Users of each arm beside the expected number.

    Attributes:
        users: users of each arm.
        expected: users that the shares lead to expect.
        p: p-value of the chi-square test over the whole test.
        worst_day: day since the start, from 0, whose shares deviate most; None if no day has enough users.
        worst_day_p: its p-value, times the number of days tested (Bonferroni).
    """

    users: dict[str, int]
    expected: dict[str, float]
    p: float
    worst_day: int | None
    worst_day_p: float | None

    @property
    def is_wrong(self) -> bool:
        """Whether the shares deviate over the whole test or on a day."""
        return min(self.p, 1.0 if self.worst_day_p is None else self.worst_day_p) < THRESHOLD


def check_sample_ratio(arm: np.ndarray, day: np.ndarray, shares: dict[str, float]) -> SampleRatio:
    """Compares the users of each arm with the shares.

    Args:
        arm: index of each user's arm, int [U].
        day: day on which each user entered the test, from 0, int [U].
        shares: share of each arm, in the order of the indices.
    """
    weights = np.array(list(shares.values()))
    num_days = int(day.max()) + 1
    counts = np.zeros((num_days, len(weights)), dtype=np.int64)
    np.add.at(counts, (day, arm), 1)
    totals = counts.sum(1, keepdims=True)
    tested = np.flatnonzero((totals * weights).min(1) >= _LEAST_EXPECTED)
    by_day = np.array([_p_value(counts[one], weights) for one in tested])
    worst = int(by_day.argmin()) if len(tested) else None
    whole = counts.sum(0)
    return SampleRatio(
        users={name: int(n) for name, n in zip(shares, whole, strict=True)},
        expected={name: float(whole.sum() * share) for name, share in shares.items()},
        p=_p_value(whole, weights),
        worst_day=None if worst is None else int(tested[worst]),
        worst_day_p=None if worst is None else float(min(1.0, by_day[worst] * len(tested))),
    )


def always_valid_p(users: dict[str, int], expected: dict[str, float]) -> float:
    """p-value of the shares over the whole test that holds at every look together.

    It is the inverse Bayes factor of a Dirichlet-multinomial alternative around the shares (Lindon & Malek, "Anytime-
    valid inference for multinomial count data", NeurIPS 2022). By Ville's inequality the probability that it is ever
    below p is at most p, while a chi-square test that is repeated is below its p far more often.

    Args:
        users: users of each arm.
        expected: users that the shares lead to expect, in the same order.
    """
    counts = np.array(list(users.values()), dtype=np.float64)
    shares = np.array(list(expected.values())) / sum(expected.values())
    prior = PRIOR_USERS * shares
    evidence = gammaln(PRIOR_USERS) - gammaln(PRIOR_USERS + counts.sum())
    evidence += (gammaln(prior + counts) - gammaln(prior) - counts * np.log(shares)).sum()
    return float(np.exp(min(0.0, -evidence)))


def _p_value(counts: np.ndarray, weights: np.ndarray) -> float:
    return float(stats.chisquare(counts, weights / weights.sum() * counts.sum()).pvalue)

"""The always-valid p-value of the shares of users, against scipy's distributions and by looking at every user."""

import numpy as np
import pytest
from scipy import stats

from llmrec.ab_test.sample_ratio import PRIOR_USERS, THRESHOLD, always_valid_p


def p_value(canary: int, users: int, share: float) -> float:
    return always_valid_p(
        {"current": users - canary, "canary": canary}, {"current": users * (1 - share), "canary": users * share}
    )


@pytest.mark.parametrize(("canary", "users"), [(40, 1000), (160, 1000), (3, 100)])
def test_it_is_the_inverse_of_a_beta_binomial_bayes_factor(canary: int, users: int) -> None:
    share = 0.1
    alternative = stats.betabinom.pmf(canary, users, PRIOR_USERS * share, PRIOR_USERS * (1 - share))
    expected = min(1.0, stats.binom.pmf(canary, users, share) / alternative)
    assert p_value(canary, users, share) == pytest.approx(expected, rel=1e-6)


def test_looking_after_every_user_raises_no_more_false_alarms_than_stated() -> None:
    """At a threshold of 0.05 at most 5 of 100 sound tests may ever be below; the chi-square test has far more."""
    random = np.random.default_rng(0)
    share = 0.1
    looks = np.arange(20, 1001, 20)
    alarms = {"always valid": 0, "chi-square": 0}
    for _ in range(200):
        counts = np.cumsum(random.random(1000) < share)[looks - 1]
        alarms["always valid"] += min(p_value(int(c), int(n), share) for c, n in zip(counts, looks, strict=True)) < 0.05
        deviation = (counts - looks * share) / np.sqrt(looks * share * (1 - share))
        alarms["chi-square"] += bool((stats.norm.sf(np.abs(deviation)).min() * 2) < 0.05)
    assert alarms["always valid"] <= 19  # 3 standard errors of 3.1 above 10
    assert alarms["chi-square"] > 40


def test_wrong_shares_are_found() -> None:
    assert p_value(60, 1000, 0.1) < THRESHOLD < p_value(90, 1000, 0.1)

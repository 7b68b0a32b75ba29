"""Numbers: worked out by hand, and compared with tea-tasting, an independent library, where it is installed."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from llmrec.ab_test import sequential
from llmrec.ab_test.estimates import difference, linearized_variance, ratio, regression_coefficient
from llmrec.ab_test.moments import Moments, moments_at_looks
from llmrec.ab_test.plan import days_until, price_of_looking, users_for

ALPHA = 0.05
ONE_LOOK = np.array([0])


def moments(values: np.ndarray) -> Moments:
    return moments_at_looks(values, np.zeros(len(values)), ONE_LOOK, np.full(4, 1.3))


def of_pairs(*pairs: tuple[float, float]) -> np.ndarray:
    """Users with numerator and denominator, and no covariate."""
    return np.array([(*pair, 0, 0) for pair in pairs], dtype=float)


# --- by hand --------------------------------------------------------------------------------------


def test_a_ratio_and_its_delta_method_by_hand():
    """Users (1, 2), (3, 4), (2, 6): ratio 6 / 12 = .5. Contributions (n - .5 d) / 4 are 0, .25 and -.25.

    Their unbiased variance is .125 / 2 = .0625, so that of the ratio is .0625 / 3.
    """
    arm = moments(of_pairs((1, 2), (3, 4), (2, 6)))
    assert ratio(arm) == pytest.approx([0.5])
    assert linearized_variance(arm, cuped=False) == pytest.approx([0.0625])
    found = difference(arm, moments(of_pairs((1, 1), (3, 3), (4, 4))), cuped=False)
    assert (found.control[0], found.treatment[0], found.value[0]) == pytest.approx((0.5, 1.0, 0.5))
    assert found.variance == pytest.approx([0.0625 / 3])  # the other arm does not vary
    assert found.degrees == pytest.approx([2])
    low, high = found.fixed_interval(ALPHA)
    assert (high - low) / 2 == pytest.approx([4.30265 * math.sqrt(0.0625 / 3)], rel=1e-5)  # t of 2 degrees, .975


def test_cuped_by_hand():
    """Control y 1, 3 with x 0, 2; treatment y 4, 6 with x 2, 4.

    Deviations over all four: y -2.5, -.5, .5, 2.5 and x -2, 0, 0, 2. The coefficient is 10 / 8 = 1.25. The arms differ
    by 3 in y and by 2 in x, so 3 - 1.25 x 2 = .5 is left. Within an arm all variances and covariances are 2, so the
    variance of y - 1.25 x is 2 + 3.125 - 5 = .125, and that of the difference is .125 / 2 + .125 / 2.
    """
    control = moments(np.array([[1, 1, 0, 1], [3, 1, 2, 1]], dtype=float))
    treatment = moments(np.array([[4, 1, 2, 1], [6, 1, 4, 1]], dtype=float))
    assert regression_coefficient(control + treatment) == pytest.approx([1.25])
    found = difference(control, treatment, cuped=True)
    assert found.value == pytest.approx([0.5])
    assert found.variance == pytest.approx([0.125])
    assert found.unadjusted_variance == pytest.approx([2.0])


def test_users_without_history_do_not_disturb_the_estimate():
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.poisson(3, 500), np.full(500, 5), np.zeros((500, 2))]).astype(float)
    found = difference(moments(values[:250]), moments(values[250:]), cuped=True)
    assert found.value == pytest.approx(found.treatment - found.control)
    assert found.variance == pytest.approx(found.unadjusted_variance)


def test_an_arm_without_denominators_has_no_ratio():
    found = difference(moments(of_pairs((0, 0), (0, 0))), moments(of_pairs((1, 1), (0, 1))), cuped=True)
    assert np.isnan([found.control[0], found.value[0], found.variance[0]]).all() and found.treatment[0] == 0.5


def test_moments_at_looks_are_those_of_the_users_until_then():
    rng = np.random.default_rng(1)
    values = rng.normal(2, 3, (60, 4))
    ready = rng.integers(0, 10, 60)
    found = moments_at_looks(values, ready, np.array([2, 5, 8]), np.ones(4))
    for look, end in enumerate([2, 5, 8]):
        seen = values[ready <= end]
        assert found.users[look] == len(seen)
        assert found.mean[look] == pytest.approx(seen.mean(0))
        assert found.covariance[look] == pytest.approx(np.cov(seen.T))


# --- confidence sequence --------------------------------------------------------------------------


def test_the_sequence_is_tightest_at_the_planned_users():
    def width(scale: float) -> float:
        return float(sequential.radius(np.array([2 / 700]), np.array([700.0]), scale, ALPHA)[0])

    best = optimize.minimize_scalar(width, bounds=(1e-5, 1), method="bounded", options={"xatol": 1e-9})
    assert sequential.mixture_scale(700, ALPHA) == pytest.approx(best.x, rel=1e-3)
    # u - log(1 + u) = 5.9915 has the root u = 8.2119; the half width is sqrt(1 + u) standard errors.
    assert sequential.critical_value(ALPHA) == pytest.approx(math.sqrt(9.2119), abs=1e-4)
    assert width(sequential.mixture_scale(700, ALPHA)) == pytest.approx(math.sqrt(9.2119 * 2 / 700), rel=1e-5)


def test_a_radius_by_hand():
    """Variance .01 at 100 users, rho^2 .02: growth 2, so .01 x 2 x 3/2 x log(sqrt(3) / .05) = .03 x 3.54504."""
    found = sequential.radius(np.array([0.01]), np.array([100.0]), 0.02, 0.05)
    assert found == pytest.approx([math.sqrt(0.03 * 3.54504)], rel=1e-5)


def test_p_is_the_level_at_which_the_interval_touches_0():
    users = np.array([200.0, 400.0, 800.0])
    variance = 2 / users
    value = np.array([0.3, 0.35, 0.1])
    scale = sequential.mixture_scale(600, ALPHA)
    p = sequential.p_values(value, variance, users, scale)
    for look in (0, 1):
        assert sequential.radius(variance, users, scale, float(p[look]))[look] == pytest.approx(value[look])
    assert p[2] == p[1] < p[0]  # the smallest until then
    assert sequential.p_values(np.array([np.nan, 0.0]), np.array([np.nan, 1.0]), users[:2], scale).tolist() == [1, 1]


def test_the_sequence_covers_a_random_walk_at_every_look():
    """1,000 walks of 1,000 steps: the exact boundary is crossed in at most 5 %, 1.96 standard errors far more often."""
    rng = np.random.default_rng(0)
    users = np.arange(50.0, 1001.0)
    mean = rng.normal(size=(1000, 1000)).cumsum(1)[:, 49:] / users
    radius = sequential.radius(1 / users, users, sequential.mixture_scale(500, ALPHA), ALPHA)
    assert (np.abs(mean) > radius).any(1).mean() < stats.binom.isf(0.001, 1000, ALPHA) / 1000
    assert (np.abs(mean) > 1.96 / np.sqrt(users)).any(1).mean() > 0.25


# --- power ----------------------------------------------------------------------------------------


def test_users_by_hand():
    """Lehr's rule: 80 % power at .05 needs 2 x 7.849 s^2 / d^2 users an arm; of both arms for s = 2, d = .5: 502.3."""
    assert users_for(4.0, 0.5, (0.5, 0.5), 0.05, 0.8) == pytest.approx(4 * 7.8489 * 4 / 0.25, rel=1e-4)
    # A tenth in the treatment: 1/.9 + 1/.1 = 11.11 in place of 4.
    assert users_for(4.0, 0.5, (0.9, 0.1), 0.05, 0.8) == pytest.approx(100 / 9 * 7.8489 * 16, rel=1e-4)
    assert price_of_looking(0.05, 0.8) == pytest.approx(((3.03511 + 0.84162) / (1.95996 + 0.84162)) ** 2, rel=1e-4)


def test_days_follow_the_arrivals_and_then_their_last_rate():
    arrivals = np.repeat([0, 1, 2], [50, 30, 20])
    assert days_until(50, arrivals, 20.0) == 1
    assert days_until(51, arrivals, 20.0) == 2
    assert days_until(140, arrivals, 20.0) == 3 + 2


# --- tea-tasting ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def users() -> dict[str, np.ndarray]:
    """900 users, a third of them treated; clicks among shown items, before and during a test."""
    rng = np.random.default_rng(7)
    taste = rng.beta(2, 12, 900)
    variant = (np.arange(900) % 3 == 0).astype(int)
    shown, shown_before = (1 + rng.poisson(20 * taste**0.3, 900) for _ in range(2))
    return {
        "variant": variant,
        "shown": shown,
        "clicks": rng.binomial(shown, np.minimum(taste * (1 + 0.2 * variant), 1)),
        "shown_before": shown_before,
        "clicks_before": rng.binomial(shown_before, taste),
    }


def ours(users: dict[str, np.ndarray], names: tuple[str | None, ...], cuped: bool):
    one = np.ones(len(users["variant"]))
    values = np.column_stack([one if name is None else users[name] for name in names]).astype(float)
    control, treatment = (moments(values[users["variant"] == arm]) for arm in (0, 1))
    return difference(control, treatment, cuped)


@pytest.mark.parametrize(
    ("names", "cuped"),
    [
        (("clicks", None, None, None), False),
        (("clicks", None, "clicks_before", None), True),
        (("clicks", "shown", None, None), False),
        (("clicks", "shown", "clicks_before", "shown_before"), True),
    ],
)
def test_differences_are_those_of_tea_tasting(users, names, cuped):
    tt = pytest.importorskip("tea_tasting")
    import pandas as pd

    numer, denom, numer_before, denom_before = names
    arguments = {"numer_covariate": numer_before, "denom_covariate": denom_before} if cuped else {}
    metric = tt.RatioOfMeans(numer, denom, **arguments)
    theirs = tt.Experiment(metric=metric).analyze(pd.DataFrame(users))["metric"]
    found = ours(users, names, cuped)
    low, high = found.fixed_interval(ALPHA)
    assert found.value[0] == pytest.approx(theirs.effect_size, rel=1e-9)
    assert (low[0], high[0]) == pytest.approx((theirs.effect_size_ci_lower, theirs.effect_size_ci_upper), rel=1e-9)
    assert found.fixed_p_value()[0] == pytest.approx(theirs.pvalue, rel=1e-9)


def test_the_numbers_of_tea_tasting_as_stored(users):
    """Effect, interval and p of tea-tasting 1.14 for the ratio with CUPED, for machines without it."""
    found = ours(users, ("clicks", "shown", "clicks_before", "shown_before"), cuped=True)
    low, high = found.fixed_interval(ALPHA)
    numbers = [found.value[0], low[0], high[0], found.fixed_p_value()[0]]
    assert numbers == pytest.approx(STORED, rel=1e-8)


STORED = [0.03417568788001529, 0.015607200068501019, 0.05274417569152957, 0.0003271437731093393]


def test_the_sample_ratio_is_that_of_tea_tasting():
    tt = pytest.importorskip("tea_tasting")
    import pandas as pd

    from llmrec.ab_test.sample_ratio import check_sample_ratio

    arm = np.repeat([0, 1], [10_300, 9_900])
    data = pd.DataFrame({"variant": arm, "x": 1.0})
    metric = tt.SampleRatio(ratio=1, method="norm", correction=False)
    theirs = tt.Experiment(ratio=metric).analyze(data)["ratio"]
    found = check_sample_ratio(arm, np.zeros(len(arm), dtype=int), {"live": 0.5, "new": 0.5})
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-9)


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_the_power_is_that_of_tea_tasting(users, share):
    tt = pytest.importorskip("tea_tasting")
    import pandas as pd

    metric = tt.Mean("clicks", "clicks_before", effect_size=0.1, power=0.8, ratio=share / (1 - share), use_t=False)
    theirs = metric.solve_power(pd.DataFrame(users), "n_obs")[0].n_obs
    one = np.ones(900)
    values = np.column_stack([users["clicks"], one, users["clicks_before"], one]).astype(float)
    needed = users_for(float(linearized_variance(moments(values), cuped=True)[0]), 0.1, (1 - share, share), 0.05, 0.8)
    assert math.ceil(needed) == pytest.approx(theirs, abs=1)

"""Off-policy estimators, diagnostics and the click model: on simulated logs with known truth, and worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.errors import DataError
from llmrec.off_policy.bootstrap import bootstrap
from llmrec.off_policy.click_rates import RIDGE, cross_fitted_rates, fit_rates
from llmrec.off_policy.diagnostics import diagnose, effective_sample_size, effective_sample_size_floor
from llmrec.off_policy.estimators import (
    clipped_ips,
    clipped_weights,
    direct_method,
    doubly_robust,
    importance_weights,
    ips,
    snips,
    switch_dr,
    switch_threshold,
)

# Two contexts and three actions. The first context occurs in 70 % of the rounds.
CONTEXTS = np.array([0.7, 0.3])
LOGGING = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
POLICY = np.array([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1]])
REWARD = np.array([[0.1, 0.3, 0.8], [0.6, 0.2, 0.4]])
TRUTH = float(CONTEXTS @ (POLICY * REWARD).sum(1))
WRONG_REWARD = np.array([[0.9, 0.1, 0.2], [0.1, 0.9, 0.7]])
WRONG_LOGGING = np.array([[0.3, 0.3, 0.4], [0.4, 0.3, 0.3]])
ROUNDS = 400
LOGS = 500


def simulated_logs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Contexts, actions and rewards of independent logs, each [LOGS, ROUNDS]."""
    rng = np.random.default_rng(0)
    x = (rng.random((LOGS, ROUNDS)) >= CONTEXTS[0]).astype(int)
    a = (rng.random((LOGS, ROUNDS, 1)) > LOGGING.cumsum(1)[x]).sum(-1)
    return x, a, (rng.random(a.shape) < REWARD[x, a]).astype(float)


X, A, R = simulated_logs()


def errors(estimator, logging=LOGGING, q=REWARD) -> tuple[float, float]:
    """Mean error of an estimator over all logs, in standard errors of that mean, and its standard deviation."""
    w = POLICY[X, A] / logging[X, A]
    q_policy = (POLICY * q).sum(1)[X]
    values = np.array([estimator(*log) for log in zip(R, w, q[X, A], q_policy, strict=True)])
    return (values.mean() - TRUTH) / (values.std() / np.sqrt(LOGS)), values.std()


def test_the_truth_by_hand():
    assert pytest.approx(0.7 * (0.01 + 0.06 + 0.56) + 0.3 * (0.3 + 0.08 + 0.04)) == TRUTH


def test_ips_is_unbiased_only_with_the_right_propensities():
    assert abs(errors(lambda r, w, *_: ips(r, w))[0]) < 3.5
    assert abs(errors(lambda r, w, *_: ips(r, w), logging=WRONG_LOGGING)[0]) > 20


def test_snips_is_consistent():
    assert abs(errors(lambda r, w, *_: snips(r, w))[0]) < 3.5 + np.sqrt(LOGS) / np.sqrt(ROUNDS)  # its bias is O(1 / n)


def test_direct_method_is_unbiased_only_with_the_right_reward_model():
    assert abs(errors(lambda r, w, q, q_policy: direct_method(q_policy))[0]) < 3.5
    assert abs(errors(lambda r, w, q, q_policy: direct_method(q_policy), q=WRONG_REWARD)[0]) > 20


def test_doubly_robust_needs_the_right_propensities_or_the_right_reward_model():
    assert abs(errors(doubly_robust)[0]) < 3.5
    assert abs(errors(doubly_robust, q=WRONG_REWARD)[0]) < 3.5
    assert abs(errors(doubly_robust, logging=WRONG_LOGGING)[0]) < 3.5
    assert abs(errors(doubly_robust, q=WRONG_REWARD, logging=WRONG_LOGGING)[0]) > 20


def test_a_good_reward_model_makes_doubly_robust_more_precise_than_ips():
    assert errors(doubly_robust)[1] < 0.9 * errors(lambda r, w, *_: ips(r, w))[1]


def test_clipping_lowers_the_estimate():
    assert errors(lambda r, w, *_: clipped_ips(r, w, clip=2.0))[0] < -20
    r, w = np.array([1.0, 0, 1, 1]), np.array([0.5, 4, 1, 3])
    values = [clipped_ips(r, w, clip) for clip in (0.1, 1, 2, 3, np.inf)]
    assert values == sorted(values) and values[2] == pytest.approx(3.5 / 4)
    assert values[-1] == ips(r, w) == pytest.approx(4.5 / 4)
    assert clipped_ips(r, w) == values[2]  # sqrt(4) = 2


arrays = st.lists(st.tuples(st.floats(-5, 5), st.floats(0.01, 100)), min_size=1, max_size=20).map(np.array)


@given(arrays, st.floats(-3, 3))
def test_snips_stays_within_the_rewards_and_shifts_with_them(rounds, shift):
    r, w = rounds.T
    assert r.min() - 1e-9 <= snips(r, w) <= r.max() + 1e-9
    assert snips(r + shift, w) == pytest.approx(snips(r, w) + shift, abs=1e-9)


def test_snips_without_any_weight_is_nan():
    assert np.isnan(snips(np.ones(2), np.zeros(2)))


def test_switch_lies_between_direct_method_and_doubly_robust():
    r, w = np.array([1.0, 0.0, 1.0]), np.array([0.5, 2.0, 8.0])
    q, q_policy = np.array([0.2, 0.4, 0.5]), np.array([0.3, 0.1, 0.6])
    assert switch_dr(r, w, q, q_policy, 0.0) == direct_method(q_policy)
    assert switch_dr(r, w, q, q_policy, np.inf) == doubly_robust(r, w, q, q_policy)
    # Weights up to 2 are used: 1.0 + 0.5 x 0.8 + 2 x -0.4, over 3.
    assert switch_dr(r, w, q, q_policy, 2.0) == pytest.approx((1.0 + 0.4 - 0.8) / 3)


def test_switch_threshold_trades_variance_for_bias():
    rng = np.random.default_rng(0)
    w = np.concatenate([rng.uniform(0.5, 1.5, 999), [500.0]])
    r = (rng.random(1000) < 0.3).astype(float)
    r[-1] = 1.0
    constant = np.full(1000, 0.3)
    assert switch_threshold(r, w, constant, constant, reward_bound=0.01) < 2
    assert switch_threshold(r, w, constant, constant, reward_bound=10.0) == 500


def test_effective_sample_size_by_hand():
    assert effective_sample_size(np.ones(7)) == 7
    assert effective_sample_size(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
    assert effective_sample_size(np.array([300.0, 100.0])) == pytest.approx(1.6)
    assert effective_sample_size(np.array([0.0, 5.0])) == 1
    assert effective_sample_size(np.zeros(3)) == 0


def test_the_floor_of_the_effective_sample_size():
    assert [effective_sample_size_floor(n) for n in (10, 3000, 3001, 10_000)] == [30, 30, 30.01, 100]


def test_diagnostics_by_hand():
    found = diagnose(np.array([1.0, 0, 1, 0]), np.array([3.0, 1, 1, 0]))
    assert (found.rounds, found.clicks, found.floor, found.max_weight) == (4, 2, 30, 3)
    assert found.effective_sample_size == pytest.approx(25 / 11)
    assert found.effective_clicks == pytest.approx(16 / 10)
    assert (found.mean_weight, found.max_share) == (1.25, 0.6)
    assert found.mean_weight_error == pytest.approx(np.std([3, 1, 1, 0]) / 2)


def test_refusal_and_warnings():
    clicks = np.arange(10_000) % 10 == 0
    assert diagnose(clicks, np.ones(10_000)).refusal is None
    assert diagnose(clicks, np.ones(10_000)).warnings == []
    heavy = np.where(np.arange(10_000) == 5, 2e4, 1.0)
    assert "effective sample size of 2.2 (expected at least 100)" in diagnose(clicks, heavy).refusal
    assert "expected 1 (standard error" in diagnose(clicks, np.tile([1.9, 2.1], 5000)).warnings[0]
    assert "9.0 effective clicks" in diagnose(np.arange(10_000) < 9, np.ones(10_000)).warnings[0]


@pytest.mark.parametrize(
    ("evaluation", "logging", "message"),
    [
        ([0.5], [0.0], "propensity"),
        ([0.5], [np.nan], "propensity"),
        ([0.5], [1.5], "propensity"),
        ([-0.1], [0.5], "at least 0"),
        ([1.1], [0.5], "of the policy is 1.1"),
        ([0.5, 0.5], [0.5], r"\(2,\) probabilities of the policy and \(1,\)"),
        ([], [], "at least one round"),
    ],
)
def test_impossible_probabilities_are_refused(evaluation, logging, message):
    with pytest.raises(DataError, match=message):
        importance_weights(np.array(evaluation), np.array(logging))


def test_importance_weights_are_ratios():
    assert importance_weights(np.array([0.5, 0.0]), np.array([0.25, 1.0])).tolist() == [2, 0]


def test_bootstrap_draws_all_rounds_of_a_user_together():
    rng = np.random.default_rng(0)
    once = rng.random(200)
    shuffled = rng.permutation(600)
    thrice = np.repeat(once, 3)[shuffled]
    users = np.repeat(np.arange(200), 3)[shuffled]
    by_user = bootstrap(lambda rows: {"mean": thrice[rows].mean()}, users)["mean"]
    by_round = bootstrap(lambda rows: {"mean": thrice[rows].mean()}, np.arange(600))["mean"]
    error = once.std() / np.sqrt(200)
    assert by_user.value == pytest.approx(once.mean())
    assert by_user.ci95 == pytest.approx((once.mean() - 1.96 * error, once.mean() + 1.96 * error), abs=0.2 * error)
    ratio = (by_user.ci95[1] - by_user.ci95[0]) / (by_round.ci95[1] - by_round.ci95[0])
    assert ratio == pytest.approx(np.sqrt(3), rel=0.1)


# -- the click model --


def test_rates_maximize_the_penalized_likelihood():
    """One item is always clicked, one never, and one is never shown; one position has no clicks."""
    shown = np.array([[[1000, 500], [40, 0], [300, 200], [0, 0]]], dtype=float)
    clicked = np.array([[[1000, 0], [2, 0], [0, 0], [0, 0]]], dtype=float)
    rates = fit_rates(shown, clicked)[0]
    base = (clicked.sum() + 0.5) / (shown.sum() + 1)
    effects = np.log(rates / (1 - rates)) - np.log(base / (1 - base))
    assert effects[0] - effects[1] == pytest.approx([effects[0, 0] - effects[1, 0]] * 2)  # additive
    # At the optimum each effect is its residual / ridge. The effect of a cell is the sum of both.
    residual = clicked[0] - shown[0] * rates
    assert effects == pytest.approx((residual.sum(1)[:, None] + residual.sum(0)) / RIDGE, abs=1e-5)


def test_rates_are_recovered_from_many_rounds():
    odds = np.array([-3.0, -2, -1])[:, None] + np.array([0.0, 1.0])
    truth = 1 / (1 + np.exp(-odds))
    shown = np.full((1, 3, 2), 1e6)
    assert fit_rates(shown, shown * truth)[0] == pytest.approx(truth, rel=1e-3)


def test_the_rate_of_a_round_does_not_depend_on_its_own_fold():
    rng = np.random.default_rng(0)
    action = rng.integers(0, 3, 300)
    position = rng.integers(0, 2, 300)
    fold = rng.integers(0, 2, 300)
    clicks = (rng.random(300) < 0.3).astype(float)
    other = np.where(fold == 0, 1 - clicks, clicks)
    one, two = (cross_fitted_rates(c, action, position, fold, (2, 3, 2)) for c in (clicks, other))
    assert np.array_equal(one[0], two[0]) and abs(one[1] - two[1]).max() > 0.1


def test_weights_are_clipped_at_the_root_of_their_number():
    assert clipped_weights(np.array([0.5, 1, 3, 9])).tolist() == [0.5, 1, 2, 2]  # sqrt(4) = 2
    assert clipped_weights(np.array([0.5, 1, 3, 9]), clip=5).tolist() == [0.5, 1, 3, 5]

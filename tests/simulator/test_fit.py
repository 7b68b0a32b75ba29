"""Fits: sessions, regressions and tastes recover what a log was made from."""

from dataclasses import replace

import numpy as np
import pytest

from llmrec.config import SimulatorConfig
from llmrec.config.simulator import AssumptionsConfig
from llmrec.errors import DataError, ModelError
from llmrec.simulator.distances import discriminator_auc, ks_distance, permutation_null, with_interval
from llmrec.simulator.events import fatigue_before, held_out_events, session_numbers
from llmrec.simulator.mixture import expectation_maximization
from llmrec.simulator.policies import live, log_policies, top_slates, true_tastes
from llmrec.simulator.regression import logistic_regression, purchase_factors
from llmrec.simulator.sensitivity import kendall_tau
from llmrec.simulator.sessions import session_parameters, sessions_of
from llmrec.simulator.validation import next_click_quality, run_lengths, validate
from llmrec.simulator.world import fit_world, load_world, save_world
from tests.simulator.worlds import log, people

SMALL = SimulatorConfig(min_users=20, permutations=20, lives=20, known_items=3)


def test_sessions_by_hand() -> None:
    hours = np.array([0.0, 0.5, 3.0, 3.9, 50.0]) / 24
    assert session_numbers(hours, 1 / 24).tolist() == [0, 0, 1, 1, 2]
    events = held_out_events(log(), 60, 20)
    found = sessions_of(events)
    assert len(events) == 60 and len(found) == 120
    assert (found.clicks == 12).all()
    # The sessions of a user start 2 days apart, less the minutes that 12 clicks take.
    assert np.allclose(found.gap[0::2], 2 + 1 / 1440) and np.isinf(found.gap[1::2]).all()


def test_parameters_say_where_they_come_from() -> None:
    found = session_parameters(held_out_events(log(), 60, 20), AssumptionsConfig(), horizon=30.0)
    assert found["end_intercept"].origin == "fitted" and found["end_intercept"].n == 60 * 24
    assert found["return_satisfaction"].origin == "assumed"
    # Half of the sessions are followed by another one, so the log-odds of a return are 0.
    low, high = found["return_intercept"].ci95 or (1.0, -1.0)
    assert low < 0 < high and found["return_intercept"].origin == "fitted"
    assert min(found["gap_quantiles"].value) == pytest.approx(2 + 1 / 1440)


def test_a_log_with_one_session_a_user_assumes_returns() -> None:
    found = session_parameters(held_out_events(log(sessions=1), 60, 20), AssumptionsConfig(), horizon=30.0)
    assert found["return_intercept"].origin == "assumed" and "0 returns" in found["return_intercept"].source
    assert found["gap_quantiles"].origin == "assumed"
    given = session_parameters(held_out_events(log(), 60, 20), AssumptionsConfig(return_rate=0.8), horizon=30.0)
    assert given["return_intercept"].value == pytest.approx(np.log(4)) and given["return_intercept"].origin == "assumed"


def test_logistic_regression_recovers_its_coefficients() -> None:
    rng = np.random.default_rng(0)
    features = np.stack([np.ones(20_000), rng.normal(size=20_000)], axis=1)
    labels = rng.random(20_000) < 1 / (1 + np.exp(-(features @ [-1.0, 0.7])))
    weights, errors = logistic_regression(features, labels)
    assert (np.abs(weights - [-1.0, 0.7]) < 4 * errors).all()
    # The information of the intercept alone is p (1 - p) n, so the error is near 1 / sqrt(0.2 x 20,000).
    assert errors[0] == pytest.approx(0.0162, abs=0.002)


def test_purchase_factors_recover_items_and_drift() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 50, 30_000), rng.integers(0, 20, 30_000)
    positions = rng.integers(0, 100, 30_000)
    of_item = np.linspace(-2, 2, 20)
    bought = rng.random(30_000) < 1 / (1 + np.exp(-(1.0 + of_item[items] - 0.5 * np.log1p(positions))))
    first, second = purchase_factors(users, items, positions, bought, (50, 20))
    assert np.corrcoef(second[:, 1], of_item)[0, 1] > 0.99
    assert first[0, 2] == pytest.approx(-0.5, abs=0.06)


def test_expectation_maximization_finds_the_groups() -> None:
    counts = np.kron(np.eye(2), np.ones((20, 10))) * 3
    shares, groups = expectation_maximization(counts, 2, seed=0)
    assert np.allclose(shares.sum(axis=1), 1) and np.allclose(groups.sum(axis=1), 1)
    own = groups[:, :10].sum(axis=1)
    assert own.max() > 0.7 and own.min() < 0.3


def test_fatigue_is_that_of_people() -> None:
    """Replaying a session through `People` and computing it from the log agree."""
    world = people(no_click=-60.0, end_intercept=-60.0)
    state = world.reset(0, 1)
    items = np.array([2, 4, 2, 1])
    for item in items[:-1]:
        world.step(state, np.array([item]))
    before = fatigue_before(world.population.categories[items], np.zeros(4), world.behavior.category_memory, 1.0)
    assert np.allclose(before[-1], state.fatigue[0], atol=1e-6)
    rested = fatigue_before(world.population.categories[items[:2]], np.array([0.0, 3.0]), 0.9, 1.5)
    assert rested[1, 2] == pytest.approx(0.1 * np.exp(-2.0))


def test_distances_by_hand() -> None:
    assert ks_distance(np.array([1.0, 2.0]), np.array([2.0, 3.0])) == 0.5
    assert ks_distance(np.array([1, 2]), np.array([1, 2])) == 0.0
    assert kendall_tau({"a": 1, "b": 2, "c": 3}, {"a": 5, "b": 9, "c": 7}) == pytest.approx(1 / 3)
    rows = np.eye(3, dtype=np.float32)[[0, 0, 1, 2, 2, 2]]
    assert run_lengths(np.arange(6), rows).tolist() == [2, 1, 3]
    found = with_interval(ks_distance, [np.ones(3)] * 20, [np.zeros(3)] * 20, seed=0)
    assert found["value"] == 1.0 and found["ci95"] == [1.0, 1.0] and found["real_to_real"] == 0.0
    assert with_interval(ks_distance, [np.zeros(0)] * 3, [np.ones(1)] * 3, seed=0)["value"] is None


def test_the_discriminator_finds_a_difference_and_its_null_does_not() -> None:
    rng = np.random.default_rng(0)
    users = np.tile(np.arange(60), 2)
    labels = np.repeat([1, 0], 60)
    features = rng.normal(size=(120, 3))
    null = permutation_null(features, labels, users, 10, seed=0)
    assert 0.35 < null.mean() < 0.65
    features[:60, 0] += 3.0
    assert discriminator_auc(features, labels, users, 0) > 0.95


@pytest.mark.parametrize("family", ["chain", "mixture"])
def test_a_fitted_world_knows_the_groups_is_saved_and_plays(family: str, tmp_path) -> None:
    data = log()
    events = held_out_events(data, 60, 20)
    world = fit_world("base", family, 0, events, data, SMALL)
    quality = next_click_quality(world, events)
    assert quality["auc"]["value"] > quality["popularity_auc"]["value"]
    own = world.population.tastes.all_utilities(world.people().reset(0, 40).moments)
    groups = world.people().reset(0, 40).user % 2
    for group in (0, 1):
        assert own[groups == group][:, group::2].mean() > own[groups == group][:, 1 - group :: 2].mean()
    save_world(world.checked(True), tmp_path / "base")
    loaded = load_world(tmp_path / "base")
    assert loaded.validated and loaded.parameters == world.parameters and loaded.users == world.users
    policy = log_policies(data)["ease"]
    one, two = (live(each.people(), policy, 20, seed=3) for each in (world, loaded))
    assert (one.reward == two.reward).all() and one.steps.min() >= 1
    best = live(world.people(), true_tastes, 200, seed=3)
    worst = live(world.people(), lambda people, state: -true_tastes(people, state), 200, seed=3)
    assert best.clicks.mean() > 1.5 * worst.clicks.mean()


def test_a_damaged_world_is_refused(tmp_path) -> None:
    data = log()
    world = fit_world("base", "mixture", 0, held_out_events(data, 60, 20), data, SMALL)
    save_world(world, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ModelError, match="does not hold a whole world"):
        load_world(tmp_path)


def test_a_world_of_random_users_is_not_validated() -> None:
    """If tastes are shuffled among users after the fit, the next click is no longer predicted."""
    data = log(late_users=80)
    events = held_out_events(data, 60, 20)
    world = fit_world("base", "mixture", 0, events, data, SMALL)
    tastes = world.population.tastes
    swapped = replace(tastes, shares=np.roll(tastes.arrays()["shares"], 1, axis=0), tilt=np.zeros(1, np.float32))  # type: ignore[type-var]
    broken = replace(world, population=replace(world.population, tastes=swapped))
    good, bad = (next_click_quality(each, events)["auc"]["value"] for each in (world, broken))
    assert bad < good


def test_a_world_is_checked_in_all_ways() -> None:
    data = log(late_users=60)
    events = held_out_events(data, 60, 20)
    world = fit_world("base", "mixture", 0, events, data, SMALL)
    found = validate(world, events, data, SMALL)
    assert found["discriminator"]["windows"] == 60
    assert {"popularity_curve", "category_runs", "session_length", "time_to_return"} <= set(found)
    assert found["validated"] == (not found["failed"])
    assert 0 <= found["popularity_curve"]["ci95"][0] <= found["popularity_curve"]["ci95"][1] <= 1


def test_lists_hold_unseen_items_best_first() -> None:
    scores = np.array([[5.0, 1.0, 4.0, 3.0]])
    seen = np.array([[True, False, False, False]])
    assert top_slates(scores, seen, 2).tolist() == [[2, 3]]
    assert top_slates(scores, seen, 1).tolist() == [[2]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (log(timed=False), "The log has no times, so sessions, the time to return"),
        (replace(log(), targets={"leave_one_out": {}}), "expected `temporal`"),
        (log(late_users=10), "10 users have 5 or more clicks .* expected at least 20 .* Raise `data.temporal_test`"),
    ],
)
def test_unusable_logs_are_refused(data, message: str) -> None:
    with pytest.raises(DataError, match=message):
        held_out_events(data, 60, 20)

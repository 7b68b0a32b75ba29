"""Analysis: false positives, planted effects, corrections, guardrails, decisions and refusals."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks import ab_test as proof
from benchmarks.ab_test_users import Effects, GeneratedUsers
from llmrec.ab_test.analyze import analyze, compare_all, decide
from llmrec.ab_test.enrollment import DAY, seconds_of
from llmrec.ab_test.log import typed_events
from llmrec.ab_test.outcomes import Outcomes
from llmrec.ab_test.population import run_on
from llmrec.ab_test.results import Comparison
from llmrec.config import ABTestConfig
from llmrec.data.readers.raw import Source, Table
from llmrec.errors import ConfigError, DataError
from tests.ab_test import EXAMPLE, config_of


def report_of(frame: pd.DataFrame, config: ABTestConfig, until: str | None = None):
    events = typed_events(Table(frame, Source("log.csv")), config)
    return analyze(events, config, None if until is None else seconds_of(until))


# --- proofs ---------------------------------------------------------------------------------------


def false_positives(tests: int, users: int) -> dict[str, float]:
    """Share of A/A tests of the click rate in which each method finds a difference."""
    tally = proof.run_planted_tests(tests, users, 1.0)
    return {method: tally.share(method) for method in proof.METHODS}


def test_false_positives_of_a_few_tests():
    """The interval of 99.9 % of 150 draws at .05, because this is one of many tests."""
    low, high = stats.binom.interval(0.999, 150, 0.05)
    found = false_positives(150, 1000)
    for method in proof.METHODS[:2]:
        assert low <= 150 * found[method] <= high, method
    assert found["t-test, 20 looks"] > 0.12
    for method in proof.METHODS[3:]:
        assert 150 * found[method] <= high, method


@pytest.mark.slow
def test_false_positives_of_a_thousand_tests():
    tallies, families = proof.run_null_tests(1000, 2000)
    low, high = stats.binom.interval(0.99, 1000, 0.05)
    for metric, tally in tallies.items():
        for method in proof.METHODS[:2]:
            assert low <= 1000 * tally.share(method) <= high, (metric, method)
        assert tally.share("t-test, 20 looks") > 0.15
        for method in proof.METHODS[3:]:
            assert 1000 * tally.share(method) <= high, (metric, method)
    assert sum(families) <= high


def test_the_planned_power_is_reached_and_cuped_saves_users():
    effect = proof.smallest_effect(1000)
    tally = proof.run_planted_tests(100, 1000, 1 + effect)
    low, high = stats.binom.interval(0.999, 100, 0.8)
    assert low <= 100 * tally.share("t-test with CUPED, one look") <= high
    assert tally.share("t-test, one look") < tally.share("t-test with CUPED, one look")
    large = proof.run_planted_tests(30, 1000, 1 + 2.5 * effect)
    assert large.share(proof.SEQUENTIAL) > 0.9 and np.mean(large.users[proof.SEQUENTIAL]) < 800


# --- a whole log ----------------------------------------------------------------------------------


def test_a_planted_effect_is_found_and_nothing_else(log, config):
    report = report_of(log, config)
    found = {one.metric: one for one in report.comparisons}
    assert list(found) == [one.name for one in config.metrics]
    clicks = found["click_rate"]
    assert clicks.verdict == "better" and clicks.p_holm < 0.05 and clicks.interval[0] > 0
    # Clicks are raised by .6 of about .125.
    assert clicks.relative == pytest.approx(0.6, abs=0.2) and clicks.control == pytest.approx(0.125, abs=0.02)
    assert clicks.interval[0] < clicks.fixed_interval[0] < clicks.fixed_interval[1] < clicks.interval[1]
    assert 0.2 < clicks.variance_reduction < 0.8
    assert found["session_length"].verdict == "undecided" and found["retention"].verdict == "holds"
    assert report.decisions == {"new": "ship"} and report.refusal is None and report.warnings == []
    assert report.sample_ratio.p > 0.01 and report.enrolled == sum(report.sample_ratio.users.values())
    exposed = (
        log[log["arm"].notna() & (log["timestamp"] < seconds_of("2026-03-11"))].groupby("user_id")["timestamp"].min()
    )
    before = log["user_id"].map(exposed) - log["timestamp"]
    known = log.loc[(before > 0) & (before <= 7 * DAY), "user_id"].nunique()
    assert report.with_history == pytest.approx(known / len(exposed)) and 0.3 < report.with_history < 0.8


def test_only_users_whose_days_are_over_count(log, config):
    report = report_of(log, config, "2026-03-10")
    looks = {one.day: one.users for one in report.comparisons[0].looks}
    exposed = log[log["arm"].notna()].groupby("user_id")["timestamp"].min()
    for day in (8, 9):
        assert looks[day] == (exposed <= seconds_of("2026-03-01") + (day - 7) * DAY).sum() > 0
    assert looks[6] == looks[7] == 0 and report.days == 9


def test_later_looks_do_not_change_earlier_ones(log, config):
    early, late = report_of(log, config, "2026-03-10"), report_of(log, config, "2026-03-13")
    for one, two in zip(early.comparisons, late.comparisons, strict=True):
        for before, after in zip(one.looks, two.looks, strict=False):
            assert before.users == after.users and before.difference == pytest.approx(after.difference)


def test_too_few_users_have_no_number(log, config):
    report = report_of(log, config, "2026-03-05")
    for one in report.comparisons:
        assert one.verdict == "too few" and one.difference is one.interval is one.p is one.fixed_p is None
    assert report.decisions == {"new": "continue"}
    assert report.warnings[0].startswith("click_rate: an arm has fewer than 100 users whose 7 days are over (the log")


def test_a_wrong_sample_ratio_refuses_all_numbers(log, config):
    treated = log.loc[log["arm"] == "new", "user_id"].unique()
    report = report_of(log[~log["user_id"].isin(treated[: len(treated) // 4])], config)
    assert report.comparisons == [] and report.decisions == {}
    assert "do not have their shares of users: live" in report.refusal and "expected at least 0.001" in report.refusal


def test_what_is_missing_is_an_error(log, config):
    with pytest.raises(ConfigError, match="`planned_users` is null"):
        report_of(log, config_of(planned_users=None))
    during = log[log["arm"].notna()]
    with pytest.raises(DataError, match=r"has a row in the 7 days before.*set `covariate_days: null`"):
        report_of(during, config)
    report = report_of(during, config_of(covariate_days=None))
    assert report.with_history is None and report.comparisons[0].variance_reduction is None
    assert report.comparisons[0].verdict == "better"


def test_several_arms_and_a_violated_guardrail():
    """One arm raises clicks, the other keeps users away: its retention is a violated guardrail."""
    arms = {"live": 0.4, "good": 0.3, "bad": 0.3}
    metrics = [*EXAMPLE["metrics"][:-1], EXAMPLE["metrics"][-1] | {"margin": 0.05}]
    config = config_of(arms=arms, metrics=metrics, planned_users=1200)
    users = GeneratedUsers(1200, {"good": Effects(clicks=1.6), "bad": Effects(visits=0.3)}, seed=1)
    report = report_of(run_on(users, config, days=17, days_before=7), config)
    found = {(one.arm, one.metric): one for one in report.comparisons}
    assert len(found) == 10
    assert found["good", "click_rate"].verdict == "better" and found["bad", "click_rate"].verdict == "undecided"
    assert found["bad", "retention"].verdict == "violated" and found["bad", "retention"].p_holm is None
    assert report.decisions["bad"] == "stop" and report.decisions["good"] in ("ship", "continue")
    # Two primary comparisons: Holm doubles the smaller p.
    assert found["good", "click_rate"].p_holm == pytest.approx(2 * found["good", "click_rate"].p)


def test_a_lower_value_is_better_if_the_metric_says_so():
    rng = np.random.default_rng(0)
    arm = np.arange(2000) % 2
    values = np.column_stack([rng.normal(1 - 0.3 * arm), np.ones(2000), np.zeros((2000, 2))])
    outcomes = {"errors": Outcomes(values, np.arange(2000))}
    for better, verdict in (("lower", "better"), ("higher", "worse")):
        metric = {"name": "errors", "kind": "mean", "column": "x", "role": "primary", "better": better}
        config = config_of(metrics=[metric], planned_users=2000)
        found = compare_all(outcomes, arm, np.array([999, 1999]), 0, config)
        assert found[0].verdict == verdict and found[0].difference == pytest.approx(-0.3, abs=0.15)
        assert decide(found, config) == {"new": "ship" if better == "lower" else "stop"}


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.0, "holds"), (-0.1, "holds"), (-0.5, "violated"), (-0.3, "undecided")]
)
def test_guardrails_compare_with_their_margin(shift, verdict):
    """Exact values: the difference is `shift`, the interval is .18 wide to each side, and the margin is .3."""
    noise = np.repeat(np.tile([-1.0, 1.0], 500), 2)
    arm = np.arange(2000) % 2
    values = np.column_stack([noise + shift * arm, np.ones(2000), np.zeros((2000, 2))])
    metrics = [
        {"name": "main", "kind": "session_length", "role": "primary"},
        {"name": "guard", "kind": "mean", "column": "x", "role": "guardrail", "margin": 0.3},
    ]
    config = config_of(metrics=metrics, planned_users=2000)
    outcomes = {name: Outcomes(values, np.arange(2000)) for name in ("main", "guard")}
    found = compare_all(outcomes, arm, np.array([1999]), 0, config)[1]
    assert found.difference == pytest.approx(shift)
    assert (found.interval[1] - found.interval[0]) / 2 == pytest.approx(3.0351 * np.sqrt(4 / 1998), rel=1e-3)
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("primary", "guard", "users", "decision"),
    [
        ("better", "holds", 100, "ship"),
        ("better", "undecided", 900, "continue"),
        ("better", "violated", 900, "stop"),
        ("worse", "holds", 900, "stop"),
        ("undecided", "holds", 399, "continue"),
        ("undecided", "holds", 400, "no difference"),
    ],
)
def test_decisions(primary, guard, users, decision):
    comparisons = [
        Comparison("click_rate", "primary", "new", {"live": users - 50, "new": 50}, verdict=primary),
        Comparison("retention", "guardrail", "new", {}, verdict=guard),
    ]
    assert decide(comparisons, config_of()) == {"new": decision}


def test_an_effect_that_fades_is_named():
    """The first 1,000 users differ by 1, the later ones by -1: the verdict stands, and a warning names it."""
    rng = np.random.default_rng(0)
    arm = np.arange(2000) % 2
    shift = np.where(np.arange(2000) < 1000, 0.5, -0.5)
    values = np.column_stack([rng.normal(shift * arm), np.ones(2000), np.zeros((2000, 2))])
    metric = {"name": "main", "kind": "session_length", "role": "primary"}
    config = config_of(metrics=[metric], planned_users=1000)
    found = compare_all({"main": Outcomes(values, np.arange(2000))}, arm, np.array([999, 1999]), 0, config)[0]
    assert found.verdict == "better" and found.interval[0] < 0 < found.interval[1]
    assert found.decided_on == pytest.approx(999 / DAY)

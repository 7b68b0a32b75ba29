"""`llmrec off-policy` on simulated logs whose true click rates are known, and on the Open Bandit sample."""

import json
import os
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from llmrec.cli import app as cli
from llmrec.config import parse_config
from llmrec.data.decision import Decision
from llmrec.data.profiles import NEW_USER
from llmrec.errors import DataError, ModelError, UserError
from llmrec.off_policy import evaluate, logs
from llmrec.off_policy.bootstrap import Estimate
from llmrec.off_policy.evaluate import OffPolicyReport, estimate_all, make_rounds, off_policy_report
from llmrec.off_policy.logs import ExposureLog, Support, read_exposure_log
from llmrec.off_policy.policies import policy_of_log, policy_of_run
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import item_scores
from llmrec.run import Run, run_stage
from reward_models import ClickPurchaseConfig, ClickPurchaseModel, catalogue_hash
from reward_models.features import profile_words
from tests.conftest import disturb

OPEN_BANDIT = Path(os.environ.get("LLMREC_TEST_DATA", "data")) / "open-bandit"
needs_open_bandit = pytest.mark.skipif(
    not OPEN_BANDIT.is_dir(),
    reason=f"{OPEN_BANDIT} is missing: set LLMREC_TEST_DATA to its parent directory",
)
ITEMS = 5
USERS = 1000
RATES = np.array([0.1, 0.2, 0.3, 0.4, 0.5])  # click rates at the first position; half of that at the second
UNIFORM = np.full((2, ITEMS), 0.2)
SKEWED = np.array([[0.1, 0.1, 0.1, 0.3, 0.4], [0.4, 0.3, 0.1, 0.1, 0.1]])


def write_log(directory: Path, policy: np.ndarray, rounds: int, seed: int, **columns) -> Path:
    """Writes the log of a policy [2, ITEMS] in the format of Open Bandit; `columns` replace its columns."""
    rng = np.random.default_rng(seed)
    position = rng.integers(0, 2, rounds)
    item = (rng.random((rounds, 1)) > policy.cumsum(1)[position]).sum(1)
    user = rng.integers(0, USERS, rounds)
    log = {
        "timestamp": pd.date_range("2019-11-24", periods=rounds, freq="min", tz="UTC").astype(str),
        "item_id": item,
        "position": position + 1,
        "click": (rng.random(rounds) < RATES[item] * np.array([1, 0.5])[position]).astype(int),
        "propensity_score": policy[position, item],
        **{f"user_feature_{k}": [f"u{k}{n // 10**k % 10}" for n in user] for k in range(4)},
    }
    context = {"item_id": range(ITEMS), **{f"item_feature_{k}": [f"f{k}"] * ITEMS for k in range(4)}}
    directory.mkdir()
    pd.DataFrame(log | columns).to_csv(directory / "men.csv")
    pd.DataFrame(context).to_csv(directory / "item_context.csv")
    return directory


@pytest.fixture(scope="module")
def open_bandit_logs(tmp_path_factory) -> tuple[Path, Path]:
    """The log of a uniform policy and that of a skewed one."""
    directory = tmp_path_factory.mktemp("logs")
    return (
        write_log(directory / "uniform", UNIFORM, 6000, 0),
        write_log(directory / "skewed", SKEWED, 6000, 1),
    )


@pytest.fixture(scope="module")
def exposure_logs(open_bandit_logs) -> tuple[ExposureLog, ExposureLog]:
    return read_exposure_log(open_bandit_logs[0]), read_exposure_log(open_bandit_logs[1])


@pytest.fixture(autouse=True)
def few_bootstrap_samples(monkeypatch):
    for module in (evaluate, logs):
        monkeypatch.setattr(module, "BOOTSTRAP_SAMPLES", 100)


def llmrec(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    """Runs `llmrec off-policy` in this process and returns exit code, stdout and stderr."""
    monkeypatch.setattr("llmrec.cli.process.silence_libraries", lambda: None)
    monkeypatch.setattr(sys, "argv", ["llmrec", "off-policy", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0, *capsys.readouterr()


@pytest.mark.parametrize("uniform_log", [True, False])
def test_estimates_are_near_the_true_click_rate(exposure_logs, uniform_log):
    log, other = exposure_logs if uniform_log else exposure_logs[::-1]
    target = policy_of_log(log, other)
    rounds, outside = make_rounds(log, target)
    truth = (np.array([[1], [0.5]]) * RATES * (SKEWED if uniform_log else UNIFORM)).sum(1).mean()
    estimates = {**estimate_all(rounds), "on policy": target.on_policy}
    assert outside == pytest.approx(0)
    for name, estimate in estimates.items():
        error = (estimate.ci95[1] - estimate.ci95[0]) / 3.92
        assert error < 0.01 and estimate.ci95[0] < estimate.value < estimate.ci95[1]
        # The reward model adds log-odds, but the true rates are products, so the direct method is slightly biased.
        assert abs(estimate.value - truth) < (0.02 if name == "dm" else 3 * error), name


def test_only_constant_propensities_are_taken_as_the_policy(open_bandit_logs, exposure_logs, tmp_path):
    log = exposure_logs[0]
    exact = policy_of_log(log, exposure_logs[1])
    assert exact.description == "its logged propensities"
    position = log.frame["position"].to_numpy() - 1
    assert exact.probabilities == pytest.approx(SKEWED[position])
    # The same exposures with propensities that change over time: the frequencies are used instead.
    written = pd.read_csv(open_bandit_logs[1] / "men.csv", index_col=0)
    changing = written["propensity_score"] * np.where(written.index % 2, 0.5, 1)
    shown = {name: written[name] for name in ("item_id", "position")}
    moved = read_exposure_log(write_log(tmp_path / "x", SKEWED, 6000, 1, **shown, propensity_score=changing))
    counted = policy_of_log(log, moved)
    assert counted.description == "its item frequencies at each position"
    first = written[written["position"] == 1]
    assert counted.probabilities[position == 0][0] == pytest.approx(
        first["item_id"].value_counts(normalize=True).sort_index()
    )


def test_a_policy_is_restricted_to_the_support_of_the_log(exposure_logs, tmp_path):
    """The log never shows item 4 at the first position, and item 0 at neither."""
    narrow = np.array([[0, 0.25, 0.25, 0.5, 0], [0, 0.25, 0.25, 0.25, 0.25]])
    log = read_exposure_log(write_log(tmp_path / "narrow", narrow, 3000, 0))
    support = Support.from_log(log)
    assert support.items.tolist() == [1, 2, 3, 4]
    assert support.positions.tolist() == [1, 2]
    assert support.shown.tolist() == [[True, True, True, False], [True, True, True, True]]
    rounds, outside = make_rounds(log, policy_of_log(log, exposure_logs[1]))
    first, second = (rounds.policy[rounds.positions == k][0] for k in (0, 1))
    assert first == pytest.approx([0.2, 0.2, 0.6, 0]) and second == pytest.approx(np.array([3, 1, 1, 1]) / 6)
    # At the first position 0.1 + 0.4 of the policy is lost, at the second 0.4.
    assert outside == pytest.approx(0.5 * (rounds.positions == 0).mean() + 0.4 * (rounds.positions == 1).mean())
    only_last = np.zeros((3000, 4))
    only_last[:, 3] = 1
    left, outside = make_rounds(log, replace(policy_of_log(log, exposure_logs[1]), probabilities=only_last))
    assert (left.positions == 1).all() and len(left.clicks) == (rounds.positions == 1).sum()
    assert outside == pytest.approx((rounds.positions == 0).mean())
    report = off_policy_report(log, policy_of_log(log, exposure_logs[1]))
    assert any("lies on items that the log never shows" in line for line in report.warnings)


def test_json_and_table_show_the_same_numbers(open_bandit_logs, monkeypatch, capsys):
    code, out, _ = llmrec(monkeypatch, capsys, open_bandit_logs[0], "--target-log", open_bandit_logs[1], "--json")
    report = json.loads(out)
    assert code == 0 and report["diagnostics"]["refusal"] is None and report["diagnostics"]["warnings"] == []
    assert list(report["estimates"]) == ["ips", "clipped_ips", "snips", "dm", "dr", "switch_dr"]
    code, out, _ = llmrec(monkeypatch, capsys, open_bandit_logs[0], "--target-log", open_bandit_logs[1])
    assert code == 0 and "NOT TO BE TRUSTED" not in out
    for name, rate in {**report["estimates"], "the policy's own log": report["on_policy"]}.items():
        assert any(name in line and f"{rate['value']:.5f}" in line for line in out.splitlines()), name


def test_a_small_effective_sample_size_is_refused_unless_forced(open_bandit_logs, tmp_path, monkeypatch, capsys):
    rare = np.where(np.arange(6000) == 7, 1e-6, 0.2)
    rare_log = write_log(tmp_path / "rare", UNIFORM, 6000, 0, propensity_score=rare)
    arguments = (rare_log, "--target-log", open_bandit_logs[1])
    code, out, err = llmrec(monkeypatch, capsys, *arguments)
    assert code == 2 and "effective sample size 1 (at least 60 is needed)" in out and "switch_dr" not in out
    assert "error: This log holds too little data about this policy" in err and "--force" in err
    code, out, err = llmrec(monkeypatch, capsys, *arguments, "--json")
    report = json.loads(out)
    assert (
        code == 2 and report["estimates"] == {} and "effective sample size of 1.1" in report["diagnostics"]["refusal"]
    )
    code, out, _ = llmrec(monkeypatch, capsys, *arguments, "--force")
    assert code == 0 and "NOT TO BE TRUSTED, forced." in out and "switch_dr" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--target-log LOG or --run DIR"),
        (["--target-log", "x", "--run", "y"], "--target-log LOG or --run DIR"),
        (["--target-log", "x", "--model", "sft"], "--model selects a model of a run"),
    ],
)
def test_exactly_one_policy_must_be_named(open_bandit_logs, monkeypatch, capsys, options, message):
    code, _, err = llmrec(monkeypatch, capsys, open_bandit_logs[0], *options)
    assert code == 2 and message in " ".join(err.split())


def test_logs_that_do_not_match_are_refused(exposure_logs, tmp_path):
    log = exposure_logs[0]
    moved = read_exposure_log(write_log(tmp_path / "moved", UNIFORM, 3000, 0, position=1))
    with pytest.raises(DataError, match="shows items at position 2, but .*moved only at 1"):
        policy_of_log(log, moved)
    incomplete = np.where(np.arange(3000) == 3, np.nan, 0.2)
    with pytest.raises(DataError, match="2999 of 3000 exposures have a propensity"):
        read_exposure_log(write_log(tmp_path / "incomplete", UNIFORM, 3000, 0, propensity_score=incomplete))
    few = replace(log, frame=log.frame[log.frame["user"] < 2])
    with pytest.raises(DataError, match="belong to 2 users, expected at least 5"):
        estimate_all(make_rounds(few, policy_of_log(few, exposure_logs[1]))[0])
    one, other = (
        read_exposure_log(write_log(tmp_path / name, np.array([shares, shares]), 3000, 0))
        for name, shares in (("first", [0.5, 0.5, 0, 0, 0]), ("rest", [0, 0, 0.4, 0.3, 0.3]))
    )
    with pytest.raises(DataError, match="In all 3000 rounds .*first gives no probability"):
        make_rounds(other, policy_of_log(other, one))


# -- models of a run --


@pytest.fixture(scope="module")
def run(open_bandit_logs, tiny_base, tmp_path_factory) -> Run:
    """A run prepared from the skewed log, with a random SFT adapter and a random reward model."""
    return make_run(open_bandit_logs[1], tiny_base, tmp_path_factory.mktemp("runs"))


def make_run(log: Path, base: str, output: Path, scheme: str = "atomic") -> Run:
    data = {
        "format": "open_bandit",
        "path": str(log),
        "click": ["click>=1"],
        "purchase": [],
        "min_user_events": 0,
        "splits": ["temporal"],
        "temporal_valid": 0.2,
        "temporal_test": 0.2,
    }
    sections = {
        "catalogue": {"scheme": scheme, "max_history": 3},
        "model": {"base": base, "lora_r": 4},
        "ppo": {"advantage": "gae"},
    }
    run = Run.create(parse_config({"name": "bandit", "output_dir": str(output), "data": data, **sections}))
    run_stage(run, "data")
    prepared = read_exposure_log(run.directory).data
    policy = RecPolicy.create(run.config, prepared)
    disturb(policy)
    policy.save_pretrained(run.path("sft", "adapter"))
    run.finish("sft", {})
    torch.manual_seed(0)
    ids = catalogue_hash(prepared.items["item_id"])
    shape = ClickPurchaseConfig(prepared.num_items, ids, hidden_size=8, num_layers=1, purchases=False)
    model = ClickPurchaseModel(shape)
    torch.nn.init.normal_(model.click_bias)
    torch.nn.init.normal_(model.profile.weight)
    model.save_pretrained(run.path("reward"))
    run.finish("reward", {})
    return run


def test_an_adapter_is_asked_after_the_earlier_clicks_of_each_round(run, exposure_logs):
    log = exposure_logs[0]
    target = policy_of_run(log, run, None)
    assert target.name.startswith("sft of") and target.rows.all() and target.on_policy is None
    policy = RecPolicy.from_pretrained(run.path("sft", "adapter"))
    clicks = log.frame[log.frame["click"]]
    for row in [0, 1000, 3000, 5000, 5999]:
        shown = log.frame.iloc[row]
        earlier = clicks[(clicks["user"] == shown["user"]) & (clicks["timestamp"] < shown["timestamp"])]
        seen = earlier["item"].drop_duplicates().tolist()
        scores = next(item_scores(policy, [Decision(NEW_USER, seen[:-3], seen[-3:])]))[0].exp()
        assert target.probabilities[row] == pytest.approx(scores.numpy(), abs=1e-5)
        assert (target.probabilities[row][seen] == 0).all()


def test_a_reward_model_draws_from_the_softmax_of_its_rewards(run, exposure_logs):
    log = exposure_logs[0]
    target = policy_of_run(log, run, "reward")
    assert target.probabilities.sum(1) == pytest.approx(np.ones(len(target.probabilities)))
    model = ClickPurchaseModel.from_pretrained(run.path("reward"))
    user = int(log.frame["user"].iloc[0])
    words = profile_words(log.data.users)[[user]]
    alone = model.log_rewards([log.data.histories[user][:0]], profiles=words).softmax(-1)[0]
    assert target.probabilities[0] == pytest.approx(alone.numpy(), abs=1e-5)
    unknown = model.log_rewards([[]]).softmax(-1)[0]
    assert abs(alone - unknown).max() > 0.01  # the profile is used


def test_on_its_own_training_log_a_model_is_evaluated_in_the_test_window_only(run, exposure_logs):
    for log in (read_exposure_log(run.directory), exposure_logs[1]):
        target = policy_of_run(log, run, "reward")
        times = log.frame["timestamp"].to_numpy()
        assert 0 < target.rows.sum() < 0.4 * len(times)
        assert times[target.rows].min() > times[~target.rows].max()
        assert times[target.rows].min() == log.data.temporal_cuts()[1]
        assert make_rounds(log, target)[0].policy.shape == (target.rows.sum(), ITEMS)


def test_runs_that_cannot_be_evaluated_are_refused(run, open_bandit_logs, exposure_logs, tmp_path, tiny_base):
    more = write_log(tmp_path / "more", UNIFORM, 3000, 0)
    context = pd.read_csv(more / "item_context.csv", index_col=0)
    pd.concat([context, context.tail(1).assign(item_id=9)]).to_csv(more / "item_context.csv")
    with pytest.raises(DataError, match="a catalogue of 5 items, but .* has another one of 6 items"):
        policy_of_run(read_exposure_log(more), run, "reward")
    with pytest.raises(UserError, match="no finished ppo stage"):
        policy_of_run(exposure_logs[0], run, "ppo")
    titles = make_run(open_bandit_logs[1], tiny_base, tmp_path / "titles", scheme="title")
    with pytest.raises(ModelError, match="catalogue.scheme: atomic"):
        policy_of_run(exposure_logs[0], titles, "sft")


# -- the Open Bandit sample --


@cache
def open_bandit(log: str, other: str, page: str) -> OffPolicyReport:
    logged = read_exposure_log(OPEN_BANDIT / log / page)
    target = read_exposure_log(OPEN_BANDIT / other / page)
    return off_policy_report(logged, policy_of_log(logged, target))


def standard_error(estimate: Estimate) -> float:
    return (estimate.ci95[1] - estimate.ci95[0]) / 3.92


@needs_open_bandit
@pytest.mark.parametrize(
    ("log", "other", "page"), [("random", "bts", "men"), ("bts", "random", "men"), ("random", "bts", "women")]
)
def test_open_bandit_agrees_with_the_on_policy_rate(log, other, page):
    report = open_bandit(log, other, page)
    truth = report.on_policy.value
    error = standard_error(report.on_policy)
    assert report.refusal is None
    for name, estimate in report.estimates.items():
        assert abs(estimate.value - truth) < 2.5 * np.hypot(error, standard_error(estimate)), name


@needs_open_bandit
def test_open_bandit_agrees_with_the_published_numbers():
    """The dataset publishes 0.0030 (IPS) and 0.0032 (SNIPS) for the uniform policy from the bts log of men."""
    report = open_bandit("bts", "random", "men")
    assert report.diagnostics.effective_sample_size == pytest.approx(656, abs=1)
    assert report.estimates["ips"].value == pytest.approx(0.0030, abs=5e-5)
    assert report.estimates["snips"].value == pytest.approx(0.0032, abs=5e-5)


@needs_open_bandit
def test_open_bandit_women_logged_by_bts_is_refused():
    report = open_bandit("bts", "random", "women")
    assert report.estimates == {}
    assert "effective sample size of 2.1" in report.refusal

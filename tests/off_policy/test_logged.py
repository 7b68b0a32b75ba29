"""`llmrec off-policy` on logs made here, whose truth is known, and on the Open Bandit sample."""

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
from llmrec.off_policy import logged
from llmrec.off_policy.logged import (
    ExposureLog,
    estimate_all,
    make_rounds,
    off_policy_report,
    read_exposure_log,
    support,
    target_of_log,
    target_of_run,
)
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import item_scores
from llmrec.run import Run, run_stage
from reward_models import ClickPurchaseConfig, ClickPurchaseModel, catalogue_hash
from reward_models.features import profile_words
from tests.conftest import disturb

OPEN_BANDIT = Path(os.environ.get("LLMREC_TEST_DATA", "data")) / "open-bandit"
needs_open_bandit = pytest.mark.skipif(
    not OPEN_BANDIT.is_dir(), reason=f"no {OPEN_BANDIT}: set LLMREC_TEST_DATA to what holds open-bandit"
)
ITEMS, USERS = 5, 1000
RATES = np.array([0.1, 0.2, 0.3, 0.4, 0.5])  # of clicks, times 1 at the first position and 0.5 at the second
UNIFORM = np.full((2, ITEMS), 0.2)
SKEWED = np.array([[0.1, 0.1, 0.1, 0.3, 0.4], [0.4, 0.3, 0.1, 0.1, 0.1]])


def write_log(directory: Path, policy: np.ndarray, rounds: int, seed: int, **columns) -> Path:
    """A log of a policy [2, ITEMS] in the format of Open Bandit; `columns` replace what it would hold."""
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
def logs(tmp_path_factory) -> tuple[Path, Path]:
    """The log of a uniform policy and that of a skewed one."""
    directory = tmp_path_factory.mktemp("logs")
    return (
        write_log(directory / "uniform", UNIFORM, 6000, 0),
        write_log(directory / "skewed", SKEWED, 6000, 1),
    )


@pytest.fixture(scope="module")
def read(logs) -> tuple[ExposureLog, ExposureLog]:
    return read_exposure_log(logs[0]), read_exposure_log(logs[1])


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(logged, "SAMPLES", 100)


def llmrec(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    """Runs `llmrec off-policy` in this process: its exit code, stdout and stderr."""
    monkeypatch.setattr("llmrec.cli.process.silence_libraries", lambda: None)
    monkeypatch.setattr(sys, "argv", ["llmrec", "off-policy", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0, *capsys.readouterr()


@pytest.mark.parametrize("forth", [True, False])
def test_the_value_of_a_policy_from_the_log_of_another(read, forth):
    log, other = read if forth else read[::-1]
    target = target_of_log(log, other)
    rounds, outside = make_rounds(log, target)
    truth = (np.array([[1], [0.5]]) * RATES * (SKEWED if forth else UNIFORM)).sum(1).mean()
    estimates = {**estimate_all(rounds), "on policy": target.on_policy}
    assert outside == pytest.approx(0)
    for name, estimate in estimates.items():
        error = (estimate.ci95[1] - estimate.ci95[0]) / 3.92
        assert error < 0.01 and estimate.ci95[0] < estimate.value < estimate.ci95[1]
        # The reward model adds log-odds where the truth multiplies rates, so the direct method is a little off.
        assert abs(estimate.value - truth) < (0.02 if name == "dm" else 3 * error), name


def test_constant_propensities_are_the_policy_and_changing_ones_are_not(logs, read, tmp_path):
    log = read[0]
    exact = target_of_log(log, read[1])
    assert exact.how == "its logged propensities"
    place = log.frame["position"].to_numpy() - 1
    assert exact.probabilities == pytest.approx(SKEWED[place])
    # The same choices, logged with propensities that change over time: only the frequencies say what was done.
    written = pd.read_csv(logs[1] / "men.csv", index_col=0)
    changing = written["propensity_score"] * np.where(written.index % 2, 0.5, 1)
    shown = {name: written[name] for name in ("item_id", "position")}
    moved = read_exposure_log(write_log(tmp_path / "x", SKEWED, 6000, 1, **shown, propensity_score=changing))
    counted = target_of_log(log, moved)
    assert counted.how == "its frequencies of items, a position"
    first = written[written["position"] == 1]
    assert counted.probabilities[place == 0][0] == pytest.approx(
        first["item_id"].value_counts(normalize=True).sort_index()
    )


def test_a_policy_is_restricted_to_what_the_log_shows(read, tmp_path):
    """Item 4 is never shown at the first position, and item 0 nowhere."""
    narrow = np.array([[0, 0.25, 0.25, 0.5, 0], [0, 0.25, 0.25, 0.25, 0.25]])
    log = read_exposure_log(write_log(tmp_path / "narrow", narrow, 3000, 0))
    items, places, shown = support(log)
    assert (items.tolist(), places.tolist()) == ([1, 2, 3, 4], [1, 2])
    assert shown.tolist() == [[True, True, True, False], [True, True, True, True]]
    rounds, outside = make_rounds(log, target_of_log(log, read[1]))
    first, second = (rounds.policy[rounds.positions == k][0] for k in (0, 1))
    assert first == pytest.approx([0.2, 0.2, 0.6, 0]) and second == pytest.approx(np.array([3, 1, 1, 1]) / 6)
    # At the first position 0.1 + 0.4 of the policy is lost, at the second 0.4.
    assert outside == pytest.approx(0.5 * (rounds.positions == 0).mean() + 0.4 * (rounds.positions == 1).mean())
    only_last = np.zeros((3000, 4))
    only_last[:, 3] = 1
    left, outside = make_rounds(log, replace(target_of_log(log, read[1]), probabilities=only_last))
    assert (left.positions == 1).all() and len(left.clicks) == (rounds.positions == 1).sum()
    assert outside == pytest.approx((rounds.positions == 0).mean())
    report = off_policy_report(log, target_of_log(log, read[1]))
    assert any("lies on items that the log never shows" in line for line in report["diagnostics"]["warnings"])


def test_json_and_table(logs, monkeypatch, capsys):
    code, out, _ = llmrec(monkeypatch, capsys, logs[0], "--target-log", logs[1], "--json")
    report = json.loads(out)
    assert code == 0 and report["diagnostics"]["refusal"] is None and report["diagnostics"]["warnings"] == []
    assert list(report["estimates"]) == ["ips", "clipped_ips", "snips", "dm", "dr", "switch_dr"]
    code, out, _ = llmrec(monkeypatch, capsys, logs[0], "--target-log", logs[1])
    assert code == 0 and "NOT TO BE TRUSTED" not in out
    for name, rate in {**report["estimates"], "the policy's own log": report["on_policy"]}.items():
        assert any(name in line and f"{rate['value']:.5f}" in line for line in out.splitlines()), name


def test_a_log_that_says_too_little_is_refused(logs, tmp_path, monkeypatch, capsys):
    rare = np.where(np.arange(6000) == 7, 1e-6, 0.2)
    bad = write_log(tmp_path / "rare", UNIFORM, 6000, 0, propensity_score=rare)
    asked = (bad, "--target-log", logs[1])
    code, out, err = llmrec(monkeypatch, capsys, *asked)
    assert code == 2 and "effective sample size 1 (at least 60 is needed)" in out and "switch_dr" not in out
    assert "error: This log says too little of this policy" in err and "--force" in err
    code, out, err = llmrec(monkeypatch, capsys, *asked, "--json")
    report = json.loads(out)
    assert (
        code == 2 and report["estimates"] == {} and "effective sample size of 1.1" in report["diagnostics"]["refusal"]
    )
    code, out, _ = llmrec(monkeypatch, capsys, *asked, "--force")
    assert code == 0 and "NOT TO BE TRUSTED, forced." in out and "switch_dr" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--target-log LOG or --run DIR"),
        (["--target-log", "x", "--run", "y"], "--target-log LOG or --run DIR"),
        (["--target-log", "x", "--model", "sft"], "--model selects a model of a run"),
    ],
)
def test_which_policy_must_be_said(logs, monkeypatch, capsys, options, message):
    code, _, err = llmrec(monkeypatch, capsys, logs[0], *options)
    assert code == 2 and message in " ".join(err.split())


def test_logs_that_do_not_fit(read, tmp_path):
    log = read[0]
    moved = read_exposure_log(write_log(tmp_path / "moved", UNIFORM, 3000, 0, position=1))
    with pytest.raises(DataError, match="shows items at position 2, .*moved only at 1"):
        target_of_log(log, moved)
    incomplete = np.where(np.arange(3000) == 3, np.nan, 0.2)
    with pytest.raises(DataError, match="2999 of 3000 exposures have a propensity"):
        read_exposure_log(write_log(tmp_path / "incomplete", UNIFORM, 3000, 0, propensity_score=incomplete))
    few = replace(log, frame=log.frame[log.frame["user"] < 2])
    with pytest.raises(DataError, match="those of 2 users; expected at least 5"):
        estimate_all(make_rounds(few, target_of_log(few, read[1]))[0])
    one, other = (
        read_exposure_log(write_log(tmp_path / name, np.array([shares, shares]), 3000, 0))
        for name, shares in (("first", [0.5, 0.5, 0, 0, 0]), ("rest", [0, 0, 0.4, 0.3, 0.3]))
    )
    with pytest.raises(DataError, match="In all 3000 rounds .*first gives no probability"):
        make_rounds(other, target_of_log(other, one))


# --- models of a run


@pytest.fixture(scope="module")
def run(logs, tiny_base, tmp_path_factory) -> Run:
    """A run prepared from the skewed log, with an SFT adapter and a reward model that know nothing."""
    return make_run(logs[1], tiny_base, tmp_path_factory.mktemp("runs"))


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


def test_a_policy_of_a_run_on_another_log(run, read):
    """Each round by itself: the probabilities of the adapter after what that user clicked before it."""
    log = read[0]
    target = target_of_run(log, run, None)
    assert target.name.startswith("sft of") and target.rows.all() and target.on_policy is None
    policy = RecPolicy.from_pretrained(run.path("sft", "adapter"))
    clicks = log.frame[log.frame["click"]]
    for row in [0, 1000, 3000, 5000, 5999]:
        shown = log.frame.iloc[row]
        earlier = clicks[(clicks["user"] == shown["user"]) & (clicks["timestamp"] < shown["timestamp"])]
        had = earlier["item"].drop_duplicates().tolist()
        scores = next(item_scores(policy, [Decision(NEW_USER, had[:-3], had[-3:])]))[0].exp()
        assert target.probabilities[row] == pytest.approx(scores.numpy(), abs=1e-5)
        assert (target.probabilities[row][had] == 0).all()


def test_a_reward_model_as_a_policy(run, read):
    log = read[0]
    target = target_of_run(log, run, "reward")
    assert target.probabilities.sum(1) == pytest.approx(np.ones(len(target.probabilities)))
    model = ClickPurchaseModel.from_pretrained(run.path("reward"))
    user = int(log.frame["user"].iloc[0])
    words = profile_words(log.data.users)[[user]]
    alone = model.log_rewards([log.data.histories[user][:0]], profiles=words).softmax(-1)[0]
    assert target.probabilities[0] == pytest.approx(alone.numpy(), abs=1e-5)
    unknown = model.log_rewards([[]]).softmax(-1)[0]
    assert abs(alone - unknown).max() > 0.01  # the profile was read


def test_a_model_is_evaluated_on_the_log_it_was_trained_on_only_where_it_did_not_look(run, read):
    for log in (read_exposure_log(run.directory), read[1]):
        target = target_of_run(log, run, "reward")
        times = log.frame["timestamp"].to_numpy()
        assert 0 < target.rows.sum() < 0.4 * len(times)
        assert times[target.rows].min() > times[~target.rows].max()
        assert times[target.rows].min() == log.data.temporal_cuts()[1]
        assert make_rounds(log, target)[0].policy.shape == (target.rows.sum(), ITEMS)


def test_runs_that_cannot_be_evaluated(run, logs, read, tmp_path, tiny_base):
    more = write_log(tmp_path / "more", UNIFORM, 3000, 0)
    context = pd.read_csv(more / "item_context.csv", index_col=0)
    pd.concat([context, context.tail(1).assign(item_id=9)]).to_csv(more / "item_context.csv")
    with pytest.raises(DataError, match="a catalogue of 5 items, .* has 6"):
        target_of_run(read_exposure_log(more), run, "reward")
    with pytest.raises(UserError, match="no finished ppo stage"):
        target_of_run(read[0], run, "ppo")
    titles = make_run(logs[1], tiny_base, tmp_path / "titles", scheme="title")
    with pytest.raises(ModelError, match="catalogue.scheme: atomic"):
        target_of_run(read[0], titles, "sft")


# --- the Open Bandit sample


@cache
def open_bandit(log: str, other: str, page: str) -> dict:
    logged, wanted = (read_exposure_log(OPEN_BANDIT / name / page) for name in (log, other))
    return off_policy_report(logged, target_of_log(logged, wanted))


def standard_error(estimate: dict) -> float:
    return (estimate["ci95"][1] - estimate["ci95"][0]) / 3.92


@needs_open_bandit
@pytest.mark.parametrize(
    ("log", "other", "page"), [("random", "bts", "men"), ("bts", "random", "men"), ("random", "bts", "women")]
)
def test_open_bandit_agrees_with_the_on_policy_rate(log, other, page):
    report = open_bandit(log, other, page)
    truth, error = report["on_policy"]["value"], standard_error(report["on_policy"])
    assert report["diagnostics"]["refusal"] is None
    for name, estimate in report["estimates"].items():
        assert abs(estimate["value"] - truth) < 2.5 * np.hypot(error, standard_error(estimate)), name


@needs_open_bandit
def test_open_bandit_numbers_of_others():
    """IPS and SNIPS of the uniform policy from the bts log, men: published beside the data as .0030 and .0032."""
    report = open_bandit("bts", "random", "men")
    assert report["diagnostics"]["effective_sample_size"] == pytest.approx(656, abs=1)
    assert report["estimates"]["ips"]["value"] == pytest.approx(0.0030, abs=5e-5)
    assert report["estimates"]["snips"]["value"] == pytest.approx(0.0032, abs=5e-5)


@needs_open_bandit
def test_open_bandit_women_logged_by_bts_is_refused():
    report = open_bandit("bts", "random", "women")
    assert report["estimates"] == {} and "effective sample size of 2.1" in report["diagnostics"]["refusal"]

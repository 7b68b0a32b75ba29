"""The membership inference attack: pairs, scores by hand, and adapters of which it must or must not find something."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from llmrec.cli.app import main
from llmrec.data.dataset import InteractionData, Targets, save_data
from llmrec.data.decision import Decision
from llmrec.off_policy.bootstrap import Estimate
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack, target_log_probs
from llmrec.policy.ranking import item_scores
from llmrec.privacy.attack import Pairs, attack, auc, matched_users, mean_log_probs, popularity_scores, verdict
from llmrec.run import Run
from tests.conftest import disturb, make_config, make_data

MEMBERS = 30
ITEMS = 40
CATALOGUE = {"scheme": "atomic", "max_history": 8, "user_attributes": [], "cooccurrence_weight": 1.0}


def random_data() -> InteractionData:
    """Thirty users of the training data and thirty others, whose items are drawn from the same distribution."""
    rng = np.random.default_rng(0)
    lengths = np.tile(rng.integers(5, 9, MEMBERS), 2)
    histories = [rng.permutation(ITEMS)[:length] for length in lengths]
    numbers = [str(n) for n in range(ITEMS)]
    items = pd.DataFrame(
        {
            "item_id": numbers,
            "title": [f"Title {n}" for n in numbers],
            "categories": [["Drama"]] * ITEMS,
            "year": pd.array([1990] * ITEMS, dtype="Int64"),
        }
    )
    others = np.arange(MEMBERS, 2 * MEMBERS)
    selected = Targets(np.array([0]), lengths[:1] - 1)
    return replace(
        make_data(),
        items=items,
        users=pd.DataFrame({"user_id": [f"u{n}" for n in range(2 * MEMBERS)], "age": ["20", "31"] * MEMBERS}),
        facts=make_data().facts.iloc[:0],
        histories=histories,
        purchases=[np.zeros(length, dtype=bool) for length in lengths],
        timestamps=[np.arange(length) * 86_400 * 20 for length in lengths],
        train_lengths=np.where(np.arange(2 * MEMBERS) < MEMBERS, lengths, 0),
        targets={"temporal": {"valid": selected, "test": Targets(others, lengths[others] - 1)}},
        card={"time": {"first": "1970-01-01"}},
    )


def overfit(policy: RecPolicy, data: InteractionData, steps: int = 150) -> None:
    """Trains the adapter on the training histories until it knows them by heart."""
    decisions = [Decision("new user", [], history) for history in data.train_histories if len(history)]
    batch = pack(policy, decisions)
    optimizer = torch.optim.AdamW([one for one in policy.parameters() if one.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = -target_log_probs(policy, batch, policy(*batch.inputs())).mean()
        loss.backward()
        optimizer.step()


def attacked(base: str, folder: Path, trained: bool, monkeypatch: pytest.MonkeyPatch, capsys) -> dict:
    """What `llmrec privacy` reports of a run whose adapter is overfit, or random."""
    data = random_data()
    run = Run.create(make_config(base, output_dir=str(folder), catalogue=CATALOGUE))
    torch.manual_seed(0)  # what the tests before have drawn must not decide on the intervals
    policy = RecPolicy.create(run.config, data)
    if trained:
        overfit(policy, data)
    else:
        disturb(policy)
    run.begin("data")
    save_data(data, run.path("data"))
    run.finish("data", {})
    run.begin("sft")
    policy.save_pretrained(run.path("sft", "adapter"))
    run.finish("sft", {})
    monkeypatch.setattr("sys.argv", ["llmrec", "privacy", str(run.directory), "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    return json.loads(capsys.readouterr().out)


def test_an_overfit_adapter_is_found_out(tiny_base: str, tmp_path: Path, monkeypatch, capsys) -> None:
    """Its base starts without co-occurrence, which comes from the training data and would give members away."""
    found = attacked(tiny_base, tmp_path, True, monkeypatch, capsys)
    membership = found["membership"]
    assert membership["pairs"] == MEMBERS and membership["adapter"] == "sft"
    assert membership["auc"]["likelihood_ratio"]["value"] > 0.95
    for control in ("base", "popularity"):
        low, high = membership["auc"][control]["ci95"]
        assert low <= 0.5 <= high
    assert membership["verdict"] == "the adapter tells who was in its training data"
    assert {one["date"] for one in found["singling_out"]} == {"day", "month", "year", "none"}
    assert [one["attributes"] for one in found["profiles"]] == [["age"]]


def test_an_untrained_adapter_tells_nothing(tiny_base: str, tmp_path: Path, monkeypatch, capsys) -> None:
    membership = attacked(tiny_base, tmp_path, False, monkeypatch, capsys)["membership"]
    for estimate in membership["auc"].values():
        assert estimate["ci95"][0] < estimate["ci95"][1]
    for score in ("likelihood_ratio", "loss", "base", "popularity"):
        low, high = membership["auc"][score]["ci95"]
        assert low <= 0.5 <= high
    assert membership["verdict"].startswith("no membership found")


def test_auc_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 9, 40), rng.integers(0, 7, 25)  # with ties
    labels = np.repeat([1, 0], [40, 25])
    assert auc(members, others) == pytest.approx(roc_auc_score(labels, np.concatenate([members, others])))
    assert auc(np.array([2.0, 3.0]), np.array([1.0, 2.0])) == 3.5 / 4


def test_the_interval_of_an_auc_is_that_of_delong() -> None:
    """DeLong et al. (1988): the variance from each score's share of scores of the other group below or above it."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0.7, 1, 300), rng.normal(0, 1, 300)
    above = scores[0][:, None] > scores[1]
    deviation = np.sqrt(above.mean(1).var(ddof=1) / 300 + above.mean(0).var(ddof=1) / 300)
    pairs = Pairs(np.arange(300), np.arange(300, 600), np.full(300, 5))
    found = attack(pairs, dict.fromkeys(("likelihood_ratio", "popularity"), scores), samples=4000)["likelihood_ratio"]
    assert found.value == pytest.approx(above.mean())
    assert found.ci95 == pytest.approx((found.value - 1.96 * deviation, found.value + 1.96 * deviation), abs=0.004)


def test_pairs_have_equal_activity_and_disjoint_users() -> None:
    data = random_data()
    train_lengths = data.train_lengths.copy()
    train_lengths[:3] = [2, 3, 3]  # the first has too few clicks
    pairs = matched_users(replace(data, train_lengths=train_lengths), 6, seed=1)
    assert len(set(pairs.members)) == len(set(pairs.others)) == len(pairs) and 0 not in pairs.members
    assert (pairs.members < MEMBERS).all() and (pairs.others >= MEMBERS).all()
    for member, other, length in zip(pairs.members, pairs.others, pairs.lengths, strict=True):
        assert length == min(train_lengths[member], 6) == min(len(data.histories[other]), 6)
    selected = replace(data, targets={"temporal": {"valid": Targets(np.array([40]), np.array([2])), "test": None}})
    assert 40 not in matched_users(selected, 6, seed=1).others


def test_a_score_is_the_mean_over_the_shown_items(tiny_base: str) -> None:
    data = make_data()
    policy = RecPolicy.create(make_config(tiny_base), data)
    disturb(policy)
    decisions = [Decision("20", [], [3, 1, 7]), Decision("new user", [], [5])]
    expected = []
    for decision in decisions:
        steps = [Decision(decision.profile, [], decision.items[:n]) for n in range(len(decision.items))]
        scores = next(item_scores(policy.eval(), steps, batch_size=len(steps)))
        expected.append(np.mean([float(scores[n, item]) for n, item in enumerate(decision.items)]))
    assert mean_log_probs(policy, decisions) == pytest.approx(expected, abs=1e-4)


def test_popularity_leaves_out_the_clicks_of_the_user() -> None:
    """Item 0 is in the training part of u0, u2 and u5; item 1 of u0, u2 and not in that of u5."""
    data = make_data()
    counts = np.bincount(np.concatenate(list(data.train_histories)), minlength=10)
    found = popularity_scores(data, np.array([0, 4]), np.array([2, 1]))
    assert found == pytest.approx([np.log(counts[[0, 1]]).mean(), np.log(counts[9])])
    outside = replace(data, train_lengths=np.array([0, 2, 5, 1, 5, 2]))
    counts = np.bincount(np.concatenate(list(outside.train_histories)), minlength=10)
    assert popularity_scores(outside, np.array([0]), np.array([2])) == pytest.approx([np.log(counts[:2] + 1).mean()])


def test_intervals_cover_and_the_verdict_needs_the_controls() -> None:
    rng = np.random.default_rng(3)
    pairs = Pairs(np.arange(60), np.arange(60, 120), np.full(60, 5))
    noise = {name: (rng.normal(size=60), rng.normal(size=60)) for name in ("loss", "base", "popularity")}
    found = attack(pairs, noise | {"likelihood_ratio": (rng.normal(1, 1, 60), rng.normal(0, 1, 60))}, samples=300)
    assert found["likelihood_ratio"].ci95[0] < 0.76 < found["likelihood_ratio"].ci95[1]  # P(N(1, 2) > 0) = 0.76
    assert verdict(found) == "the adapter tells who was in its training data"
    fine = Estimate(0.7, (0.6, 0.8))
    assert verdict(found | {"base": fine}).startswith("not measured: the base")
    assert verdict(found | {"above_popularity": Estimate(0.0, (-0.1, 0.1))}).startswith("not measured: popularity")
    assert verdict(found | {"likelihood_ratio": Estimate(0.5, (0.4, 0.6))}).startswith("no membership")


def test_without_held_out_users_the_log_is_still_measured(tiny_base, tmp_path, monkeypatch, capsys) -> None:
    data = make_data()
    run = Run.create(make_config(tiny_base, output_dir=str(tmp_path)))
    run.begin("data")
    save_data(data, run.path("data"))
    run.finish("data", {})
    monkeypatch.setattr("sys.argv", ["llmrec", "privacy", str(run.directory)])
    with pytest.raises(SystemExit) as stop:
        main()
    out = capsys.readouterr().out
    assert not stop.value.code and "no adapter yet" in out and "n = 6" in out
    monkeypatch.setattr("sys.argv", ["llmrec", "privacy", str(run.directory), "--adapter", "ppo"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2 and "ppo" in capsys.readouterr().err

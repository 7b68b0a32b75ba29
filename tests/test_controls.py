"""The control experiments: every arm on a tiny model, budgets, rows and intervals."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import controls
from benchmarks.arms import ARMS
from benchmarks.arms.grpo import group_rewards
from benchmarks.arms.rewarded import policy_gradient
from benchmarks.arms.start import Start, scored
from benchmarks.budget import Budget, fit, gradient_step
from llmrec.data.dataset import Targets, save_data
from llmrec.data.decision import Decisions
from llmrec.errors import ConfigError
from llmrec.ppo.losses import distillation_loss
from llmrec.run import Run
from tests.conftest import disturb, make_config
from tests.ppo.test_trainer import PreferItem


class Reward(PreferItem):
    """Rewards one item; seen items have a finite reward too."""

    def item_rewards_per_prefix(self, decisions):
        return [rewards.clone() for rewards in super().item_rewards_per_prefix(decisions)]


@pytest.fixture
def start(tiny_base, data, policy, tmp_path, monkeypatch) -> Start:
    """A start with a disturbed SFT adapter and a reward of one item."""
    config = make_config(tiny_base, output_dir=str(tmp_path), report_to=[], ppo={"response_length": 24})
    run = Run.create(config)
    for stage, metrics in (("data", {}), ("sft", {"steps": 2}), ("reward", {})):
        run.begin(stage)
        if stage == "data":
            save_data(data, run.path("data"))
        if stage == "sft":
            disturb(policy, 0.1)
            policy.save_pretrained(run.path("sft", "adapter"))
        run.finish(stage, metrics)
    monkeypatch.setattr(Start, "reward", lambda *_: Reward())
    return Start.of(run)


@pytest.fixture
def scheme() -> str:
    """The scheme of `policy`: exact item decisions need one token an item."""
    return "atomic"


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_is_trained_selected_and_tested(start, name):
    row = controls.measure(start, name, ARMS[name], ARMS[name].rates[0], minutes=1e-5)
    learns = name not in ("sft", "pool")
    assert (row["steps"] >= 1) == learns and (row["minutes"] > 0) == learns
    assert len(row["validation"]) == (7 if learns else 1)
    assert 0 < len(row["ndcg@10"]) >= len(row["purchase_ndcg@10"])
    assert all(0 <= value <= 1 for value in row["ndcg@10"])
    if name.startswith("grpo"):
        assert 0 <= row["notes"]["groups_without_advantage"] <= 1


def test_every_action_at_every_prefix_is_reverse_distillation(start, monkeypatch):
    gradients = []

    def keep_gradient(policy, loss, _):
        loss().backward()
        gradients.append([p.grad.clone() for p in policy.parameters() if p.grad is not None])

    monkeypatch.setattr("benchmarks.arms.rewarded.fit_policy", keep_gradient)
    budget = Budget(1.0, 1e-3, lambda _: 0.0)
    policy_gradient(start, budget, every_prefix=True, every_action=True)
    ARMS["distill_reverse"].train(start, budget)
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert max(float(one.abs().max()) for one in gradients[0]) > 1e-4


def test_all_decisions_of_a_batch_are_scored(start):
    policy, windows = start.policy(), next(start.batches())
    at = scored(start, policy, start.reward(), windows)
    rows = [len(window.items) for window in windows]
    assert at.policy.shape == at.reference.shape == at.rewards.shape == (sum(rows), 10)
    assert at.last.tolist() == (np.cumsum(rows) - 1).tolist()
    assert torch.allclose(at.policy.exp(), at.reference.exp(), atol=1e-6) and not at.reference.requires_grad
    assert distillation_loss(at.policy, at.policy, torch.zeros_like(at.rewards), 1.0, False)[0].abs() < 1e-5


def test_random_cuts_have_training_items_as_targets(start):
    batches = start.cut_batches()
    for windows in (next(batches) for _ in range(8)):
        for window in windows:
            history = start.data.histories[window.user]
            position = len(window.history)
            assert position < start.data.train_lengths[window.user] and history[position] == window.target


def test_group_rewards_by_hand():
    hits = torch.tensor([[False, True, False], [False, False, False]])
    assert group_rewards(hits, ranked=False).tolist() == [[0, 1, 0], [0, 0, 0]]
    # 1 / log2(2), 1 / log2(3), 1 / log2(4) = 1, .6309, .5 sum to 2.1309: shares .4693, .2961, .2346.
    assert group_rewards(hits, ranked=True)[0].tolist() == pytest.approx([-0.4693, 1, -0.2346], abs=1e-4)
    assert group_rewards(hits, ranked=True)[1].tolist() == [0, 0, 0]


def test_a_budget_counts_training_alone_and_the_best_weights_stay():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    values = iter([0.1, 0.2, 0.5, 0.3])
    seen = []

    def validate(_) -> float:
        seen.append(model.weight.item())
        busy(0.05)
        return next(values)

    budget = Budget(0.06, 1.0, validate, evaluations=3)
    descend = gradient_step(model, model.weight.sum, budget)

    def step(share: float) -> None:
        assert 0 <= share < 1
        busy(0.01)
        descend(share)

    trained = fit(model, lambda _: torch.zeros(0), step, budget)
    assert trained.validation == [0.1, 0.2, 0.5, 0.3]
    assert model.weight.item() == seen[2] < seen[1] < seen[0] == 0
    assert 3 <= trained.steps <= 6  # a step takes 0.01 s or a little more; validation would use up the budget at once


def busy(seconds: float) -> None:
    """Uses CPU time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_rows_are_computed_once(start, tmp_path, monkeypatch):
    measured = []

    def measure(_, name, arm, rate, minutes):
        measured.append((name, rate))
        row = {"arm": name, "seed": 0, "learning_rate": rate, "minutes": minutes if rate else 0, "steps": 3}
        return row | {"validation": [0.1, rate], "ndcg@10": [0, 0.5], "purchase_ndcg@10": [0.5], "notes": {}}

    monkeypatch.setattr(controls, "measure", measure)
    file, config = tmp_path / "rows.json", start.run.config
    controls.add_rows(config, ["sft", "sft_ema"], 3.0, rows := [], file)
    assert measured == [("sft", 0.0), ("sft_ema", 1e-3), ("sft_ema", 3e-4)]
    assert controls.read_rows(file) == rows
    controls.add_rows(config, ["sft", "sft_ema"], 3.0, controls.read_rows(file), file)
    assert len(measured) == 3
    controls.add_rows(config, ["sft", "sft_ema"], 4.0, controls.read_rows(file), file)
    assert measured[3:] == [("sft_ema", 1e-3), ("sft_ema", 3e-4)]
    shown = controls.table(rows)
    assert [list(column.cells)[1] for column in shown.columns][:3] == ["sft_ema", "0.001", "1"]
    controls.plot(rows, tmp_path / "rows.svg")
    assert (tmp_path / "rows.svg").read_text().startswith("<?xml")


def test_an_interval_holds_seeds_and_users():
    users = np.tile(np.array([0.0, 1.0] * 50), (2, 1))
    mean, low, high = controls.seeds_and_users(users)
    assert mean == 0.5 and high - low == pytest.approx(4 * 0.05, abs=0.02)  # standard error .5 / sqrt(100)
    seeds = np.array([[0.0] * 100, [1.0] * 100])
    assert controls.seeds_and_users(seeds) == (0.5, 0.0, 1.0)
    assert controls.seeds_and_users(np.ones((1, 4))) == pytest.approx((1, 1, 1))


def test_an_unknown_arm_is_rejected():
    with pytest.raises(ConfigError, match="there is no arm `sft_em`. Did you mean `sft_ema`"):
        controls.chosen_arms("sft,sft_em")
    assert controls.chosen_arms("") == list(ARMS)


def test_the_split_with_the_most_users_is_tested(data):
    """A temporal split can have more targets of fewer users."""
    many_targets = Targets(np.zeros(9, dtype=np.int64), np.arange(9))
    many_users = Targets(np.arange(4), np.zeros(4, dtype=np.int64))
    splits = {"temporal": {"test": many_targets}, "leave_one_out": {"test": many_users}}
    assert controls.test_targets(replace(data, targets=splits)) is many_users


def test_purchased_targets_are_those_of_the_log(data):
    targets = next(iter(data.targets.values()))["test"]
    bought = controls.purchased(data, targets)
    assert 0 < len(bought) < len(targets)
    decisions = Decisions.from_targets(data, bought)
    assert all(
        data.purchases[user][list(data.histories[user]).index(item)]
        for user, item in zip(decisions.users, decisions.targets, strict=True)
    )

"""The guard keeps the best adapter by validation NDCG@10, unless the judge objects to an insignificant gain."""

import numpy as np
import pytest
import torch

from llmrec.data.decision import Decision, Decisions
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import item_scores
from llmrec.selection.guard import GAIN_LOWER_BOUND, JUDGE, NDCG, REWARD, Guard, ValidationSet
from tests.conftest import make_config
from tests.selection.validation_sets import one_decision, validation_set


class SavedSteps:
    """A policy that records where it is saved and what is loaded."""

    def __init__(self):
        self.saved = []
        self.loaded = []

    def save_pretrained(self, directory):
        self.saved.append(directory.name)

    def load_adapter_weights(self, directory):
        self.loaded.append(directory.name)


@pytest.fixture
def guard(tmp_path) -> Guard:
    return Guard(one_decision(), tmp_path / "best")


def evaluate(guard: Guard, monkeypatch, measurements: list[dict[str, float]]) -> tuple[SavedSteps, list[dict], list]:
    """Evaluates once a measurement; returns the policy, metrics and events."""
    policy, metrics, events = SavedSteps(), [], []
    for step, measured in enumerate(measurements):
        monkeypatch.setattr(guard, "measure", lambda _, measured=measured: measured)
        found, event = guard.on_evaluation(policy, step)
        metrics.append(found)
        events.append(event)
    return policy, metrics, events


def measured(ndcg: float, judge: float = 0.0, gain: float = 0.0, reward: float = 0.0) -> dict[str, float]:
    return {NDCG: ndcg, GAIN_LOWER_BOUND: gain, REWARD: reward, JUDGE: judge}


def test_the_sft_start_is_kept_if_no_later_adapter_is_better(guard, monkeypatch):
    policy, _, events = evaluate(guard, monkeypatch, [measured(ndcg) for ndcg in (0.5, 0.4, 0.3, 0.5)])
    assert policy.saved == ["adapter-0"]
    assert guard.best_step == 0 and guard.report()["fell_back_to_sft"]
    assert events[1:] == [
        f"guard: NDCG@10 is {ndcg:.4f}; the adapter of step 0 remains the best" for ndcg in (0.4, 0.3, 0.5)
    ]
    guard.restore_best(policy)
    assert policy.loaded == ["adapter-0"]


def test_an_adapter_with_a_lower_judge_score_is_not_kept(guard, monkeypatch):
    rows = [measured(0.1), measured(0.3, -0.1, -0.01), measured(0.2, 0.1, -0.01), measured(0.1, 0.2, -0.01)]
    policy, metrics, events = evaluate(guard, monkeypatch, rows)
    assert policy.saved == ["adapter-0", "adapter-2"] and guard.best_step == 2
    assert events[1] == (
        "guard: NDCG@10 is 0.3000, the best so far; not kept, because the judge score is below the SFT start"
    )
    assert events[2] == "guard: NDCG@10 is 0.2000, the best so far; kept"
    assert [entry["guard/judge_refused"] for entry in metrics] == [0.0, 1.0, 0.0, 0.0]


def test_a_significant_gain_overrules_the_judge(guard, monkeypatch):
    rows = [measured(0.1), measured(0.3, -0.01, 0.01), measured(0.2, -0.1, 0.1), measured(0.4, 0.01, -0.01)]
    _, _, events = evaluate(guard, monkeypatch, rows)
    assert [entry["kept"] for entry in guard.history] == [True, True, False, True]
    assert ["although the judge score is below the SFT start" in event for event in events] == [
        False, True, False, False,
    ]  # fmt: skip


def test_the_metrics_hold_the_gap_between_reward_and_judge(guard, monkeypatch):
    rows = [measured(0.1, judge=1.0, reward=2.0), measured(0.2, judge=1.5, reward=4.0)]
    _, metrics, _ = evaluate(guard, monkeypatch, rows)
    assert metrics[1]["eval/judge_gap"] == pytest.approx(2.0 - 0.5)
    assert metrics[1]["eval/best_ndcg@10"] == 0.2


def test_the_gain_over_the_start_is_paired_by_user(tmp_path):
    decisions = Decisions.from_decisions([Decision("20", [], [0], target=0)] * 4, max_history=50)
    guard = Guard(ValidationSet(decisions, torch.zeros(4, 2), torch.zeros(4, 2)), tmp_path)
    start, later = torch.tensor([0.0, 0.5, 1.0, 0.2]), torch.tensor([0.1, 0.6, 1.0, 0.4])
    assert guard._gain_lower_bound(start) == 0.0
    guard.history.append({})
    gain = np.array([0.1, 0.1, 0.0, 0.2])
    expected = gain.mean() - 1.96 * gain.std(ddof=1) / 2
    assert guard._gain_lower_bound(later) == pytest.approx(expected, abs=1e-6) and expected > 0
    resumed = Guard(guard.validation, tmp_path)
    resumed.history.append({})
    assert resumed._gain_lower_bound(later) == pytest.approx(expected, abs=1e-6)
    assert guard._gain_lower_bound(later.flip(0)) < 0


def test_a_run_without_the_start_on_disk_has_no_known_gain(tmp_path):
    """Runs of older versions did not write the NDCG@10 of the SFT start."""
    guard = Guard(one_decision(), tmp_path)
    guard.history.append({})
    assert guard._gain_lower_bound(torch.tensor([0.0, 1.0])) == 0.0


def test_ndcg_reward_and_judge_are_measured_on_the_policys_lists(tiny_base, data, tmp_path):
    policy = RecPolicy.create(make_config(tiny_base), data).eval()
    windows = [Decision("20", [], [0, 1]), Decision("20", [], [2])]
    scores = torch.cat(list(item_scores(policy, windows)))
    best, second = int(scores[0].argmax()), int(scores[1].topk(2).indices[1])
    found = Guard(validation_set(windows, [best, second]), tmp_path).measure(policy)
    assert found[NDCG] == pytest.approx((1 + 1 / np.log2(3)) / 2)
    unseen = [sum(set(range(10)) - {0, 1}) / 8, sum(set(range(10)) - {2}) / 9]  # ten items: all are listed
    assert found[REWARD] == pytest.approx(np.mean(unseen), abs=1e-5) and found[JUDGE] == -found[REWARD]

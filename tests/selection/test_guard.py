"""The guard: some users choose the best adapter, others decide once whether it replaces the SFT start."""

import numpy as np
import pytest
import torch

from llmrec.data.dataset import Targets
from llmrec.data.decision import Decision
from llmrec.errors import RunError
from llmrec.policy.model import RecPolicy
from llmrec.policy.ranking import item_scores
from llmrec.selection import guard as guard_module
from llmrec.selection.guard import JUDGE, NDCG, REWARD, Guard, decision_of, difference_bounds
from llmrec.selection.validation import choosing_and_deciding
from tests.conftest import make_config
from tests.selection.validation_sets import small_guard, validation_set


class SavedSteps:
    """A policy that records where it is saved and what is loaded."""

    def __init__(self):
        self.saved = []
        self.loaded = []

    def adapter_weights(self):
        return {}

    def save_pretrained(self, directory, weights):
        self.saved.append(directory.name)

    def load_adapter_weights(self, directory):
        self.loaded.append(directory.name)


@pytest.fixture
def guard(tmp_path) -> Guard:
    return small_guard(tmp_path / "best")


def evaluate(guard: Guard, monkeypatch, measurements: list[dict[str, float]]) -> tuple[SavedSteps, list[dict], list]:
    """Evaluates once a measurement; returns the policy, metrics and events."""
    policy, metrics, events = SavedSteps(), [], []
    for step, measured in enumerate(measurements):
        monkeypatch.setattr(guard, "measure", lambda _, measured=measured: measured)
        found, event = guard.on_evaluation(policy, step)
        metrics.append(found)
        events.append(event)
    return policy, metrics, events


def decide(guard: Guard, monkeypatch, policy: SavedSteps, gain: np.ndarray, judge: np.ndarray) -> str:
    """Lets the guard decide as if the adapter that is not `adapter-0` had these gains over it."""

    def user_means(policy, validation):
        assert validation is guard.deciding
        later = policy.loaded[-1] != "adapter-0"
        return {NDCG: 0.1 + gain * later, REWARD: np.zeros(len(gain)), JUDGE: judge * later}

    monkeypatch.setattr(guard_module, "_user_means", user_means)
    return guard.decide(policy)


def measured(ndcg: float, judge: float = 0.0, reward: float = 0.0) -> dict[str, float]:
    return {NDCG: ndcg, REWARD: reward, JUDGE: judge}


NOISE = np.tile([1.0, -1.0], 15)  # 30 users, mean 0, sample variance 30 / 29


def test_the_sft_start_stays_if_no_later_adapter_is_better(guard, monkeypatch):
    policy, _, events = evaluate(guard, monkeypatch, [measured(ndcg) for ndcg in (0.5, 0.4, 0.3, 0.5)])
    assert policy.saved == ["adapter-0"]
    assert events[1:] == [
        f"guard: NDCG@10 of the choosing users is {ndcg:.4f}; the adapter of step 0 remains the best"
        for ndcg in (0.4, 0.3, 0.5)
    ]
    assert "no adapter was better than the SFT start" in decide(guard, monkeypatch, policy, NOISE, NOISE)
    assert policy.loaded == ["adapter-0"] and guard.decision is None
    assert guard.report()["best_step"] == 0 and guard.report()["fell_back_to_sft"]


def test_the_judge_does_not_affect_which_adapter_is_chosen(guard, monkeypatch):
    rows = [measured(0.1), measured(0.3, judge=-9.0), measured(0.2, judge=9.0), measured(0.4)]
    policy, metrics, events = evaluate(guard, monkeypatch, rows)
    assert policy.saved == ["adapter-0", "adapter-1", "adapter-3"] and guard.best_step == 3
    assert events[1] == "guard: NDCG@10 of the choosing users is 0.3000; the best so far"
    assert [entry["guard/kept"] for entry in metrics] == [1.0, 1.0, 0.0, 1.0]


def test_the_metrics_hold_the_gap_between_reward_and_judge(guard, monkeypatch):
    rows = [measured(0.1, judge=1.0, reward=2.0), measured(0.2, judge=1.5, reward=4.0)]
    _, metrics, _ = evaluate(guard, monkeypatch, rows)
    assert metrics[1]["eval/judge_gap"] == pytest.approx(2.0 - 0.5)
    assert metrics[1]["eval/best_ndcg@10"] == 0.2


@pytest.mark.parametrize(
    ("gain", "judge", "accepted", "reason"),
    [
        (0.4 + NOISE, -0.4 + NOISE, True, "the judge's score by -0.400 nats (95 % upper bound -0.095)"),
        (0.2 + NOISE, 0.4 + NOISE, False, "the gain is not significant"),
    ],
)
def test_the_deciding_users_decide_once(guard, monkeypatch, gain, judge, accepted, reason):
    policy, _, _ = evaluate(guard, monkeypatch, [measured(0.1), measured(0.2), measured(0.15)])
    event = decide(guard, monkeypatch, policy, gain, judge)
    assert reason in event and "30 deciding users" in event
    assert policy.loaded == ["adapter-1", "adapter-0", "adapter-1"] if accepted else ["adapter-1", "adapter-0"]
    report = guard.report()
    assert report["fell_back_to_sft"] is not accepted and report["best_step"] == int(accepted)
    assert report["best_ndcg@10"] == (0.2 if accepted else 0.1) and report["users"] == 1
    assert report["decision"]["step"] == 1 and report["decision"]["gain"]["mean"] == pytest.approx(gain.mean())


def test_bounds_by_hand():
    # mean 0.4, standard error sqrt(30 / 29 / 30) = 0.18570, 95 % quantile 1.64485, 80 % quantile 0.84162
    found = decision_of(7, {NDCG: 0.4 + NOISE, JUDGE: NOISE - 0.4})
    assert found.gain.lower == pytest.approx(0.4 - 0.30544, abs=1e-4)
    assert found.judge.upper == pytest.approx(-0.4 + 0.30544, abs=1e-4)
    assert found.detectable_gain == pytest.approx(0.18570 * (1.64485 + 0.84162), abs=1e-4)
    many = np.stack([NOISE, 2 * NOISE + 1])
    assert np.allclose(np.transpose(difference_bounds(many)), [difference_bounds(row) for row in many])


def test_too_few_users_decide_nothing(tmp_path, monkeypatch):
    guard = small_guard(tmp_path / "best", deciding=29)
    policy, _, _ = evaluate(guard, monkeypatch, [measured(0.1), measured(0.2)])
    assert guard.decide(policy) == "guard: the SFT adapter stays, because a decision needs 30 users, found 29"
    assert policy.loaded == ["adapter-0"] and guard.report()["fell_back_to_sft"]


def test_a_third_of_the_users_choose_and_no_user_is_in_both_parts():
    sample = Targets(np.array([4, 0, 4, 2, 7, 0, 9]), np.arange(7))
    choosing, deciding = choosing_and_deciding(sample)
    assert choosing.users.tolist() == [4, 0, 4, 0] and choosing.positions.tolist() == [0, 1, 2, 5]
    assert deciding.users.tolist() == [2, 7, 9] and deciding.positions.tolist() == [3, 4, 6]


def test_a_training_under_the_former_rule_is_not_continued(guard):
    guard.resume([{"step": 0, "kept": True, NDCG: 0.1}])
    assert guard.best_step == 0
    with pytest.raises(RunError, match="delete that folder"):
        guard.resume([{"step": 0, "kept": True, NDCG: 0.1, "eval/sure_gain": 0.0}])


def test_ndcg_reward_and_judge_are_measured_on_the_policys_lists(tiny_base, data, tmp_path):
    policy = RecPolicy.create(make_config(tiny_base), data).eval()
    windows = [Decision("20", [], [0, 1]), Decision("20", [], [2])]
    scores = torch.cat(list(item_scores(policy, windows)))
    best, second = int(scores[0].argmax()), int(scores[1].topk(2).indices[1])
    asked = validation_set(windows, [best, second])
    found = Guard(asked, asked, tmp_path).measure(policy)
    assert found[NDCG] == pytest.approx((1 + 1 / np.log2(3)) / 2)
    unseen = [sum(set(range(10)) - {0, 1}) / 8, sum(set(range(10)) - {2}) / 9]  # ten items: all are listed
    assert found[REWARD] == pytest.approx(np.mean(unseen), abs=1e-5) and found[JUDGE] == -found[REWARD]


def test_the_decision_loads_the_adapter_that_stays(tiny_base, data, tmp_path):
    """On a real policy: two adapters differ, and the weights after the decision are those of the one that stays."""
    policy = RecPolicy.create(make_config(tiny_base), data).eval()
    asked = validation_set([Decision("20", [], [0, 1])] * 30, [5] * 30)
    guard = Guard(asked, asked, tmp_path / "best")
    guard.on_evaluation(policy, 0)
    start = [weight.detach().clone() for weight in policy.parameters() if weight.requires_grad]
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.add_(0.5 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    guard.history[0][NDCG] = -1.0  # so that the second adapter is chosen whatever it ranks
    guard.on_evaluation(policy, 1)
    assert guard.best_step == 1
    event = guard.decide(policy)
    assert guard.decision is not None and guard.decision.users == 30 and "30 deciding users" in event
    stays = [weight for weight in policy.parameters() if weight.requires_grad]
    is_start = all(torch.equal(one, other) for one, other in zip(start, stays, strict=True))
    assert is_start is not guard.decision.accepted

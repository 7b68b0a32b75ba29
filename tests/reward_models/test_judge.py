"""The judge: rewards, saving, loading and errors."""

import numpy as np
import pytest
import torch

from llmrec.errors import DataError, ModelError
from llmrec.evaluation.metrics import ndcg
from reward_models import ClickPurchaseConfig, ClickPurchaseModel, EaseJudge, catalogue_hash, fit_judge
from reward_models.fit import judge_quality
from reward_models.held_out import held_out, ranks_of_targets


def judge_of(data) -> EaseJudge:
    ids = catalogue_hash(data.items["item_id"])
    purchases = [p[:n] for p, n in zip(data.purchases, data.train_lengths, strict=True)]
    return fit_judge(data.train_histories, purchases, data.num_items, ids, l2=5.0)


def test_rewards_are_log_probabilities(data):
    histories = [data.histories[0][:4], np.array([], dtype=int)]
    rewards = judge_of(data).log_rewards(histories)
    assert rewards.shape == (2, data.num_items) and rewards.isfinite().all()
    assert (rewards <= 0).all() and rewards[1].exp().sum() < 1
    assert (rewards[0, histories[0]] == rewards[0].min()).all()


def test_the_conversion_weight_runs_from_clicks_to_the_joint_reward(data):
    judge, empty = judge_of(data), [np.array([], dtype=int)]
    assert judge.log_rewards(empty, 0.0).exp().sum().item() == pytest.approx(1, abs=1e-5)
    half = (judge.log_rewards(empty, 0.0) + judge.log_rewards(empty)) / 2
    assert torch.allclose(judge.log_rewards(empty, 0.5), half, atol=1e-5)


def test_items_that_others_clicked_and_purchased_score_higher(data):
    rewards = judge_of(data).log_rewards([np.array([4, 5, 6, 7])])[0]
    assert rewards[8] > rewards[18]  # near on the circle against far; both are purchased
    assert rewards[8] > rewards[9]  # purchased against not purchased


def test_the_quality_of_the_judge_is_that_of_the_reward_it_judges_by(data):
    """Purchases of even items change the order of items, so the ranking metrics depend on the weight."""
    judge = judge_of(data)
    model = ClickPurchaseModel(ClickPurchaseConfig(data.num_items, hidden_size=8, dropout=0.0)).eval()
    valid = held_out(data, "valid", 100, seed=0)
    for weight in (0.0, 3.0):
        scores = judge.log_rewards(valid.decisions.histories, weight)
        scores = scores.masked_fill(judge.features(valid.decisions.histories)[1], float("-inf"))
        expected = ndcg(ranks_of_targets(scores, torch.from_numpy(valid.decisions.targets)), 10).mean()
        assert judge_quality(judge, model, valid, weight)["reward_ndcg@10"] == pytest.approx(expected)
    assert judge_quality(judge, model, valid, 0.0) != judge_quality(judge, model, valid, 3.0)


def test_items_outside_ease_still_get_rewards(data, monkeypatch):
    monkeypatch.setattr("reward_models.judge.MAX_EASE_ITEMS", 10)
    judge = judge_of(data)
    assert judge.weights.shape == (10, 10)
    assert judge.log_rewards(data.train_histories).isfinite().all()


def test_save_and_load(data, tmp_path):
    judge = judge_of(data)
    judge.save_pretrained(tmp_path)
    again = EaseJudge.from_pretrained(tmp_path, data.items["item_id"])
    assert torch.equal(again.log_rewards(data.train_histories), judge.log_rewards(data.train_histories))
    with pytest.raises(ModelError, match="catalogue has 2"):
        EaseJudge.from_pretrained(tmp_path, ["a", "b"])
    (tmp_path / "judge.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="damaged"):
        EaseJudge.from_pretrained(tmp_path)


def test_unknown_items_and_too_few_users_are_refused(data):
    with pytest.raises(DataError, match="item index 24; expected 0 to 23"):
        judge_of(data).log_rewards([np.array([24])])
    with pytest.raises(DataError, match="at least 2 users"):
        fit_judge([np.array([1])], [np.array([True])], 3)

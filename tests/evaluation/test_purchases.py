"""Metrics of purchases, worked out by hand, and their report."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llmrec.config import PPOConfig, RewardConfig
from llmrec.data.decision import Decisions
from llmrec.evaluation import purchases
from llmrec.evaluation.metrics import ranks
from llmrec.evaluation.purchases import expected_purchases, purchase_columns, purchase_rankings, purchase_report
from llmrec.evaluation.ranking import Ranked
from reward_models.reward_model import Prediction

NO_LISTS = np.zeros((4, 10), dtype=np.int64)


def test_only_purchased_targets_count():
    found = purchase_columns(np.array([1.0, 3.0, 1.0, 11.0]), np.array([True, True, False, True]))
    assert found["purchase_hr@10"] == pytest.approx([1, 1, np.nan, 0], nan_ok=True)
    assert found["purchase_ndcg@10"] == pytest.approx([1, 0.5, np.nan, 0], nan_ok=True)
    assert found["purchases@10"].tolist() == [1, 1, 0, 0]  # a purchased target in the list


def test_expected_purchases_are_the_mass_of_the_list(data):
    decisions = Decisions.from_targets(data, data.targets["leave_one_out"]["test"])
    count = len(decisions)
    click = torch.full((count, data.num_items), 0.1).log()
    buy = torch.zeros(count, data.num_items)  # logits: P(purchase | click) = 1/2
    prediction = Prediction(click, buy, seen=torch.zeros(count, data.num_items, dtype=torch.bool))
    model = SimpleNamespace(predict=lambda *_: prediction)
    reward = SimpleNamespace(model=model, profiles=np.zeros((data.num_users, 1), dtype=np.int64))
    lists = {"full": np.tile([0, 1, 2], (count, 1)), "short": np.tile([3, -1, -1], (count, 1))}
    found = expected_purchases(reward, decisions, lists)
    assert found["full"] == pytest.approx(np.full(count, 0.15))
    assert found["short"] == pytest.approx(np.full(count, 0.05))


def test_the_optimum_is_compared_with_the_rankings_that_need_no_rl():
    ranks = {"optimum": [1.0, 1.0, 1.0, 1.0], "sft_reranked": [3.0, 3.0, 1.0, 1.0], "reward_model": [1.0] * 4}
    rankings = {0.5: {name: Ranked(np.array(values), NO_LISTS) for name, values in ranks.items()}}
    purchased = np.array([True, True, False, False])
    found = purchase_report(rankings, purchased, np.arange(4), samples=200, seed=0)["0.5"]
    assert found.models["sft_reranked"]["ndcg@10"].value == 0.75
    assert found.models["sft_reranked"]["purchase_ndcg@10"].value == 0.5
    assert found.models["optimum"]["purchases@10"].value == 0.5
    difference = found.differences["sft_reranked"]
    assert (difference.difference, difference.n, difference.conclusion) == (0.5, 2, None)
    none = purchase_report(rankings, np.zeros(4, dtype=bool), np.arange(4), samples=200, seed=0)["0.5"]
    assert none.differences == {} and none.models["optimum"]["purchase_ndcg@10"].value is None


def test_rankings_at_each_weight(data, monkeypatch):
    """Batches of two decisions give the rankings of whole matrices."""
    decisions = Decisions.from_targets(data, data.targets["leave_one_out"]["test"])
    count = len(decisions)
    generator = torch.Generator().manual_seed(0)
    sft, click, buy = (torch.randn(count, data.num_items, generator=generator) for _ in range(3))
    seen = torch.zeros(count, data.num_items, dtype=torch.bool)
    row_of = {len(history) * 100 + int(history[-1]): row for row, history in enumerate(decisions.histories)}

    def predict(histories, *_):
        rows = [row_of[len(history) * 100 + int(history[-1])] for history in histories]
        return Prediction(click[rows], buy[rows], seen[rows])

    def reward_of(weight: float) -> SimpleNamespace:
        return SimpleNamespace(
            model=SimpleNamespace(predict=predict),
            profiles=np.zeros((data.num_users, 1), dtype=np.int64),
            facts=None,
            text=None,
            config=RewardConfig(conversion_weight=weight),
        )

    monkeypatch.setattr(purchases, "BATCH", 2)
    monkeypatch.setattr(purchases, "CompositeReward", lambda *parts: reward_of(parts[2].conversion_weight))
    monkeypatch.setattr(
        purchases, "item_rewards", lambda one, part: predict(part.histories).rewards(one.config.conversion_weight)
    )
    section = PPOConfig(item_kl_coef=0.3, item_entropy_coef=1.0)
    found = purchase_rankings(reward_of(0.0), data, decisions, sft, section, seed=0)
    assert list(found) == [0.0, 0.5, 1.0]
    for weight, ranked in found.items():
        reward = click + weight * F.logsigmoid(buy)
        whole = {
            "optimum": 0.3 * sft.log_softmax(-1) + reward,
            "sft_reranked": sft + weight * F.logsigmoid(buy),
            "reward_model": reward,
        }
        assert set(ranked) == set(whole)
        for name, scores in whole.items():
            expected = ranks(scores.double().numpy(), decisions.targets, decisions.histories)
            assert ranked[name].ranks.tolist() == expected.tolist(), (weight, name)

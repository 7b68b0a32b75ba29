"""The one pass of the reward model, against rankings of whole matrices that are made one at a time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llmrec.catalogue.facts import FactBook
from llmrec.config import CatalogueConfig, PPOConfig, RewardConfig
from llmrec.data.decision import Decisions
from llmrec.evaluation import ranking, reward_rankings
from llmrec.evaluation.metrics import ranks, top_k
from llmrec.evaluation.optimum import objective, optimum_log_probs
from llmrec.evaluation.ranking import chunks, rank_policy
from llmrec.evaluation.reward_rankings import RewardPass, expected_purchases
from llmrec.policy.model import RecPolicy
from llmrec.reward.composite import CompositeReward
from reward_models.click_purchase import ClickPurchaseConfig, ClickPurchaseModel
from reward_models.reward_model import Prediction
from tests.conftest import make_config

SECTION = PPOConfig(item_kl_coef=0.3, item_entropy_coef=1.0, temperature=2.0)


@pytest.fixture
def reward(data) -> CompositeReward:
    """A reward of a model with large random weights."""
    torch.manual_seed(0)
    model = ClickPurchaseModel(ClickPurchaseConfig(data.num_items, hidden_size=8, dropout=0.0)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    return CompositeReward(model, FactBook.from_data(data), RewardConfig(conversion_weight=0.5), data)


def decisions_of(data, max_history: int) -> Decisions:
    """The leave-one-out test decisions."""
    catalogue = CatalogueConfig(max_history=max_history)
    return Decisions.from_targets(data, data.targets["leave_one_out"]["test"], catalogue)


def policies(decisions, num_items: int) -> dict[str, torch.Tensor]:
    """Random log-probabilities of two policies."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(len(decisions), num_items, generator=generator).log_softmax(1) for name in ("sft", "ppo")}


def ranks_of(scores: torch.Tensor, decisions: Decisions) -> list[float]:
    """Ranks of the targets by scores of all decisions at once."""
    return ranks(scores.double().numpy(), decisions.targets, decisions.histories).tolist()


@torch.no_grad()
@pytest.mark.parametrize("max_history", [2, 50])
def test_batches_give_the_rankings_of_whole_matrices(reward, data, monkeypatch, max_history):
    monkeypatch.setattr(reward_rankings, "chunks", lambda count: chunks(count, 4))
    decisions = decisions_of(data, max_history)
    log_probs = policies(decisions, data.num_items)
    lists = {"given": np.tile([0, 1, -1], (len(decisions), 1))}
    batches: list[int] = []
    found = RewardPass(reward, SECTION, lists, log_probs, seed=0).measure(decisions, batches.append)
    assert sum(batches) == len(decisions) and max(batches) == 4

    own = reward.model.log_rewards(decisions.histories, decisions.purchased, reward.profiles[decisions.users], 0.5)
    assert found.ranked["reward_model"].ranks.tolist() == ranks_of(own, decisions)
    sft = (log_probs["sft"] / 2).log_softmax(1)
    rewards = torch.stack([of_prefixes[-1] for of_prefixes in reward.item_rewards_per_prefix(decisions)])
    best = optimum_log_probs(sft, rewards, 0.3, 1.0)
    assert found.ranked["optimum"].ranks.tolist() == ranks_of(best, decisions)
    expected_lists = top_k(best.numpy(), 10, decisions.histories)
    assert (found.ranked["optimum"].lists == expected_lists).all()
    assert found.objective["optimum"] == pytest.approx(objective(best, sft, rewards, 0.3, 1.0).numpy(), abs=1e-5)
    assert set(found.objective) == {"sft", "ppo", "optimum"}
    assert set(found.expected) == {"given", "reward_model", "optimum"}

    prediction = reward.model.predict(decisions.histories, decisions.purchased, reward.profiles[decisions.users])
    assert list(found.weighted) == [0.0, 0.5, 1.0]
    for weight, of_targets in found.weighted.items():
        config = reward.config.model_copy(update={"conversion_weight": weight})
        alone = CompositeReward(reward.model, reward.facts, config, data)
        whole = {
            "optimum": optimum_log_probs(sft, alone.newest_item_rewards(decisions), 0.3, 1.0),
            "sft_reranked": log_probs["sft"] + weight * F.logsigmoid(prediction.purchase),
            "reward_model": prediction.rewards(weight),
        }
        assert set(of_targets) == set(whole)
        for name, scores in whole.items():
            assert of_targets[name].tolist() == ranks_of(scores, decisions), (weight, name)


def test_only_what_can_be_computed_is_measured(reward, data):
    decisions = decisions_of(data, 50)
    found = RewardPass(reward, SECTION, lists={}, log_probs={}, seed=0).measure(decisions, lambda _: None)
    assert list(found.ranked) == ["reward_model"]
    assert (found.objective, found.expected, found.weighted) == ({}, {}, {})
    assert len(found.ranked["reward_model"].ranks) == len(decisions)


def test_expected_purchases_are_the_mass_of_the_list():
    click = torch.full((4, 10), 0.1).log()
    buy = torch.zeros(4, 10)  # logits: P(purchase | click) = 1/2
    prediction = Prediction(click, buy, seen=torch.zeros(4, 10, dtype=torch.bool))
    lists = {"full": np.tile([0, 1, 2], (4, 1)), "short": np.tile([3, -1, -1], (4, 1))}
    found = expected_purchases(prediction, lists)
    assert found["full"] == pytest.approx(np.full(4, 0.15))
    assert found["short"] == pytest.approx(np.full(4, 0.05))


def test_recomputed_log_probabilities_give_the_same_rankings(reward, data, tiny_base, monkeypatch):
    policy = RecPolicy.create(make_config(tiny_base), data).eval()
    decisions = decisions_of(data, 50)
    kept, log_probs = rank_policy(policy, decisions, 0, lambda _: None, keep=True)
    monkeypatch.setattr(ranking, "KEPT_SCORES", 0)
    ranked, nothing = rank_policy(policy, decisions, 0, lambda _: None, keep=True)
    assert nothing is None and ranked.ranks.tolist() == kept.ranks.tolist()
    loads: list[None] = []
    again = ranking.Recomputed(lambda: loads.append(None) or policy, decisions)
    results = [
        RewardPass(reward, SECTION, {}, {"sft": source, "ppo": source}, seed=0).measure(decisions, lambda _: None)
        for source in (log_probs, again)
    ]
    first, second = (one.ranked["optimum"].ranks.tolist() for one in results)
    assert first == second and len(loads) == 1
    assert results[0].objective["sft"] == pytest.approx(results[1].objective["sft"], abs=1e-5)

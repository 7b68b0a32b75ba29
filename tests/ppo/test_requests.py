"""RL learns to satisfy requests: the reward is verified, and what pays is to satisfy and to serve the user."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from llmrec.catalogue.facts import FactBook
from llmrec.config import RewardConfig
from llmrec.data.decision import Decision
from llmrec.language.prompt import Recommendation
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack, taken_log_probs
from llmrec.ppo.stage import training_decisions
from llmrec.requests.attributes import Attributes
from llmrec.requests.draw import ask
from llmrec.requests.request import Condition, Request
from llmrec.reward.composite import CompositeReward
from reward_models import ClickPurchaseConfig, ClickPurchaseModel
from tests.conftest import disturb, make_config
from tests.ppo.test_trainer import PreferItem, make_trainer

FUNNY = Request("something funny", (Condition("category", "Comedy"),))  # items 1, 2 and 6
PLAIN = Decision("new user", [9], [0, 3], user=0)
ASKED = replace(PLAIN, request=FUNNY)


@pytest.fixture
def rewards(data) -> tuple[CompositeReward, CompositeReward]:
    """The same reward without and with requests, at weight 3."""
    torch.manual_seed(0)
    model = ClickPurchaseModel(ClickPurchaseConfig(data.num_items, hidden_size=8, dropout=0.0)).eval()
    config = RewardConfig(request_weight=3.0)
    facts = FactBook.from_data(data)
    without = CompositeReward(model, facts, config, data)
    return without, CompositeReward(model, facts, config, data, attributes=Attributes.from_data(data))


def test_items_that_satisfy_get_the_weight_at_every_decision(rewards):
    without, reward = rewards
    bonus = 3.0 * torch.isin(torch.arange(10), torch.tensor([1, 2, 6]))
    for plain, asked in zip(
        without.item_rewards_per_prefix([PLAIN, PLAIN]), reward.item_rewards_per_prefix([PLAIN, ASKED]), strict=True
    ):
        expected = bonus if asked is not plain and (asked != plain).any() else torch.zeros(10)
        torch.testing.assert_close(asked - plain, expected.expand_as(plain))
    plain, asked = reward.newest_item_rewards([PLAIN, ASKED])
    torch.testing.assert_close(asked - plain, bonus)
    assert torch.equal(plain, without.newest_item_rewards([PLAIN])[0])


def test_a_sampled_item_gets_the_weight_too(rewards):
    without, reward = rewards
    written = [Recommendation(item, (" Like", 0, "."), True) for item in (1, 4, -1)]
    plain, asked = without(written, [ASKED] * 3), reward(written, [ASKED] * 3)
    assert (asked.item - plain.item).tolist() == pytest.approx([3.0, 0.0, 0.0], abs=1e-5)
    assert asked.parts["request"].tolist() == [1.0, 0.0, 0.0] and "request" not in plain.parts
    assert torch.equal(reward(written, [PLAIN] * 3).item, plain.item)
    assert torch.equal(asked.text, plain.text)


def test_satisfying_without_regard_to_the_user_earns_less(rewards):
    """The cheat: the same satisfying item for everybody. The best satisfying item of each user earns more."""
    _, reward = rewards
    decisions = [replace(ASKED, items=items) for items in ([0, 3], [4, 5], [7, 8], [3, 0], [5, 7], [8, 4])]
    of_items = reward.newest_item_rewards(decisions)
    best = of_items.max(1).values.mean()
    everybody = of_items[:, [1, 2, 6]].mean(0).max()
    ignoring = reward.newest_item_rewards([replace(one, request=None) for one in decisions]).argmax(1)
    assert best > everybody > of_items.gather(1, ignoring[:, None]).mean()


def test_training_prompts_have_true_requests(data):
    config = make_config("none", sft={"requests": 0.5})
    attributes = Attributes.from_data(data)
    plain = training_decisions(data, config)
    found = ask(plain, attributes, 1.0, 0)
    asked = [one for one in found if one.request is not None]
    assert len(asked) > len(plain) / 2
    for one in asked:
        item = one.target if one.target is not None else one.items[-1]
        assert attributes.satisfied(one.request.conditions)[item]


def test_only_satisfying_items_are_supervised_beside_the_reward(tiny_base, data):
    policy = RecPolicy.create(make_config(tiny_base, sft={"requests": 0.5}), data).eval()
    disturb(policy)
    log_probs = torch.randn(4, 10).log_softmax(1)
    items = torch.tensor([0, 1, 3, 6])
    every, asked = taken_log_probs(policy, log_probs, items), taken_log_probs(policy, log_probs, items, FUNNY)
    assert torch.equal(asked, every[[0, 2]])  # items 1 and 6, not 3
    assert pack(policy, [ASKED]).prompt_length > pack(policy, [PLAIN]).prompt_length
    assert np.isfinite(every.numpy()).all()


def test_training_raises_the_probability_of_items_that_satisfy(tiny_base, data, tmp_path):
    """The reward is 1 for an item that satisfies the request, and 0 without a request."""

    class Satisfied(PreferItem):
        def item_rewards_per_prefix(self, decisions):
            masks = [attributes.satisfied(one.request.conditions) if one.request else np.zeros(10) for one in decisions]
            return [
                torch.from_numpy(mask).float().expand(len(one.items), 10)
                for mask, one in zip(masks, decisions, strict=True)
            ]

    options = {"total_episodes": 160, "learning_rate": 3e-3, "item_kl_coef": 0.1, "num_ppo_epochs": 2, "text": "off"}
    trainer = make_trainer(tiny_base, data, tmp_path, **options)
    attributes = Attributes.from_data(data)
    trainer.reward = Satisfied()
    trainer.rollouts.dataset = ask(trainer.rollouts.dataset, attributes, 0.5, 0)
    trainer.train()
    rewards = [entry["objective/item_reward"] for entry in trainer.state.log_history]
    assert np.mean(rewards[-4:]) > np.mean(rewards[:4]) + 0.02

"""The profile of a known user reaches the reward in rollouts, exact item rewards, the guard and the evaluation."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from llmrec.catalogue.facts import FactBook
from llmrec.config import RewardConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decision
from llmrec.errors import DataError
from llmrec.language.prompt import Recommendation
from llmrec.ppo.stage import training_decisions, validation_guard
from llmrec.reward.composite import CompositeReward
from llmrec.reward.item_rewards import log_odds
from reward_models.click_purchase import ClickPurchaseConfig, ClickPurchaseModel
from reward_models.features import profile_words
from reward_models.judge import fit_judge
from reward_models.storage import catalogue_hash
from tests.conftest import make_config, make_data

STRANGER = Decision("new user", [], [9, 0, 2], [True, False, True])
ANSWER = Recommendation(5, (" Like", 0, ", it is Drama."), True)


@pytest.fixture(scope="module")
def data() -> InteractionData:
    data = make_data()
    return replace(data, users=data.users.assign(gender=["f", "m", "f", "m", "f", "m"]))


@pytest.fixture(scope="module")
def reward(data) -> CompositeReward:
    """A reward on which profiles have a large effect."""
    torch.manual_seed(0)
    model = ClickPurchaseModel(ClickPurchaseConfig(data.num_items, hidden_size=8, dropout=0.0)).eval()
    with torch.no_grad():
        model.profile.weight[1:].mul_(100)
    return CompositeReward(
        model, FactBook.from_data(data), RewardConfig(conversion_weight=1.0, popularity_weight=1.0), data
    )


def test_the_reward_of_a_known_user_uses_the_profile(reward, data):
    history, purchases = [STRANGER.history], [STRANGER.known_purchases]
    known, unseen = replace(STRANGER, user=3), [item for item in range(10) if item not in (0, 2, 9)]
    for row, profile in ((known, profile_words(data.users)[[3]]), (STRANGER, None)):
        expected = reward.model.log_rewards(history, purchases, profile)
        assert reward([ANSWER], [row]).parts["log_odds"] == log_odds(expected[:, ANSWER.item])
        torch.testing.assert_close(
            reward.item_rewards_per_prefix([row])[0][-1][unseen], reward.item_rewards(expected)[0, unseen]
        )
    assert abs(reward([ANSWER], [known]).item - reward([ANSWER], [STRANGER]).item) > 0.01


def test_a_user_outside_the_log_is_refused(reward):
    with pytest.raises(DataError, match="Decision 1 is of user 6, who is not in the log; expected 0 to 5"):
        reward([ANSWER] * 2, [STRANGER, replace(STRANGER, user=6)])


def test_training_decisions_name_their_user(data):
    decisions = training_decisions(data, make_config("none"))
    assert {decision.user for decision in decisions} == set(range(6))
    for decision in decisions:
        history = decision.history
        assert data.histories[decision.user][: len(history)].tolist() == history.tolist()


def test_the_guard_uses_profiles(reward, data, tmp_path):
    judge = fit_judge(data.train_histories, data.purchases, data.num_items, catalogue_hash(data.items["item_id"]))
    judge.save_pretrained(tmp_path)
    run = SimpleNamespace(config=make_config("none", catalogue={"max_history": 50}), path=lambda *names: tmp_path)
    guard = validation_guard(run, data, reward)
    parts = [guard.choosing, guard.deciding]
    assert sum(len(part.decisions) for part in parts) == 6
    for decision, rewards in (pair for part in parts for pair in zip(part.decisions, part.rewards, strict=True)):
        count = len(decision.items)
        user = next(u for u in range(6) if decision.items.tolist() == data.histories[u][:count].tolist())
        alone = Decision("", [], data.histories[user][:count], data.purchases[user][:count], user)
        torch.testing.assert_close(rewards, reward.item_rewards_per_prefix([alone])[0][-1])

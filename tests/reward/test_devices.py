"""The reward leaves no tensor behind when it moves, and combines its parts on the device that it is on."""

import torch

from llmrec.catalogue.facts import FactBook
from llmrec.config import RewardConfig
from llmrec.reward.composite import CompositeReward
from reward_models.click_purchase import ClickPurchaseConfig, ClickPurchaseModel
from tests.conftest import make_data
from tests.fakes.devices import FAKE_GPU, fake_gpu, on_gpu, tensors_of


def make_reward() -> CompositeReward:
    data = make_data()
    data.items["price"] = range(10)
    config = RewardConfig.model_validate({"terms": [{"column": "price", "weight": 0.5}]})
    model = ClickPurchaseModel(ClickPurchaseConfig(num_items=10, window=4)).eval()
    return CompositeReward(model, FactBook.from_data(data), config, data)


def test_no_tensor_of_a_reward_stays_behind():
    reward = make_reward().to("meta")
    found = tensors_of(reward, skip=(reward.facts,))  # the host reads facts to check texts
    assert len(found) > 20
    assert {path: value.device.type for path, value in found.items() if not value.is_meta} == {}


def test_rewards_of_all_items_are_on_the_device_of_the_reward():
    reward = make_reward()
    with fake_gpu():
        rewards = on_gpu(reward).item_rewards(torch.empty(3, 10, device=FAKE_GPU))
    assert (rewards.device.type, rewards.shape) == (FAKE_GPU, (3, 10))

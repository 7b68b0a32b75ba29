"""Reward models and the judge leave no tensor behind when they move, and compute on the device that they are on."""

import numpy as np
import pytest
import torch

from reward_models.click_purchase import ClickPurchaseConfig, ClickPurchaseModel
from reward_models.ensemble import RewardEnsemble
from reward_models.judge import EaseJudge, JudgeConfig
from reward_models.linear import LinearNextItem
from tests.fakes.devices import FAKE_GPU, fake_gpu, on_gpu, tensors_of

ITEMS = 10
HISTORY = torch.tensor([[0, 1, 2, 3, 4, 5], [6, 7, 8, 0, 0, 0]])
MASK = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
SEEN = torch.zeros(2, ITEMS, dtype=torch.bool)


def click_model() -> ClickPurchaseModel:
    return ClickPurchaseModel(ClickPurchaseConfig(num_items=ITEMS, window=4)).eval()


def ensemble() -> RewardEnsemble:
    return RewardEnsemble([click_model(), click_model()], 0.5, LinearNextItem(ITEMS, 8)).eval()


def judge() -> EaseJudge:
    return EaseJudge(JudgeConfig(num_items=ITEMS, ease_items=8)).eval()


@pytest.mark.parametrize("make", [click_model, ensemble, judge])
def test_no_tensor_of_a_model_stays_behind(make):
    model = make().to("meta")
    found = tensors_of(model)
    assert len(found) > 4
    assert {path: value.device.type for path, value in found.items() if not value.is_meta} == {}


def test_a_model_of_clicks_computes_on_its_device():
    with fake_gpu(), torch.no_grad():
        model = on_gpu(click_model())
        history = on_gpu(HISTORY)
        states = model.prefix_states(history, torch.ones_like(history), on_gpu(torch.zeros(2, 3, dtype=torch.int64)))
        rewards = model.predict_states(states, on_gpu(SEEN)[:, None]).rewards(1.0)
    assert (rewards.device.type, rewards.shape) == (FAKE_GPU, (2, 6, ITEMS))


def test_an_ensemble_computes_on_its_device():
    with fake_gpu(), torch.no_grad():
        model = on_gpu(ensemble())
        linear = model.linear
        assert linear is not None
        history, mask, seen = on_gpu(HISTORY), on_gpu(MASK), on_gpu(SEEN)
        at_all = linear.log_scores(history, mask, seen)
        at_end = linear.log_scores_at_end(history, mask, seen)
        parts = [member.predict_states(member.states(history[:, :4], None)[:, -1], seen) for member in model.members]
        rewards = model._combine(parts, at_end).rewards(1.0)
    assert {value.device.type for value in (at_all, at_end, rewards)} == {FAKE_GPU}


def test_the_judge_computes_on_its_device():
    with fake_gpu():
        rewards = on_gpu(judge()).log_rewards([np.array([0, 1]), np.array([2])])
    assert (rewards.device.type, rewards.shape) == (FAKE_GPU, (2, ITEMS))


@pytest.mark.parametrize("make", [click_model, ensemble, judge])
def test_a_loaded_model_is_on_the_device_of_the_process(make, tmp_path, monkeypatch):
    model = make()
    model.save_pretrained(tmp_path)
    monkeypatch.setattr("reward_models.storage.own_device", lambda: torch.device("meta"))
    found = tensors_of(type(model).from_pretrained(tmp_path))
    assert found and {value.device.type for value in found.values()} == {"meta"}

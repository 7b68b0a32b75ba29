"""Ensembles: the lower bound by hand, saving and loading, and the interface of a single model."""

import json

import numpy as np
import pytest
import torch

from llmrec.errors import ModelError
from reward_models import ClickPurchaseConfig, ClickPurchaseModel, RewardEnsemble, catalogue_hash, load_reward_model

IDS = [f"i{n}" for n in range(7)]
HISTORIES = [np.array([3, 1]), np.array([0])]


def member(seed: int) -> ClickPurchaseModel:
    torch.manual_seed(seed)
    model = ClickPurchaseModel(ClickPurchaseConfig(7, catalogue_hash(IDS), hidden_size=8, window=5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return model.eval()


@pytest.fixture
def members() -> list[ClickPurchaseModel]:
    return [member(1), member(2), member(3)]


def test_the_reward_is_the_mean_minus_the_disagreement(members):
    parts = [m.predict(HISTORIES) for m in members]
    click = torch.stack([p.log_click for p in parts]).mean(0).log_softmax(-1)
    purchase = torch.stack([p.purchase for p in parts]).mean(0).sigmoid().log()
    spread = torch.stack([m.log_rewards(HISTORIES) for m in members]).std(0, correction=0)
    rewards = RewardEnsemble(members, penalty=2.0).log_rewards(HISTORIES)
    unseen = ~parts[0].seen
    assert torch.allclose(rewards[unseen], (click + purchase - 2 * spread)[unseen], atol=1e-5)
    assert (rewards[0, 3] == rewards[0].min()) and rewards.isfinite().all()


def test_equal_members_act_as_one_model(members):
    same = RewardEnsemble([members[0], members[0]], penalty=5.0)
    assert torch.allclose(same.log_rewards(HISTORIES), members[0].log_rewards(HISTORIES), atol=1e-5)
    assert torch.allclose(same.log_clicks(HISTORIES), members[0].log_clicks(HISTORIES), atol=1e-5)


def test_packed_and_single_agree(members):
    ensemble = RewardEnsemble(members, 1.0)
    packed = ensemble.log_rewards_packed(torch.tensor([[3, 1]]))
    assert torch.allclose(packed[0, 1], ensemble.log_rewards([np.array([3, 1])])[0], atol=1e-5)


def test_save_and_load(members, tmp_path):
    ensemble = RewardEnsemble(members, 1.5)
    ensemble.click_temperature.fill_(1.2)
    ensemble.purchase_offset.fill_(-0.1)
    ensemble.save_pretrained(tmp_path)
    again = load_reward_model(tmp_path, iter(IDS))
    assert torch.equal(again.log_rewards(HISTORIES), ensemble.log_rewards(HISTORIES))
    with pytest.raises(ModelError, match="has 7 items, the catalogue has 2"):
        load_reward_model(tmp_path, ["a", "b"])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "click_purchase_ensemble"}))
    with pytest.raises(ModelError, match="does not describe a model of type 'click_purchase_ensemble'"):
        load_reward_model(tmp_path)


def test_a_single_model_loads_without_an_ensemble(members, tmp_path):
    members[0].save_pretrained(tmp_path)
    assert isinstance(load_reward_model(tmp_path, IDS), ClickPurchaseModel)

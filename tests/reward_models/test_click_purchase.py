"""The click/purchase model: shapes, causality, masking, saving and errors."""

import json

import numpy as np
import pytest
import torch

from llmrec.errors import DataError, ModelError
from reward_models import UNKNOWN, ClickPurchaseConfig, ClickPurchaseModel, catalogue_hash

ITEMS = 9
IDS = [f"i{n}" for n in range(ITEMS)]


@pytest.fixture
def model() -> ClickPurchaseModel:
    torch.manual_seed(0)
    config = ClickPurchaseConfig(ITEMS, catalogue_hash(IDS), hidden_size=8, window=5, rank=3)
    model = ClickPurchaseModel(config)
    with torch.no_grad():  # far from the small initial weights, so that differences are visible
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    model.click_temperature.fill_(1.7)
    model.purchase_scale.fill_(0.8)
    model.purchase_offset.fill_(-0.3)
    return model.eval()


def test_packed_rewards_equal_those_of_every_prefix(model):
    history = np.array([3, 1, 4, 0, 5])
    bought = np.array([True, False, False, True, True])
    packed = model.log_rewards_packed(torch.tensor(history)[None], torch.tensor(bought)[None])
    prefixes = [history[: t + 1] for t in range(5)]
    alone = model.log_rewards(prefixes, [bought[: t + 1] for t in range(5)])
    assert torch.allclose(packed[0], alone, atol=1e-5)


def test_padding_changes_nothing(model):
    short = torch.tensor([[3, 1]])
    padded, mask = torch.tensor([[3, 1, -7, 99]]), torch.tensor([[True, True, False, False]])
    packed = model.log_rewards_packed(padded, None, mask)
    assert torch.allclose(packed[:, :2], model.log_rewards_packed(short), atol=1e-5)
    assert (packed[:, 2:] == 0).all()


def test_reward_is_click_plus_purchase_given_click(model):
    state = model.states(torch.tensor([[3, 1]]), None)[0, -1]
    click = model.click_scores(state) / model.click_temperature
    click[[3, 1]] = float("-inf")
    purchase = model.pair_scores(state.expand(ITEMS, -1), torch.arange(ITEMS))[1]
    purchase = model.purchase_scale * purchase + model.purchase_offset
    expected = click.log_softmax(-1) + torch.nn.functional.logsigmoid(purchase)
    reward = model.log_rewards([np.array([3, 1])])[0]
    unseen = [0, 2, 4, 5, 6, 7, 8]
    assert torch.allclose(reward[unseen], expected[unseen], atol=1e-5)
    assert model.log_clicks([np.array([3, 1])])[0, unseen].exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert (reward <= 0).all()


def test_seen_items_get_the_lowest_reward(model):
    reward = model.log_rewards([np.array([3, 1])])[0]
    assert reward[3] == reward[1] == reward.min()
    assert model.log_rewards([np.arange(ITEMS)]).isfinite().all()


def test_items_seen_before_a_packed_history_get_the_lowest_reward(model):
    seen = torch.zeros(1, ITEMS, dtype=torch.bool)
    seen[0, 7] = True
    reward = model.log_rewards_packed(torch.tensor([[3, 1]]), clicks_before=seen)
    assert (reward[0, :, 7] == reward[0].amin(-1)).all()


def test_long_histories_are_cut_but_all_their_items_count_as_seen(model):
    long, cut = np.array([8, 3, 1, 4, 0, 5]), np.array([3, 1, 4, 0, 5])
    seen = torch.zeros(1, ITEMS, dtype=torch.bool)
    seen[0, 8] = True
    expected = model.log_rewards_packed(torch.tensor(cut)[None], clicks_before=seen)[0, -1]
    assert torch.allclose(model.log_rewards([long])[0], expected, atol=1e-5)


def test_empty_history_and_unknown_purchases(model):
    rewards = model.log_rewards([np.array([], dtype=int), np.array([2])], [None, np.array([1])])
    assert rewards.shape == (2, ITEMS) and rewards.isfinite().all()
    assert rewards[0].exp().sum() < 1  # click probabilities times purchase probabilities
    known, unknown = model.log_rewards([np.array([2])] * 2, [np.array([True]), None])
    assert not torch.allclose(known, unknown)
    explicit = model.log_rewards_packed(torch.tensor([[2]]), torch.tensor([[UNKNOWN]]))
    assert torch.allclose(explicit[0, 0], unknown, atol=1e-6)


def test_an_empty_history_does_not_depend_on_the_batch(model):
    first = model.log_rewards([np.array([], dtype=int)])[0]
    assert torch.allclose(first, model.log_rewards([np.array([], dtype=int), np.array([1, 2, 3])])[0], atol=1e-5)


@pytest.mark.parametrize("items", [[0, ITEMS], [-1, 2]])
def test_items_outside_the_catalogue_are_refused(model, items):
    with pytest.raises(DataError, match="has 9 items"):
        model.log_rewards([np.array(items)])
    with pytest.raises(DataError, match="has 9 items"):
        model.log_rewards_packed(torch.tensor([items]))


def test_purchases_must_be_as_many_as_items(model):
    with pytest.raises(DataError, match="2 items but 1 purchase"):
        model.log_rewards([np.array([0, 1])], [np.array([True])])


def test_packed_histories_beyond_the_window_are_exact(model):
    history, bought = np.array([8, 3, 1, 4, 0, 5, 2]), np.array([True, False, True, False, False, True, True])
    packed = model.log_rewards_packed(torch.tensor(history)[None], torch.tensor(bought)[None])
    lengths = range(1, 8)
    alone = model.log_rewards([history[:t] for t in lengths], [bought[:t] for t in lengths])
    assert torch.allclose(packed[0], alone, atol=1e-5)
    with pytest.raises(ValueError, match="6 items; the window is 5"):
        model.states(torch.arange(6)[None], None)


def test_save_and_load_are_identical(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = ClickPurchaseModel.from_pretrained(tmp_path, IDS)
    histories = [np.array([3, 1]), np.array([0])]
    assert torch.equal(again.log_rewards(histories), model.log_rewards(histories))
    assert not again.training


def test_another_catalogue_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has 9 items, the catalogue has 8"):
        ClickPurchaseModel.from_pretrained(tmp_path, IDS[:8])
    with pytest.raises(ModelError, match="other items, or on these in another order"):
        ClickPurchaseModel.from_pretrained(tmp_path, IDS[::-1])


def test_missing_damaged_and_mismatching_files_are_refused(model, tmp_path):
    with pytest.raises(ModelError, match="There is no .*config.json"):
        ClickPurchaseModel.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole, values = weights.read_bytes(), json.loads(config.read_text())
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="damaged"):
        ClickPurchaseModel.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match="There is no .*model.safetensors"):
        ClickPurchaseModel.from_pretrained(tmp_path)
    weights.write_bytes(whole)
    for change, message in (
        ({"num_items": 4}, "does not match its config"),
        ({"model_type": "bert"}, "type 'bert'"),
        ({"colour": "red"}, "does not describe a model of type"),
        ({"num_heads": 3}, "not a multiple"),
    ):
        config.write_text(json.dumps(values | change))
        with pytest.raises(ModelError, match=message):
            ClickPurchaseModel.from_pretrained(tmp_path)
    config.write_text("{")
    with pytest.raises(ModelError, match="JSON"):
        ClickPurchaseModel.from_pretrained(tmp_path)


def test_weights_that_are_not_finite_are_refused(model, tmp_path):
    model.click_bias.data[0] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="not finite in click_bias"):
        ClickPurchaseModel.from_pretrained(tmp_path)

"""Fitting: losses by hand, learning on a small log, isolation of held-out events, and errors."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from llmrec.config import RewardConfig
from llmrec.errors import DataError, ModelError
from reward_models import ClickPurchaseModel, fit_click_purchase, fit_reward
from reward_models import train as training
from reward_models.click_purchase import ClickPurchaseConfig
from reward_models.held_out import calibrate, held_out
from reward_models.judge import judge_split
from reward_models.losses import Negatives, click_loss, draw_negatives
from reward_models.training_events import UNKNOWN, collate, training_events

SMALL = RewardConfig(
    num_train_epochs=30,
    learning_rate=1e-2,
    hidden_size=16,
    num_layers=1,
    dropout=0.0,
    judge_users=0.2,
    linear=False,
    conversion_weight=1.0,
    popularity_weight=1.0,
)


def tiny_model(num_items: int) -> ClickPurchaseModel:
    torch.manual_seed(0)
    return ClickPurchaseModel(ClickPurchaseConfig(num_items, hidden_size=8, dropout=0.0)).eval()


@pytest.fixture(scope="module")
def fitted(data):
    return fit_reward(data, SMALL, seed=3)


def test_it_learns_clicks_and_purchases(fitted):
    model, _, quality = fitted
    assert quality.metrics["ranking"]["click_ndcg@10"] > 0.6
    click, purchase = (quality.metrics["splits"]["leave_one_out"][what] for what in ("click", "purchase"))
    assert click["auc"]["value"] > 0.8
    assert click["auc"]["ci95"][0] < click["auc"]["value"] < click["auc"]["ci95"][1]
    assert click["catalogue_loss"] < click["baselines"]["item_popularity"]["catalogue_loss"]
    assert click["baselines"]["constant"]["auc"]["value"] == 0.5
    assert click["lift_auc_popularity_matched"]["value"] > 0.8
    assert click["baselines"]["item_popularity"]["lift_auc_popularity_matched"]["value"] == pytest.approx(0.5)
    assert purchase["auc"]["value"] > 0.95
    assert purchase["log_loss"]["value"] < purchase["baselines"]["constant"]["log_loss"]["value"]
    assert any(name.startswith("user_activity") for name in purchase["slices"])
    assert not model.training


def test_same_seed_same_model_and_global_generator_untouched(data):
    config = SMALL.model_copy(update={"num_train_epochs": 2})
    torch.manual_seed(5)
    first, _ = fit_click_purchase(data, config, seed=1)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    second, _ = fit_click_purchase(data, config, seed=1)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_held_out_events_are_never_trained_on(data):
    def scrambled(history, length):
        return np.concatenate([history[:length], history[length:][::-1]])

    other = replace(
        data,
        histories=[scrambled(h, n) for h, n in zip(data.histories, data.train_lengths, strict=True)],
        purchases=[
            np.where(np.arange(len(p)) < n, p, ~p) for p, n in zip(data.purchases, data.train_lengths, strict=True)
        ],
        targets={},
    )
    config = SMALL.model_copy(update={"num_train_epochs": 2})
    first, _ = fit_click_purchase(replace(data, targets={}), config, seed=1)
    second, quality = fit_click_purchase(other, config, seed=1)
    assert torch.equal(first.click_bias, second.click_bias)
    assert "ranking" not in quality.metrics and quality.metrics["splits"] == {}


def test_click_loss_excludes_seen_items(data):
    events = training_events(data)
    batch = collate(events, np.array([(0, 2, 5)]), np.random.default_rng(0))
    model = tiny_model(data.num_items)
    states = model.states(batch.history, batch.purchased)[batch.mask]
    history, expected = events.histories[0], []
    for row, t in enumerate(range(2, 5)):
        logits = model.click_scores(states[row])
        allowed = [i for i in range(data.num_items) if i not in history[:t]]
        expected.append(-(logits[history[t]] - logits[allowed].logsumexp(0)))
    loss = torch.stack(expected).mean().item()
    assert click_loss(model, states, batch, None).item() == pytest.approx(loss, rel=1e-5)


def test_sampled_softmax_with_every_item_once_equals_the_full_softmax(data):
    batch = collate(training_events(data), np.array([(0, 0, 6), (1, 0, 3)]), np.random.default_rng(0))
    model = tiny_model(data.num_items)
    states = model.states(batch.history, batch.purchased)[batch.mask]
    full, items = click_loss(model, states, batch, None).item(), torch.arange(data.num_items)
    once = Negatives(items, torch.zeros(data.num_items))
    assert click_loss(model, states, batch, once).item() == pytest.approx(full, rel=1e-5)
    # The first half is drawn three times and the second once, as often as expected.
    count = torch.where(items < data.num_items // 2, 3.0, 1.0)
    uneven = Negatives(items.repeat_interleave(count.long()), count.log().repeat_interleave(count.long()))
    assert click_loss(model, states, batch, uneven).item() == pytest.approx(full, rel=1e-5)


def test_negatives_sampled_by_popularity_estimate_the_sum_over_the_catalogue(monkeypatch):
    monkeypatch.setattr("reward_models.losses.FULL_SOFTMAX_ITEMS", 2)
    rng, share = np.random.default_rng(0), np.log([0.6, 0.2, 0.1, 0.1])
    values, config = torch.tensor([1.0, 5.0, 2.0, 7.0]), SMALL.model_copy(update={"negatives": 3})
    drawn = [draw_negatives(share, config, rng, torch.device("cpu")) for _ in range(4000)]
    sums = torch.stack([(values[d.items] / d.log_count.exp()).sum() for d in drawn])
    assert sums.mean().item() == pytest.approx(15.0, rel=0.05)
    assert np.mean([(d.items == 0).double().mean() for d in drawn]) == pytest.approx(0.6, abs=0.03)


def test_large_catalogues_train_with_sampled_negatives(data, monkeypatch):
    monkeypatch.setattr("reward_models.losses.FULL_SOFTMAX_ITEMS", 10)
    _, quality = fit_click_purchase(data, SMALL.model_copy(update={"negatives": 12}), seed=0)
    assert quality.metrics["ranking"]["click_ndcg@10"] > 0.5


def test_large_catalogues_start_from_popularity(data, monkeypatch):
    monkeypatch.setattr("reward_models.losses.FULL_SOFTMAX_ITEMS", 10)
    config = SMALL.model_copy(update={"negatives": 12, "num_train_epochs": 1, "learning_rate": 1e-9})
    model, _ = fit_click_purchase(data, config, seed=0)
    clicks = np.bincount(np.concatenate(data.train_histories), minlength=data.num_items) + 1
    np.testing.assert_allclose(model.click_bias.detach().numpy(), np.log(clicks / clicks.min()), atol=1e-4)


def test_purchases_are_sometimes_hidden(data):
    events = training_events(data)
    batch = collate(events, np.array([(u, 0, len(events.histories[u])) for u in range(60)]), np.random.default_rng(0))
    hidden = (batch.purchased == UNKNOWN).all(1)
    assert 0 < hidden.sum() < 30


def test_the_judge_gets_other_users():
    training_users, judges = judge_split(10, 0.2, seed=0)
    assert len(judges) == 2 and sorted([*training_users, *judges]) == list(range(10))


def test_held_out_falls_back_to_the_temporal_split(data):
    temporal = replace(data, targets={"temporal": data.targets["leave_one_out"]})
    part = held_out(temporal, "test", limit=7, seed=0)
    assert part.split == "temporal" and len(part) == 7
    assert len(held_out(replace(data, targets={}), "test", 7, 0)) == 0


@pytest.mark.parametrize(
    ("bought", "message"), [(True, "every click is a purchase"), (False, "no click is a purchase")]
)
def test_events_of_one_class_are_refused(data, bought, message):
    one_class = replace(data, purchases=[np.full(len(p), bought) for p in data.purchases])
    with pytest.raises(DataError, match=message):
        fit_click_purchase(one_class, SMALL, seed=0)


def test_impossible_values_are_refused(data):
    nan = replace(data, purchases=[np.full(len(p), np.nan) for p in data.purchases])
    with pytest.raises(DataError, match="User user0: a purchase flag is nan"):
        fit_click_purchase(nan, SMALL, seed=0)
    outside = replace(data, histories=[h + 20 for h in data.histories])
    with pytest.raises(DataError, match="outside 0..23"):
        fit_click_purchase(outside, SMALL, seed=0)
    short = replace(data, purchases=[p[:1] for p in data.purchases])
    with pytest.raises(DataError, match="purchase flags"):
        fit_click_purchase(short, SMALL, seed=0)
    nothing = replace(data, train_lengths=np.zeros(data.num_users, dtype=int))
    with pytest.raises(DataError, match="No training events"):
        fit_click_purchase(nothing, SMALL, seed=0)


def test_users_may_purchase_everything(data):
    purchases = [np.ones_like(p) if u % 2 else np.arange(len(p)) % 2 == 0 for u, p in enumerate(data.purchases)]
    config = SMALL.model_copy(update={"num_train_epochs": 1})
    model, quality = fit_click_purchase(replace(data, purchases=purchases), config, seed=0)
    assert model.log_rewards(data.train_histories).isfinite().all()
    assert quality.metrics["splits"]["leave_one_out"]["purchase"]["auc"] is not None


def test_a_log_without_purchases(data):
    purchases = [np.zeros_like(p) for p in data.purchases]
    card = {"rules": {"click": ["view"], "purchase": []}}
    config = SMALL.model_copy(update={"num_train_epochs": 1})
    model, quality = fit_click_purchase(replace(data, purchases=purchases, card=card), config, seed=0)
    assert quality.metrics["splits"]["leave_one_out"]["purchase"] is None
    assert torch.equal(model.log_rewards(data.train_histories), model.log_clicks(data.train_histories))


def test_constant_scores_are_refused(data):
    model = tiny_model(data.num_items)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    with pytest.raises(ModelError, match="gives all items the same score for each of 60"):
        calibrate(model, held_out(data, "valid", 100, 0))


def test_a_loss_that_is_nan_is_refused(data, monkeypatch):
    monkeypatch.setattr(training, "batch_loss", lambda model, *_: model.click_bias.sum() * float("nan"))
    with pytest.raises(ModelError, match="loss is nan: lower `reward.learning_rate`"):
        fit_click_purchase(data, SMALL, seed=0)


def test_profile_words_outside_the_hash_range_are_refused(data):
    model = tiny_model(data.num_items)
    with pytest.raises(DataError, match="A profile word is outside"):
        model.log_rewards(data.train_histories[:1], profiles=np.array([[-3]]))


def test_an_ensemble_is_fitted_and_reported(data):
    config = SMALL.model_copy(update={"num_train_epochs": 1, "ensemble": 2, "uncertainty_penalty": 0.5})
    model, quality = fit_click_purchase(data, config, seed=0)
    assert quality.metrics["ensemble"] == {"members": 2, "uncertainty_penalty": 0.5}
    assert len(quality.metrics["curve"]) == 2 and model.log_rewards(data.train_histories).shape == (60, 24)


def test_items_without_a_training_click_are_scored_by_their_words(data):
    """Items 0 to 11 have one category and 12 to 23 another. Every user clicks one category only.

    Two items of each category have no training click.
    """
    rng, cold = np.random.default_rng(0), np.array([5, 11, 17, 23])
    items = data.items.assign(
        title="an item", categories=pd.Series([["left"] if i < 12 else ["right"] for i in range(24)], dtype=object)
    )
    warm = [np.setdiff1d(np.arange(12) + side, cold) for side in (0, 12)]
    histories = [rng.permutation(warm[u % 2])[:8] for u in range(60)]
    log = replace(
        data,
        items=items,
        histories=histories,
        purchases=[h % 2 == 0 for h in histories],
        timestamps=[np.arange(8)] * 60,
        train_lengths=np.full(60, 8),
        targets={},
    )
    model, quality = fit_click_purchase(log, SMALL, seed=0)
    assert quality.metrics["training"]["items_never_trained_on"] == 4
    scores = model.log_clicks([warm[0][:5], warm[1][:5]])
    assert scores[0, [5, 11]].min() > scores[0, [17, 23]].max() + 1
    assert scores[1, [17, 23]].min() > scores[1, [5, 11]].max() + 1


@pytest.mark.parametrize("members", [1, 2])
def test_a_linear_model_improves_the_pool(data, members):
    config = SMALL.model_copy(update={"linear": True, "ensemble": members, "num_train_epochs": 2})
    model, quality = fit_click_purchase(data, config, seed=0)
    alone, _ = fit_click_purchase(data, config.model_copy(update={"linear": False}), seed=0)
    found = quality.metrics["linear"]
    assert found["l2"] in found["cross_entropy"] and len(model.members) == members
    events = held_out(data, "valid", 100, 0)
    rows = torch.arange(len(events))
    targets = torch.from_numpy(events.decisions.targets)
    entropies = [
        -one.predict(events.decisions.histories, events.decisions.purchased, events.profiles)
        .log_click[rows, targets]
        .mean()
        .item()
        for one in (model, alone)
    ]
    assert entropies[0] == pytest.approx(min(found["cross_entropy"].values()), abs=0.01)
    assert entropies[0] < entropies[1] - 0.1  # two epochs are too few for the transformer
    assert found["powers"]["linear"] > 0.2


def test_a_linear_model_needs_validation_clicks_and_no_exposures(data):
    config = SMALL.model_copy(update={"linear": True, "num_train_epochs": 1})
    with pytest.raises(DataError, match="set it to false"):
        fit_click_purchase(replace(data, targets={}), config, seed=0)
    shown = pd.DataFrame({"user": [0], "item": [1], "timestamp": [0], "click": [True], "position": [1]})
    shown["propensity"] = 0.5
    with pytest.raises(DataError, match="has exposures"):
        fit_click_purchase(replace(data, exposures=shown), config, seed=0)

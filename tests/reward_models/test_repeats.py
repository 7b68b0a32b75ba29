"""Reward models of a log whose repeats were kept: a seen item can be the next click."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reward_models import ClickPurchaseConfig, ClickPurchaseModel, fit_judge
from reward_models.losses import click_loss
from reward_models.training_events import collate, training_events

HISTORIES = [np.array([0, 1, 0, 1, 0, 1]), np.array([2, 3, 2, 3, 2, 3]), np.array([4, 0, 4, 0])]


def model_of(repeats: bool) -> ClickPurchaseModel:
    torch.manual_seed(0)
    return ClickPurchaseModel(ClickPurchaseConfig(6, hidden_size=8, dropout=0.0, repeats=repeats)).eval()


def test_probabilities_of_all_items_sum_to_one():
    model = model_of(repeats=True)
    whole = model.log_clicks([HISTORIES[0]]).exp()
    assert whole.sum().item() == pytest.approx(1, abs=1e-5) and (whole > 0).all()
    packed = model.predict_packed(torch.tensor([[0, 1, 0]]), None, torch.ones(1, 3, dtype=torch.bool))
    assert packed.log_click.isfinite().all() and not packed.seen.any()
    assert model_of(repeats=False).predict([HISTORIES[0]]).log_click[0, :2].isneginf().all()


def test_seen_items_compete_with_the_target(data):
    """The loss of a fixed model equals the cross-entropy over all items."""
    model = model_of(repeats=True)
    events = replace(training_events(data), histories=HISTORIES[:1], purchases=[np.zeros(6, dtype=bool)])
    events = replace(events, words=np.zeros((6, 1), dtype=np.int64))
    batch = collate(events, np.array([(0, 0, 6)]), np.random.default_rng(0))
    states = model.states(batch.history, batch.purchased, batch.profiles)[batch.mask]
    expected = torch.nn.functional.cross_entropy(model.click_scores(states), batch.targets[batch.mask])
    torch.testing.assert_close(click_loss(model, states, batch, None), expected)


def test_the_judge_scores_seen_items_and_is_saved_with_that(tmp_path):
    flags = [np.zeros(len(one), dtype=bool) for one in HISTORIES]
    judge = fit_judge(HISTORIES, flags, 6, repeats=True)
    log_click, masked = judge.click([HISTORIES[0]])
    assert log_click.exp().sum().item() == pytest.approx(1, abs=1e-5) and not masked.any()
    judge.save_pretrained(tmp_path)
    assert type(judge).from_pretrained(tmp_path).config.repeats

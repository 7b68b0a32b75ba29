"""Exposures: weights by hand, correction of the logging policy, position bias, and the Open Bandit log."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from llmrec.config import RewardConfig, load_config
from llmrec.data.dataset import Targets
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.data.windows import cut_windows
from llmrec.errors import DataError
from reward_models import fit_click_purchase
from reward_models.exposures import CLIP, exposures_of, propensity_weights
from reward_models.fit import new_model
from reward_models.train import Sources, Step, step_loss
from tests.reward_models.conftest import make_data

OPEN_BANDIT = Path(os.environ.get("LLMREC_TEST_DATA", "data")) / "open-bandit"


def test_weights_by_hand():
    # 1 / p = 2, 4, 100. The median is 4, so they are clipped at 40: 2, 4, 40, with mean 46 / 3.
    weights, clipped = propensity_weights(np.array([0.5, 0.25, 0.01]))
    assert CLIP == 10 and clipped == pytest.approx(1 / 3)
    assert weights == pytest.approx(np.array([2, 4, 40]) * 3 / 46)


def test_unknown_propensities_count_as_the_median():
    assert propensity_weights(np.array([np.nan, np.nan]))[0].tolist() == [1, 1]
    weights, _ = propensity_weights(np.array([0.5, np.nan, 0.5]))
    assert weights == pytest.approx(np.ones(3))


@pytest.mark.parametrize("wrong", [0.0, -0.1, 1.5])
def test_impossible_propensities_are_refused(wrong):
    with pytest.raises(DataError, match="expected a probability above 0"):
        propensity_weights(np.array([0.5, wrong]))


def with_exposures(data, frame):
    return replace(data, exposures=frame.astype({"position": "Int64", "propensity": "float64", "click": bool}))


def exposure_log(data, shown: int, seed: int) -> pd.DataFrame:
    """Impressions before all clicks: users click on odd items, and on the first rank more often than on the second."""
    rng = np.random.default_rng(seed)
    item, position = rng.integers(0, data.num_items, shown), rng.integers(1, 3, shown)
    rate = 1 / (1 + np.exp(2.2 - 1.8 * (item % 2 == 1) - 1.8 * (position == 1)))
    return pd.DataFrame(
        {
            "user": rng.integers(0, data.num_users, shown),
            "item": item,
            "timestamp": -1,
            "click": rng.random(shown) < rate,
            "position": position,
            "propensity": 1 / data.num_items,
        }
    )


def test_effects_of_item_and_position_are_separated(data):
    logged = with_exposures(data, exposure_log(data, 3000, 0))
    config = RewardConfig(
        num_train_epochs=12, learning_rate=1e-2, hidden_size=16, num_layers=1, dropout=0.0, linear=False
    )
    model, quality = fit_click_purchase(logged, config, seed=0)
    assert quality.metrics["training"]["exposures"] == 3000
    nobody = [np.zeros(0, dtype=int)] * 4
    p = model.click_if_shown(nobody, [1, 1, 2, 2], [1, 2, 1, 2])
    # The truth in log-odds: -2.2, 1.8 for an odd item, 1.8 for the first rank.
    assert p.tolist() == pytest.approx([0.80, 0.40, 0.40, 0.10], abs=0.15)
    with pytest.raises(DataError, match="The candidates hold item index 24"):
        model.click_if_shown(nobody[:1], [24], [1])


def test_the_weight_of_next_clicks_counts_only_beside_exposures(data):
    config = RewardConfig(hidden_size=16, num_layers=1, dropout=0.0, linear=False)

    def loss(log, weight: float, shown: int, windows: int = 4) -> float:
        sources = Sources.from_data(log, None, seed=0)
        torch.manual_seed(0)
        model = new_model(sources, config).eval()
        pieces = cut_windows(sources.events.histories, 50, np.random.default_rng(0))[:windows]
        weighted = config.model_copy(update={"next_click_weight": weight})
        step = Step(pieces, np.arange(shown))
        return step_loss(model, sources, step, weighted, np.zeros(data.num_items), np.random.default_rng(0)).item()

    logged = with_exposures(data, exposure_log(data, 100, 0))
    of_shown = loss(logged, 1.0, 100, windows=0)
    of_clicks = loss(logged, 1.0, 0)
    assert loss(logged, 0.1, 100) == pytest.approx(of_shown + 0.1 * of_clicks, rel=1e-5)
    assert loss(data, 0.1, 0) == pytest.approx(loss(data, 1.0, 0))


def test_parts_follow_the_temporal_split():
    data = make_data()
    users = np.arange(data.num_users)
    parts = {"valid": Targets(users, data.train_lengths), "test": Targets(users, data.train_lengths + 1)}
    data = replace(data, targets={"temporal": parts}, timestamps=[t * 10 for t in data.timestamps])
    valid, test = (
        min(data.timestamps[u][p] for u, p in zip(t.users, t.positions, strict=True)) for t in parts.values()
    )
    frame = pd.DataFrame({"user": 0, "item": 1, "timestamp": [0, 25, valid - 1, valid, test], "click": False})
    data = with_exposures(data, frame.assign(position=[1, None, 1, 1, 1], propensity=0.5))
    train = exposures_of(data, "train")
    assert train.before.tolist()[:2] == [0, 3] and train.positions.tolist()[:2] == [1, 0]
    assert [len(exposures_of(data, part)) for part in ("train", "valid", "test")] == [3, 1, 1]
    assert len(exposures_of(data, "train", users=np.array([5]))) == 0


def test_weights_undo_the_logging_policy(data):
    """The log shows item 1 mostly to the users who click it, and item 2 to all. Weighted, both have one click rate."""
    rng = np.random.default_rng(0)
    keen, item = rng.random(20_000) < 0.5, rng.integers(1, 3, 20_000)
    p = np.where(item == 2, 0.5, np.where(keen, 0.9, 0.1))
    shown = rng.random(20_000) < p
    clicked = rng.random(20_000) < np.where(keen, 0.4, 0.1)
    weights, _ = propensity_weights(p[shown])
    for which in (1, 2):
        rows = item[shown] == which
        rate = np.average(clicked[shown][rows], weights=weights[rows])
        assert rate == pytest.approx(0.25, abs=0.02)
    assert clicked[shown][item[shown] == 1].mean() > 0.33


def test_an_exposure_outside_the_catalogue_is_refused(data):
    frame = exposure_log(data, 5, 0).assign(item=99)
    with pytest.raises(DataError, match="An exposure shows an item index outside 0..23"):
        fit_click_purchase(with_exposures(data, frame), RewardConfig(linear=False), seed=0)


@pytest.mark.skipif(
    not OPEN_BANDIT.is_dir(), reason=f"no {OPEN_BANDIT}: set LLMREC_TEST_DATA to what holds open-bandit"
)
def test_open_bandit_trains_on_weighted_exposures():
    written = load_config(Path(__file__).parents[2] / "configs" / "open_bandit.yaml")
    config = written.data.model_copy(update={"path": str(OPEN_BANDIT / "bts" / "men")})
    data = build_data(read_log(config), config, seed=0)
    assert (data.num_users, data.num_items, len(data.exposures)) == (238, 34, 10_000)
    assert data.exposures["click"].sum() == 69
    train = exposures_of(data, "train")
    assert train.weights.mean() == pytest.approx(1) and 0 < train.clipped < 0.2
    assert train.effective_sample_size < len(train)
    section = RewardConfig(num_train_epochs=2, hidden_size=16, num_layers=1, weight_decay=0.1, linear=False)
    model, quality = fit_click_purchase(data, section, seed=0)
    exposures = quality.metrics["exposures"]
    assert exposures["ece"]["value"] < 0.01 and set(exposures["position_bias"]) == {"1", "2", "3"}
    assert model.log_rewards([np.array([3])]).isfinite().all()
    assert torch.equal(model.log_rewards([np.array([3])]), model.log_clicks([np.array([3])]))

"""Every model on a log whose users take the same two items in turn: one of the two is always next."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from llmrec.config import RewardConfig
from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.decision import Decisions
from llmrec.evaluation.metrics import ranks
from llmrec.recommenders.registry import REGISTRY, fit_one
from llmrec.recommenders.tuning import FittedBaseline, Tuning
from reward_models.fit import fit_click_purchase
from reward_models.judge import fit_judge
from tests.conftest import make_config

PAIRS = 12
USERS_OF_PAIR = 3
MORE_OF_FIRST = 5  # further users of the first pair, whose items are the most popular
CLICKS = 14


def log_of_pairs() -> InteractionData:
    """Users of pair p take the items 2p and 2p + 1 in turn."""
    pairs = np.append(np.repeat(np.arange(PAIRS), USERS_OF_PAIR), np.zeros(MORE_OF_FIRST, dtype=np.int64))
    everyone = np.arange(len(pairs))
    lengths = np.full(len(pairs), CLICKS)
    return InteractionData(
        items=pd.DataFrame({"item_id": [f"i{n}" for n in range(2 * PAIRS)], "title": "Milk"}),
        users=pd.DataFrame({"user_id": everyone.astype(str)}),
        facts=pd.DataFrame(),
        histories=[2 * pair + (np.arange(CLICKS) + user) % 2 for user, pair in enumerate(pairs.tolist())],
        purchases=[np.zeros(CLICKS, dtype=bool) for _ in everyone],
        timestamps=[np.arange(CLICKS) for _ in everyone],
        train_lengths=lengths - 2,
        targets={"leave_one_out": {"valid": Targets(everyone, lengths - 2), "test": Targets(everyone, lengths - 1)}},
        card={"rules": {"purchase": []}},
        repeats=True,
    )


@pytest.fixture(scope="module")
def log() -> InteractionData:
    return log_of_pairs()


def tuning_of(log: InteractionData, epochs: int) -> Tuning:
    sasrec = {"hidden_size": [16], "num_layers": [1], "dropout": [0.0], "learning_rate": [2e-2], "epochs": epochs}
    config = make_config("none", catalogue={"max_history": 8}, evaluation={"sasrec": sasrec})
    return Tuning(log, config)


@pytest.fixture(scope="module")
def tuning(log: InteractionData) -> Tuning:
    return tuning_of(log, epochs=60)


@pytest.fixture(scope="module")
def fitted() -> dict[str, FittedBaseline]:
    """The baselines that were fitted already, because some consist of others."""
    return {}


def judge_of(log: InteractionData) -> Callable[..., np.ndarray]:
    judge = fit_judge(log.train_histories, log.purchases, log.num_items, repeats=True)
    return lambda decisions: judge.log_rewards(decisions.histories, 0.0).numpy()


def reward_of(log: InteractionData) -> Callable[..., np.ndarray]:
    """The click model alone, and pooled with the linear model of the same events."""
    config = RewardConfig(num_train_epochs=60, hidden_size=16, num_layers=1, learning_rate=2e-2, ensemble=1, window=8)
    model, _ = fit_click_purchase(log, config, seed=0)
    return lambda decisions: model.log_clicks(decisions.histories).numpy()


OURS = {"judge": judge_of, "reward model": reward_of}
# These are trained by gradients, which takes seconds each.
TRAINED = ("sasrec", "sasrec_x3", "gru4rec", "gsasrec")
QUICK = [name for name in REGISTRY if name not in TRAINED]


@pytest.mark.parametrize("name", [*QUICK, *OURS, *(pytest.param(one, marks=pytest.mark.slow) for one in TRAINED)])
def test_seen_items_are_ranked_first(name, log, tuning, fitted):
    torch.manual_seed(0)
    if name in REGISTRY:
        # gSASRec has learning rates of its own, which are smaller, and its loss sees some items only.
        baseline = fit_one(name, tuning_of(log, epochs=600) if name == "gsasrec" else tuning, fitted).scores

        def scores(decisions: Decisions) -> np.ndarray:
            return baseline(decisions.histories)
    else:
        scores = OURS[name](log)
    decisions = Decisions.from_targets(log, log.targets["leave_one_out"]["test"])
    if name == "popularity":  # it knows no user
        decisions = decisions.select(np.flatnonzero(decisions.targets < 2))
    found = scores(decisions)
    assert np.isfinite(found).all()
    assert ranks(found, decisions.targets, decisions.masked).max() <= 2
    # Without the key the same targets are excluded, so this log would show a mask.
    with pytest.raises(ValueError, match="among its excluded items"):
        ranks(found, decisions.targets, replace(decisions, repeats=False).masked)

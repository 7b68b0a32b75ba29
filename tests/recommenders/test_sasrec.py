"""SASRec on histories whose next item depends on the order of items alone."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmrec.config import load_config
from llmrec.data.dataset import load_data
from llmrec.data.decision import Decisions
from llmrec.evaluation.metrics import ndcg
from llmrec.evaluation.ranking import rank
from llmrec.recommenders.sasrec import SASRec
from llmrec.run import Run, run_all

MOVIELENS = Path(__file__).parents[2] / "configs" / "movielens.yaml"
# Item 3 i + 1 follows item i. That gives two cycles of four items, so sets of items do not tell what comes next.
ITEMS = 8
HISTORIES = [np.array([start]) for start in range(ITEMS)] * 8
for _ in range(6):
    HISTORIES = [np.append(history, (3 * history[-1] + 1) % ITEMS) for history in HISTORIES]


def accuracy(scores) -> float:
    return float((scores([h[:5] for h in HISTORIES]).argmax(1) == [h[5] for h in HISTORIES]).mean())


def fitted(seed: int = 0, **settings) -> SASRec:
    values: dict[str, Any] = {"hidden_size": 32, "num_layers": 2, "dropout": 0.0, "epochs": 12, "window": 8} | settings
    return SASRec(accuracy, seed=seed, **values).fit([h[:5] for h in HISTORIES], ITEMS)


@pytest.fixture(scope="module")
def model() -> SASRec:
    return fitted(epochs=30, learning_rate=1e-2)


def test_it_learns_the_order_of_items(model):
    assert max(model.validation) > 0.9
    assert accuracy(model.scores) == max(model.validation)  # the best evaluation, not the last


def test_states_do_not_see_the_future(model):
    one = torch.tensor([[3, 1, 4, 1]])
    other = torch.tensor([[3, 1, 4, 7]])
    with torch.no_grad():
        assert torch.equal(model.encoder(one)[:, :3], model.encoder(other)[:, :3])


def test_scores_do_not_depend_on_the_batch(model):
    histories = [np.array([1, 2, 3]), np.array([4]), np.array([], dtype=int)]
    alone = np.concatenate([model.scores([history]) for history in histories])
    assert model.scores(histories) == pytest.approx(alone, abs=1e-5)
    assert alone[2] == pytest.approx(model.encoder.bias.detach().numpy())


def test_only_the_newest_window_is_read(model):
    long = np.arange(30) % ITEMS
    assert model.scores([long]) == pytest.approx(model.scores([long[-8:]]), abs=1e-6)


def test_the_result_depends_on_the_seed_alone_and_global_random_state_is_kept():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one = fitted(epochs=1).scores(HISTORIES[:3])
    assert torch.rand(1) == expected
    torch.manual_seed(4)
    assert np.array_equal(one, fitted(epochs=1).scores(HISTORIES[:3]))
    assert not np.allclose(one, fitted(seed=1, epochs=1).scores(HISTORIES[:3]))


def test_all_epochs_are_trained_and_the_best_evaluation_is_kept():
    wanted = [0.1, 0.3, 0.2, 0.3, 0.1, 0.9, 0.2, 0.8, 0.1, 0.1, 0.1, 0.2]
    values = iter(wanted)
    evaluated = []

    def validate(scores):
        evaluated.append(scores(HISTORIES[:3]))
        return next(values)

    model = SASRec(validate, hidden_size=4, epochs=6, window=4).fit(HISTORIES, ITEMS)
    assert model.validation == wanted
    assert np.array_equal(model.scores(HISTORIES[:3]), evaluated[5])
    assert not np.array_equal(evaluated[5], evaluated[6])


def test_users_with_one_item_are_left_out():
    model = SASRec(lambda scores: 0.0, hidden_size=4, epochs=1, window=4).fit([np.array([1]), *HISTORIES[:3]], ITEMS)
    assert np.isfinite(model.scores([np.array([1])])).all()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("recbole") is None, reason="pip install --no-deps recbole")
def test_movielens_numbers_of_an_independent_implementation(tmp_path):
    """It has NDCG@10 0.121 and HR@10 0.229 on the leave-one-out test of MovieLens-100K, chosen on validation."""
    config = load_config(MOVIELENS).model_copy(update={"output_dir": str(tmp_path)})
    run = Run.create(config)
    run_all(run, "data", say=lambda line: None)
    data = load_data(run.path("data"))
    valid, test = (Decisions.from_targets(data, data.targets["leave_one_out"][part]) for part in ("valid", "test"))

    def ranks(scores, decisions):
        return rank(scores, decisions, 0).ranks

    model = SASRec(
        lambda scores: float(ndcg(ranks(scores, valid), 10).mean()),
        epochs=30, window=50, hidden_size=64, num_layers=2, learning_rate=3e-3, dropout=0.2,
    ).fit(data.train_histories, data.num_items)  # fmt: skip
    test_ranks = ranks(model.scores, test)
    assert ndcg(test_ranks, 10).mean() == pytest.approx(0.121, abs=0.006)
    assert (test_ranks <= 10).mean() == pytest.approx(0.229, abs=0.015)

"""Baselines read a bounded part of a long history, and hold no dense matrix of users or items."""

import numpy as np
import pytest

from llmrec.recommenders import itemknn, linear
from llmrec.recommenders.itemknn import ItemKNN
from llmrec.recommenders.linear import LinearFit
from llmrec.recommenders.tuning import Tuning
from tests.conftest import make_config

RNG = np.random.default_rng(0)
HISTORIES = [RNG.permutation(30)[: RNG.integers(1, 20)] for _ in range(40)]


@pytest.mark.parametrize("size", [1, 50, 400])
def test_blocks_of_items_give_the_similarities_of_all_pairs(monkeypatch, size):
    monkeypatch.setattr(itemknn, "BLOCK", size)
    found = ItemKNN(neighbors=5, shrinkage=2.0).fit(HISTORIES, 32).weights.toarray()
    seen = np.zeros((40, 32))
    for user, history in enumerate(HISTORIES):
        seen[user, history] = 1
    shared = seen.T @ seen
    counts = np.diag(shared)
    expected = shared / np.maximum(np.sqrt(np.outer(counts, counts)) + 2.0, 1e-12)
    np.fill_diagonal(expected, 0)
    fifth = np.sort(expected, axis=0)[-5]
    expected[expected < fifth] = 0
    assert found == pytest.approx(expected, abs=1e-6)


def test_pairs_of_a_long_history_are_those_of_its_newest_items(monkeypatch):
    monkeypatch.setattr(itemknn, "LONGEST", 4)
    monkeypatch.setattr(linear, "LONGEST", 4)
    newest = [history[-4:] for history in HISTORIES]
    of_all, of_newest = (ItemKNN().fit(one, 32).weights.toarray() for one in (HISTORIES, newest))
    assert of_all == pytest.approx(of_newest)
    whole, cut = LinearFit(HISTORIES, 32), LinearFit(newest, 32)
    assert whole.covered.tolist() == cut.covered.tolist() == list(range(32))
    assert whole.gram.numpy() == pytest.approx(cut.gram.numpy())


def test_a_history_of_100_000_items_is_counted(monkeypatch):
    monkeypatch.setattr(linear, "MAX_ITEMS", 50)
    monkeypatch.setattr(linear, "LONGEST", 50)
    monkeypatch.setattr(itemknn, "LONGEST", 500)
    histories = [np.arange(100_000), np.array([99_999, 99_998])]
    knn = ItemKNN(neighbors=3).fit(histories, 100_001)
    assert knn.scores([np.array([99_999])])[0].argmax() == 99_998
    assert np.isfinite(LinearFit(histories, 100_001).solve(10.0).recent_weights.numpy()).all()


def test_validation_takes_a_sample_of_users(data, tiny_base):
    few = Tuning(data, make_config(tiny_base, evaluation={"users": 2}))
    assert len(few.valid) == 2
    assert len(Tuning(data, make_config(tiny_base)).valid) == data.num_users

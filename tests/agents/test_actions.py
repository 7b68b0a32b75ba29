"""Rankers and the actions that mix them."""

import numpy as np
import pytest

pytest.importorskip("sb3_contrib", reason="llmrec[simulate] is not installed")

from llmrec.agents.actions import Arms, NearestItem, Weights, mixtures
from llmrec.agents.rankers import RANKERS, Rankers
from tests.simulator.worlds import ITEMS, log, people


@pytest.fixture(scope="module")
def data():
    return log()


@pytest.fixture(scope="module")
def rankers(data):
    return Rankers(data)


@pytest.fixture
def world():
    return people(users=4, items=ITEMS)


def test_each_ranker_has_mean_0_and_variance_1(rankers, world):
    state = world.reset(0, 3)
    state.recent[:, -1] = 5  # all have clicked item 5
    state.last_click[:, 5] = 0.0
    scores = rankers.scores(world, state)
    assert scores.shape == (3, len(RANKERS), ITEMS)
    fresh = RANKERS.index("fresh")
    others = np.delete(scores, fresh, axis=1)
    assert np.allclose(scores.mean(2), 0, atol=1e-5) and np.allclose(others.std(2), 1, atol=1e-4)
    assert (scores[:, fresh] == 0).all()  # nothing was shown yet


def test_fresh_avoids_what_was_shown_and_bought_prefers_what_is_bought(rankers, world, data):
    state = world.reset(0, 3)
    world.step(state, np.full(3, 7))
    scores = rankers.scores(world, state)
    assert (scores[:, RANKERS.index("fresh")].argmin(1) == 7).all()
    clicks, bought = np.zeros(ITEMS), np.zeros(ITEMS)
    for user, length in enumerate(data.train_lengths):
        np.add.at(clicks, data.histories[user][:length], 1)
        np.add.at(bought, data.histories[user][:length], data.purchases[user][:length])
    shares = (bought + 10 * bought.sum() / clicks.sum()) / (clicks + 10)
    assert scores[0, RANKERS.index("bought")].argsort().tolist() == shares.astype(np.float32).argsort().tolist()


def test_an_arm_is_a_mixture(rankers, world):
    arms, weights = Arms(rankers), Weights(rankers)
    state = world.reset(0, 2)
    found = arms.scores(np.array([1, 15]), world, state)
    single = rankers.scores(world, state)
    assert np.allclose(found[0], single[0, 1], atol=1e-5)
    assert np.allclose(found[1], single[1].sum(0), atol=1e-4)
    assert np.allclose(weights.scores(np.zeros((2, 5)), world, state), single.sum(1) / 2, atol=1e-4)
    assert arms.space.n == 16


def test_mixtures_are_single_rankers_pairs_and_all():
    found = (mixtures(3) + 1) / 2
    assert found.astype(int).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]]


def test_the_vector_of_an_item_finds_the_item(data, world):
    nearest = NearestItem(data)
    items = np.array([3, 40])
    scores = nearest.scores(nearest.vectors[items], world, world.reset(0, 2))
    assert scores.argmax(1).tolist() == items.tolist()

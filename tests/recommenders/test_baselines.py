"""Baselines against numbers worked by hand, and against those of LensKit."""

import numpy as np
import pytest

from llmrec.recommenders.ease import EASE
from llmrec.recommenders.itemknn import ItemKNN
from llmrec.recommenders.markov import Markov
from llmrec.recommenders.popularity import Popularity
from llmrec.recommenders.transitions import Transitions

HISTORIES = [np.array([0, 1, 2]), np.array([0, 1]), np.array([3])]
EMPTY = np.array([], dtype=int)

# Scores of LensKit 2025.8.1 after the history [0, 3, 5], fitted on these users:
# ItemKNNScorer(feedback="implicit", k=100, min_sim=1e-9), EASEScorer(regularization=4.0), PopScorer(score="count").
USERS = [
    [3, 4, 6], [2, 3, 4, 5], [4, 5, 7], [0, 7], [0, 1, 3, 4, 5, 7], [0, 6], [2, 4, 5, 6, 7], [1, 7],
    [0, 1, 2, 3, 5, 7], [2, 7], [0, 3, 7], [0, 1, 2, 6],
]  # fmt: skip
LENSKIT = {
    "itemknn": [0.912871, 1.5068, 1.365148, 1.147722, 1.582574, 0.965148, 0.855462, 1.684147],
    "ease": [0.240218, 0.351113, 0.290639, 0.33492, 0.431638, 0.139534, 0.096046, 0.549045],
    "popularity": [6, 4, 5, 5, 5, 5, 4, 8],
}


def test_popularity_scores_are_click_counts():
    scores = Popularity().fit(HISTORIES, 5).scores([EMPTY, np.array([0])])
    assert scores.tolist() == [[2, 2, 1, 1, 0]] * 2


def test_markov_scores_by_hand():
    model = Markov(context=2, decay=0.5, smoothing=1.0, popularity_weight=0.6).fit(HISTORIES, 4)
    # From 0: twice to 1, once to 2 at distance 2 with weight 0.5, smoothing 1; the sum is 3.5.
    # From 1: once to 2, smoothing 1; the sum is 2.
    assert model.transitions[0] == pytest.approx([0, 2 / 3.5, 0.5 / 3.5, 0])
    assert model.transitions[1] == pytest.approx([0, 0, 1 / 2, 0])
    popularity = 0.6 * np.array([2, 2, 1, 1]) / 6
    expected = popularity + model.transitions[1] + 0.5 * model.transitions[0]
    assert model.scores([np.array([3, 0, 1])])[0] == pytest.approx(expected)
    assert model.scores([EMPTY])[0] == pytest.approx(popularity)


def test_ease_scores_are_sums_of_the_rows_of_a_history():
    model = EASE(l2=1.0).fit(HISTORIES, 4)
    scores = model.scores([np.array([0, 1]), EMPTY])
    assert scores[0] == pytest.approx(model.weights[0] + model.weights[1])
    assert (scores[1] == 0).all() and (np.diag(model.weights) == 0).all()


def test_itemknn_by_its_definition():
    neighbors = 2
    shrinkage = 1.5
    sets = [{u for u, history in enumerate(USERS) if item in history} for item in range(8)]
    similar = np.zeros((8, 8))
    for i, j in np.ndindex(8, 8):
        if i != j:
            similar[i, j] = len(sets[i] & sets[j]) / (np.sqrt(len(sets[i]) * len(sets[j])) + shrinkage)
    for j in range(8):
        similar[similar[:, j] < sorted(similar[:, j])[-neighbors], j] = 0
    model = ItemKNN(neighbors, shrinkage).fit(arrays(USERS), 8)
    assert model.scores([np.array([0, 3, 5]), EMPTY]) == pytest.approx(np.stack([similar[[0, 3, 5]].sum(0), [0] * 8]))
    assert (model.weights != similar.T).any()  # being a neighbor is not symmetric


@pytest.mark.parametrize(
    ("name", "model"),
    [("itemknn", ItemKNN(neighbors=100, shrinkage=0.0)), ("ease", EASE(l2=4.0)), ("popularity", Popularity())],
)
def test_scores_equal_those_of_lenskit(name, model):
    scores = model.fit(arrays(USERS), 8).scores([np.array([0, 3, 5])])
    assert scores[0] == pytest.approx(LENSKIT[name], abs=2e-6)


def arrays(users: list[list[int]]) -> list[np.ndarray]:
    return [np.array(history) for history in users]


@pytest.mark.parametrize("model", [Popularity(), Markov(), ItemKNN(), ItemKNN(2, 0.0), EASE()])
def test_items_without_clicks_have_finite_scores(model):
    assert np.isfinite(model.fit(HISTORIES, 6).scores(HISTORIES)).all()


def test_transitions_by_hand():
    model = Transitions(last=2, decay=0.5, distance=2, distance_decay=0.25, damping=0.5, popularity_weight=0.6)
    model.fit(HISTORIES, 4)
    # From 0: twice to 1, once to 2 at distance 2 with weight 0.25; the root of 2.25 + 1. From 1: once to 2; root of 2.
    assert model.transitions.toarray()[0] == pytest.approx(np.array([0, 2, 0.25, 0]) / 3.25**0.5)
    assert model.transitions.toarray()[1] == pytest.approx(np.array([0, 0, 1, 0]) / 2**0.5)
    popularity = 0.6 * np.array([2, 2, 1, 1]) / 6
    after = popularity + model.transitions.toarray()[1] + 0.5 * model.transitions.toarray()[0]
    scores = model.scores([np.array([3, 0, 1]), EMPTY])
    assert scores.dtype == np.float32
    assert scores[0] == pytest.approx(after)
    assert scores[1] == pytest.approx(popularity)


def test_transitions_with_full_damping_are_those_of_markov():
    transitions = Transitions(3, 0.7, 3, 0.7, damping=1.0, popularity_weight=0.1).fit(list(map(np.array, USERS)), 8)
    markov = Markov(context=3, decay=0.7, smoothing=1.0, popularity_weight=0.1).fit(list(map(np.array, USERS)), 8)
    histories = [np.array([0, 3, 5]), np.array([7]), EMPTY]
    assert transitions.scores(histories) == pytest.approx(markov.scores(histories))

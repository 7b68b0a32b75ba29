"""Baselines against numbers worked by hand, and against those of LensKit."""

import numpy as np
import pytest

from llmrec.recommenders.ease import EASE
from llmrec.recommenders.factors import BPR, IALS
from llmrec.recommenders.itemknn import ItemKNN
from llmrec.recommenders.linear import DECAY, Linear, LinearFit
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
    transitions = model.transitions.toarray()
    assert transitions[0] == pytest.approx([0, 2 / 3.5, 0.5 / 3.5, 0])
    assert transitions[1] == pytest.approx([0, 0, 1 / 2, 0])
    popularity = 0.6 * np.array([2, 2, 1, 1]) / 6
    expected = popularity + transitions[1] + 0.5 * transitions[0]
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
    assert (model.weights.toarray() != similar.T).any()  # being a neighbor is not symmetric


@pytest.mark.parametrize(
    ("name", "model"),
    [("itemknn", ItemKNN(neighbors=100, shrinkage=0.0)), ("ease", EASE(l2=4.0)), ("popularity", Popularity())],
)
def test_scores_equal_those_of_lenskit(name, model):
    scores = model.fit(arrays(USERS), 8).scores([np.array([0, 3, 5])])
    assert scores[0] == pytest.approx(LENSKIT[name], abs=2e-6)


def arrays(users: list[list[int]]) -> list[np.ndarray]:
    return [np.array(history) for history in users]


def long_histories(seed: int = 0, users: int = 80, items: int = 30) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.permutation(items)[: rng.integers(1, 20)] for _ in range(users)]


def test_sparse_markov_equals_the_dense_definition():
    histories = long_histories()
    counts = np.zeros((30, 30))
    for history in histories:
        for i, j in np.ndindex(len(history), len(history)):
            if 0 < j - i <= 10:
                counts[history[i], history[j]] += 0.8 ** (j - i - 1)
    transitions = counts / (counts.sum(1, keepdims=True) + 30)
    clicks = np.bincount(np.concatenate(histories), minlength=30)
    expected = np.tile(0.1 * clicks / clicks.sum(), (80, 1))
    for row, history in enumerate(histories):
        for age, item in enumerate(history[::-1][:10]):
            expected[row] += 0.8**age * transitions[item]
    assert Markov().fit(histories, 30).scores(histories) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("neighbors", [1, 5, 29, 100])
def test_sparse_itemknn_equals_the_dense_definition(neighbors):
    histories = long_histories()
    seen = np.zeros((80, 30))
    for row, history in enumerate(histories):
        seen[row, history] = 1
    shared = seen.T @ seen
    similar = shared / (np.sqrt(np.outer(np.diag(shared), np.diag(shared))) + 10)
    np.fill_diagonal(similar, 0)
    if neighbors < 30:
        similar[similar < np.partition(similar, -neighbors, axis=0)[-neighbors]] = 0
    assert ItemKNN(neighbors, 10.0).fit(histories, 30).scores(histories) == pytest.approx(seen @ similar, abs=1e-5)


def test_ease_of_the_most_clicked_items_equals_ease_of_a_log_without_the_others():
    histories = [history[history < 20] for history in long_histories()] + [np.arange(20)] * 3
    rare = [np.append(history, 25) if row < 2 else history for row, history in enumerate(histories)]
    alone = EASE(l2=5.0).fit(histories, 20).scores(histories)
    scores = EASE(l2=5.0, max_items=20).fit(rare, 30).scores(rare)
    assert scores[:, :20] == pytest.approx(alone, abs=1e-6)
    assert (scores[:, 20:] == 0).all()


def test_linear_scores_by_their_definition():
    histories = long_histories()
    weights = LinearFit(histories, 30).solve(5.0)
    found = Linear(weights).scores(histories[:5])
    for row, history in enumerate(histories[:5]):
        score = np.zeros(30)
        for age, item in enumerate(history[::-1]):
            score += DECAY**age * weights.recent_weights[item].numpy()
            score += weights.history_weights[item].numpy() / np.sqrt(len(history))
        assert found[row] == pytest.approx(np.log(np.maximum(score, 0) + weights.share.numpy()), abs=1e-5)


def test_ials_solves_its_equations_for_the_vector_of_a_history():
    histories = long_histories()
    model = IALS(factors=4, regularization=2.0, alpha=3.0).fit(histories, 30)
    items = model.model.item_factors.astype(np.float64)
    history = histories[0]
    # Hu, Koren & Volinsky, eq. 4, where alpha is the confidence of a click and 1 that of a missing one.
    weighted = items.T @ items + (3.0 - 1) * items[history].T @ items[history] + 2.0 * np.eye(4)
    user = np.linalg.solve(weighted, 3.0 * items[history].sum(0))
    assert model.scores([history])[0] == pytest.approx(items @ user, abs=1e-4)


@pytest.mark.parametrize("model", [IALS(factors=8), BPR(factors=8, learning_rate=0.1)])
def test_factors_rank_items_of_the_own_group_first(model):
    rng = np.random.default_rng(0)
    groups = [np.arange(15), np.arange(15, 30)]
    histories = [rng.permutation(groups[row % 2])[:8] for row in range(80)]
    scores = model.fit(histories, 30).scores(histories)
    own = [scores[row, groups[row % 2]].mean() - scores[row, groups[1 - row % 2]].mean() for row in range(80)]
    assert min(own) > 0
    assert model.scores(histories[:3]) == pytest.approx(scores[:3], abs=1e-3)


@pytest.mark.parametrize("model", [Popularity(), Markov(), ItemKNN(), ItemKNN(2, 0.0), EASE(), IALS(), BPR()])
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

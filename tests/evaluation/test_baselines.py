"""Baselines on histories small enough to work by hand."""

import numpy as np
import pytest

from llmrec.evaluation.baselines import EASE, Markov, Popularity

HISTORIES = [np.array([0, 1, 2]), np.array([0, 1]), np.array([3])]
EMPTY = np.array([], dtype=int)


def test_popularity_counts_clicks():
    scores = Popularity().fit(HISTORIES, 5).scores([EMPTY, np.array([0])])
    assert scores.tolist() == [[2, 2, 1, 1, 0]] * 2


def test_markov_counts_transitions():
    model = Markov(context=2, decay=0.5, smoothing=1.0, fill=0.6).fit(HISTORIES, 4)
    # From 0: to 1 twice, to 2 at distance two with weight .5; 2.5 + 1 smoothing. From 1: to 2 once; 1 + 1.
    assert model.transitions[0] == pytest.approx([0, 2 / 3.5, 0.5 / 3.5, 0])
    assert model.transitions[1] == pytest.approx([0, 0, 1 / 2, 0])
    popularity = 0.6 * np.array([2, 2, 1, 1]) / 6
    expected = popularity + model.transitions[1] + 0.5 * model.transitions[0]
    assert model.scores([np.array([3, 0, 1])])[0] == pytest.approx(expected)
    assert model.scores([EMPTY])[0] == pytest.approx(popularity)


def test_ease_sums_the_rows_of_a_history():
    model = EASE(l2=1.0).fit(HISTORIES, 4)
    scores = model.scores([np.array([0, 1]), EMPTY])
    assert scores[0] == pytest.approx(model.weights[0] + model.weights[1])
    assert (scores[1] == 0).all() and (np.diag(model.weights) == 0).all()


@pytest.mark.parametrize("model", [Popularity(), Markov(), EASE()])
def test_items_without_clicks_are_finite(model):
    assert np.isfinite(model.fit(HISTORIES, 6).scores(HISTORIES)).all()

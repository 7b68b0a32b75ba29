"""Tuning: baselines are fitted on training events alone and chosen on validation."""

import numpy as np

from llmrec.data.decision import Decisions
from llmrec.evaluation.metrics import ndcg
from llmrec.evaluation.ranking import rank
from llmrec.recommenders.popularity import Popularity
from llmrec.recommenders.tuning import fit_baselines, fit_best, mean_ndcg, settings
from tests.conftest import make_config


class Recorder:
    """A baseline whose scores are its own setting."""

    def __init__(self, a: float, b: float = 0.0):
        self.value = a + b

    def fit(self, train_histories, num_items):
        return self

    def scores(self, histories):
        return np.full((len(histories), 10), self.value)


def test_settings_are_all_combinations_of_a_grid():
    assert settings({"a": [1, 2], "b": [3, 4]}) == [
        {"a": 1, "b": 3},
        {"a": 1, "b": 4},
        {"a": 2, "b": 3},
        {"a": 2, "b": 4},
    ]
    assert settings({}) == [{}]


def test_the_setting_that_is_best_on_validation_is_kept(data):
    validated = []

    def validate(scores) -> float:
        validated.append(float(scores([None])[0, 0]))
        return -abs(validated[-1] - 5)

    best = fit_best(Recorder, {"a": [1, 2], "b": [1, 3, 9]}, data, validate)
    assert validated == [2, 4, 10, 3, 5, 11]
    assert best.chosen == {"a": 2, "b": 3}
    assert best.scores([None])[0, 0] == 5
    assert best.grid[2] == {"a": 1, "b": 9, "valid_ndcg@10": -5.0}
    assert len(best.grid) == 6


def test_every_baseline_is_fitted_on_the_same_training_events(data, monkeypatch):
    from llmrec.recommenders import tuning

    fits = []

    def spy(name, fit):
        def fitting(self, train_histories, num_items):
            fits.append((name, [history.tolist() for history in train_histories], num_items))
            return fit(self, train_histories, num_items)

        return fitting

    for kind in (tuning.Popularity, tuning.Markov, tuning.ItemKNN, tuning.EASE, tuning.SASRec):
        monkeypatch.setattr(kind, "fit", spy(kind.__name__, kind.fit))
    config = make_config("none", evaluation={"sasrec": {"hidden_size": [8], "epochs": 1}})
    fitted = fit_baselines(data, config, lambda *_: None)
    assert list(fitted) == ["popularity", "markov", "itemknn", "ease", "sasrec"]
    expected = [h[:-2].tolist() for h in data.histories]
    assert {name for name, *_ in fits} == {"Popularity", "Markov", "ItemKNN", "EASE", "SASRec"}
    assert all(rows == expected and n == 10 for _, rows, n in fits)
    assert [point["dropout"] for point in fitted["sasrec"].grid] == [0.2, 0.5]


def test_sasrec_can_be_left_out(data):
    config = make_config("none", evaluation={"sasrec": None})
    assert "sasrec" not in fit_baselines(data, config, lambda *_: None)


def test_validation_ndcg_is_that_of_the_evaluation(data):
    decisions = Decisions.from_targets(data, data.selection_targets())
    scores = Popularity().fit(data.train_histories, data.num_items).scores
    expected = ndcg(rank(scores, decisions, seed=3).ranks, 5).mean()
    assert mean_ndcg(scores, decisions, k=5) == expected > 0

"""Baselines are chosen by validation, on training events alone."""

import numpy as np

from llmrec.recommenders.tuning import fit_baselines, fit_best, settings
from tests.conftest import make_config


class Recorder:
    """A baseline that scores its own setting."""

    def __init__(self, a: float, b: float = 0.0):
        self.value = a + b

    def fit(self, train_histories, num_items):
        self.seen = [len(history) for history in train_histories]
        return self

    def scores(self, histories):
        return np.full((len(histories), 10), self.value)


def test_settings_are_all_combinations():
    assert settings({"a": [1, 2], "b": [3, 4]}) == [
        {"a": 1, "b": 3},
        {"a": 1, "b": 4},
        {"a": 2, "b": 3},
        {"a": 2, "b": 4},
    ]
    assert settings({}) == [{}]


def test_the_best_by_validation_is_kept(data):
    asked = []

    def validate(scores) -> float:
        asked.append(float(scores([None])[0, 0]))
        return -abs(asked[-1] - 5)

    best = fit_best(Recorder, {"a": [1, 2], "b": [1, 3, 9]}, data, validate)
    assert asked == [2, 4, 10, 3, 5, 11]
    assert best.chosen == {"a": 2, "b": 3}
    assert best.scores([None])[0, 0] == 5
    assert best.grid[2] == {"a": 1, "b": 9, "valid_ndcg@10": -5.0}
    assert len(best.grid) == 6


def test_every_baseline_sees_the_same_rows_and_no_held_out_one(data, monkeypatch):
    from llmrec.recommenders import tuning

    seen = []

    def spy(name, fit):
        def fitting(self, train_histories, num_items):
            seen.append((name, [history.tolist() for history in train_histories], num_items))
            return fit(self, train_histories, num_items)

        return fitting

    for kind in (tuning.Popularity, tuning.Markov, tuning.ItemKNN, tuning.EASE, tuning.SASRec):
        monkeypatch.setattr(kind, "fit", spy(kind.__name__, kind.fit))
    config = make_config("none", evaluation={"sasrec": {"hidden_size": [8], "epochs": 1}})
    fitted = fit_baselines(data, config, lambda *_: None)
    assert list(fitted) == ["popularity", "markov", "itemknn", "ease", "sasrec"]
    expected = [h[:-2].tolist() for h in data.histories]
    assert {name for name, *_ in seen} == {"Popularity", "Markov", "ItemKNN", "EASE", "SASRec"}
    assert all(rows == expected and n == 10 for _, rows, n in seen)
    assert [point["dropout"] for point in fitted["sasrec"].grid] == [0.2, 0.5]


def test_sasrec_can_be_left_out(data):
    config = make_config("none", evaluation={"sasrec": None})
    assert "sasrec" not in fit_baselines(data, config, lambda *_: None)

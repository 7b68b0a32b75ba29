"""Tuning: baselines are fitted on training events alone and chosen on validation."""

import time
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from llmrec.config import BASELINES, BaselineName, parse_config
from llmrec.config.former import upgraded
from llmrec.data.decision import Decisions
from llmrec.evaluation.metrics import ndcg
from llmrec.evaluation.ranking import rank
from llmrec.recommenders import registry
from llmrec.recommenders.popularity import Popularity
from llmrec.recommenders.registry import REGISTRY, Entry, fit_baselines, fit_one
from llmrec.recommenders.tuning import FittedBaseline, Tuning, evaluated_users, mean_ndcg, settings
from tests.conftest import make_config

SMALL = {"hidden_size": [8], "dropout": [0.2], "epochs": 1}


class Recorder:
    """A baseline whose scores are its own setting."""

    def __init__(self, a: float, b: float = 0.0):
        self.value = a + b

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


def test_the_setting_that_is_best_on_validation_is_kept(data, monkeypatch):
    validated = []

    def validate(self, scores) -> float:
        validated.append(float(scores([None])[0, 0]))
        return -abs(validated[-1] - 5)

    monkeypatch.setattr(Tuning, "validate", validate)
    best = Tuning(data, make_config("none")).best("recorder", Recorder, {"a": [1, 2], "b": [1, 3, 9]})
    assert validated == [2, 4, 10, 3, 5, 11]
    assert best.chosen == {"a": 2, "b": 3}
    assert best.scores([None])[0, 0] == 5
    assert best.grid[2] == {"a": 1, "b": 9, "valid_ndcg@10": -5.0}
    assert len(best.grid) == 6
    assert best.valid_ndcg == 0.0


def test_every_baseline_fits_training_events_alone_and_scores_all_items(data, monkeypatch):
    fits = []
    named = {name: getattr(registry, name) for name in ("Popularity", "Markov", "Transitions", "ItemKNN", "EASE")}
    named |= {name: getattr(registry, name) for name in ("IALS", "BPR", "SequenceModel")}
    for kind in named.values():
        fit = kind.fit

        def spy(self, histories, num_items, fit=fit):
            fits.append((type(self).__name__, [history.tolist() for history in histories], num_items))
            return fit(self, histories, num_items)

        monkeypatch.setattr(kind, "fit", spy)
    config = make_config("none", evaluation={"baselines": list(BASELINES), "sasrec": SMALL})
    fitted = fit_baselines(data, config, lambda *_: None)
    assert list(fitted) == list(BASELINES)
    expected = [h[:-2].tolist() for h in data.histories]
    with_validation = [h[:-1].tolist() for h in data.histories]
    assert {name for name, rows, _ in fits if rows == with_validation} == {"Transitions"}
    assert all(rows in (expected, with_validation) and n == 10 for _, rows, n in fits)
    assert {name for name, *_ in fits} == {*named} - {"SequenceModel"} | {"SASRec", "GRU4Rec", "GSASRec"}
    for name, one in fitted.items():
        found = one.scores([data.histories[0], np.array([], dtype=int)])
        assert found.shape == (2, 10) and np.isfinite(found).all(), name
        assert one.refitted == (name == "transitions_refit")
        assert one.seconds > 0 and one.valid_ndcg >= 0


def test_names_descriptions_and_the_registry_agree():
    assert list(BASELINES) == list(get_args(BaselineName))
    assert set(REGISTRY) == set(BASELINES)
    assert all(part in REGISTRY for entry in REGISTRY.values() for part in entry.parts)


def test_a_baseline_costs_what_its_parts_cost(data, monkeypatch):
    def sleep(tuning, parts) -> FittedBaseline:
        time.sleep(0.02)
        return FittedBaseline(Recorder(1), {}, [{"valid_ndcg@10": 0.5}])

    monkeypatch.setitem(registry.REGISTRY, "ease", Entry(sleep))
    monkeypatch.setitem(registry.REGISTRY, "pool", Entry(sleep, ("ease",)))
    fitted: dict[str, FittedBaseline] = {}
    tuning = Tuning(data, make_config("none"))
    assert fit_one("pool", tuning, fitted).seconds >= 0.04
    assert fitted["ease"].seconds < fitted["pool"].seconds
    assert fit_one("ease", tuning, fitted) is fitted["ease"]


def test_the_pool_of_three_has_other_members_for_each_seed(data):
    config = make_config("none", evaluation={"sasrec": SMALL})
    fitted: dict[str, FittedBaseline] = {}
    three = fit_one("sasrec_x3", Tuning(data, config), fitted)
    members = [part([data.histories[0]]) for part in three.model.parts]  # type: ignore[attr-defined]
    assert len(members) == 3
    assert not np.allclose(members[0], members[1]) and not np.allclose(members[1], members[2])
    log_probabilities = [np.log(np.exp(one) / np.exp(one).sum()) for one in members]
    assert three.scores([data.histories[0]]) == pytest.approx(np.mean(log_probabilities, axis=0), abs=1e-5)
    assert np.array_equal(members[0], fitted["sasrec"].scores([data.histories[0]]))


def test_training_goes_on_for_twice_the_epochs_while_validation_rises(data, monkeypatch):
    values = iter(np.arange(1000) / 1000)
    monkeypatch.setattr(Tuning, "validate", lambda self, scores: next(values))
    config = make_config("none", evaluation={"sasrec": SMALL | {"epochs": 3}})
    rising = fit_one("sasrec", Tuning(data, config), {})
    assert [setting["epochs"] for setting in rising.grid] == [3, 6]
    assert rising.chosen["epochs"] == 6
    monkeypatch.setattr(Tuning, "validate", lambda self, scores: 0.5)
    flat = fit_one("sasrec", Tuning(data, config), {})
    assert [setting["epochs"] for setting in flat.grid] == [3]


def test_the_longer_training_alone_gives_the_same_baseline(data, monkeypatch):
    """Whether 3 epochs went before has no influence on 6."""
    histories = [data.histories[0], data.histories[1][:2]]
    scores = {}
    for epochs, double in ((3, True), (6, False)):
        values = iter(np.arange(1000) / 1000)
        monkeypatch.setattr(Tuning, "validate", lambda self, scores, values=values: next(values))
        config = make_config("none", evaluation={"sasrec": SMALL | {"epochs": epochs, "double_epochs": double}})
        fitted = fit_one("sasrec", Tuning(data, config), {})
        assert [setting["epochs"] for setting in fitted.grid] == ([3, 6] if double else [6])
        scores[epochs] = fitted.scores(histories)
    assert np.array_equal(scores[3], scores[6])


def test_the_refit_adds_the_validation_item_and_no_test_item(data):
    tuning = Tuning(data, make_config("none"))
    expected = [history[:-1].tolist() for history in data.histories]
    assert [history.tolist() for history in tuning.histories_with_validation] == expected
    few = replace(data, targets={"given": {"valid": data.targets["leave_one_out"]["valid"]}})
    few.targets["given"]["valid"] = type(few.targets["given"]["valid"])(np.array([2]), np.array([3]))
    lengths = [len(history) for history in Tuning(few, make_config("none")).histories_with_validation]
    assert lengths == [max(n, 4) if user == 2 else n for user, n in enumerate(data.train_lengths)]


def test_sasrec_can_be_left_out_as_in_earlier_configs():
    config = make_config("none", evaluation={"sasrec": None, "baselines": ["sasrec_x3", "ease"]})
    assert config.evaluation.baselines == ["ease"]
    assert "sasrec" not in make_config("none", evaluation={"sasrec": None}).evaluation.baselines


def test_an_earlier_run_keeps_its_baselines():
    values = make_config("none").model_dump()
    del values["evaluation"]["baselines"]
    config = parse_config(upgraded(values))
    assert config.evaluation.baselines == ["popularity", "markov", "itemknn", "ease", "sasrec"]


def test_validation_ndcg_is_that_of_the_evaluation(data):
    decisions = Decisions.from_targets(data, data.selection_targets())
    scores = Popularity().fit(data.train_histories, data.num_items).scores
    expected = ndcg(rank(scores, decisions, seed=3).ranks, 5).mean()
    assert mean_ndcg(scores, decisions, k=5) == expected > 0


def test_users_that_write_are_among_those_that_are_ranked() -> None:
    config = make_config("none", evaluation={"users": 500})
    ranked = evaluated_users(2000, config)
    written = evaluated_users(2000, config, 100)
    assert (ranked.sum(), written.sum()) == (500, 100)
    assert ranked[written].all()
    assert evaluated_users(2000, config, 10_000).sum() == 500
    assert evaluated_users(60, config, 100).all()

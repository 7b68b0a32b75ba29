"""Drift, against numbers worked out by hand and against logs with and without a change."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from llmrec.data.dataset import InteractionData
from llmrec.learning.drift import calibration, measure_drift
from tests.conftest import make_data

SINCE = 1000.0
NOTHING = calibration(None, None)


def log(old: list[list[int]], new: list[list[int]], categories: list[list[str]]) -> InteractionData:
    """A log in which user u clicks `old[u]` before `SINCE` and `new[u]` after it."""
    histories = [np.array(one + other, dtype=np.int64) for one, other in zip(old, new, strict=True)]
    times = [
        np.array([*range(len(one)), *(SINCE + np.arange(len(other)))], dtype=np.int64)
        for one, other in zip(old, new, strict=True)
    ]
    items = pd.DataFrame({"item_id": [f"i{n}" for n in range(len(categories))], "title": "x", "categories": categories})
    users = pd.DataFrame({"user_id": [f"u{n}" for n in range(len(histories))]})
    return replace(make_data(), items=items, users=users, histories=histories, timestamps=times)


def test_distances_are_those_worked_out_by_hand() -> None:
    """Old clicks: items 0, 0, 1, so War 2/3 and Drama 1/3. New: items 2, 1, where item 2 is half War and half Comedy.

    New shares are War 1/4, Comedy 1/4, Drama 1/2: half of |2/3-1/4| + |0-1/4| + |1/3-1/2| = 5/12. Popularity ranks are
    0, 1/2 and 1: the mean is (0 + 0 + 1/2) / 3 = 1/6 before and 3/4 after.
    """
    data = log([[0], [0, 1]], [[2], []], [["War"], ["Drama"], ["War", "Comedy"]])
    data = replace(data, histories=[np.array([0, 2]), np.array([0, 1, 1])], timestamps=[
        np.array([0, 1000]), np.array([0, 1, 1001])])  # fmt: skip
    drift = measure_drift(data, SINCE, calibration(2.0, 2.5), seed=0)
    assert (drift.old_clicks, drift.new_clicks) == (3, 2)
    assert drift.categories.value == pytest.approx(5 / 12)
    assert drift.popularity.value == pytest.approx(3 / 4 - 1 / 6)
    assert drift.reward.worse == pytest.approx(0.5)


def test_a_change_is_seen_and_chance_is_not() -> None:
    random = np.random.default_rng(0)
    categories = [["War"]] * 10 + [["Comedy"]] * 10
    old = [random.choice(20, 6, replace=False).tolist() for _ in range(80)]
    same = [random.choice(20, 3, replace=False).tolist() for _ in range(80)]
    other = [(10 + random.choice(10, 3, replace=False)).tolist() for _ in range(80)]
    unchanged = measure_drift(log(old, same, categories), SINCE, NOTHING, seed=0)
    assert not unchanged.categories.drifted and unchanged.categories.value < 0.1
    changed = measure_drift(log(old, other, categories), SINCE, NOTHING, seed=0)
    assert changed.categories.drifted and changed.categories.value == pytest.approx(0.5, abs=0.06)
    assert changed.reward.worse is None


def test_a_sparse_log_without_a_change_has_no_drift() -> None:
    """Ranks come from the old clicks, so new ones look less popular. Chance must contain that, and clicks of new users.

    Each log drifts with a probability of 0.05, so more than 3 of 12 do with a probability of 0.002.
    """
    random = np.random.default_rng(0)
    drifted = {"categories": 0, "popularity": 0}
    for seed in range(12):
        draws = [random.choice(200, 4, replace=False).tolist() for _ in range(60)]
        old = [draw if number < 30 else [] for number, draw in enumerate(draws)]
        new = [[] if number < 30 else draw for number, draw in enumerate(draws)]
        found = measure_drift(log(old, new, [["War"]] * 100 + [["Comedy"]] * 100), SINCE, NOTHING, seed)
        assert found.old_clicks == found.new_clicks == 120
        drifted["categories"] += found.categories.drifted
        drifted["popularity"] += found.popularity.drifted
    assert max(drifted.values()) <= 3


def test_without_new_or_old_clicks_there_is_no_drift() -> None:
    empty = measure_drift(log([[0], [1]], [[], []], [["War"], ["War"]]), SINCE, NOTHING, seed=0)
    assert not empty.categories.drifted and empty.new_clicks == 0

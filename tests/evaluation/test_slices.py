"""Slices of targets, on a catalogue with a target at every threshold."""

import numpy as np

from llmrec.data.decision import Decisions
from llmrec.data.prepare import build_data
from llmrec.evaluation.slices import day_slices, slices
from tests.data.logs import config, raw_log


def test_every_target_is_in_the_right_slices():
    clicks = np.array([50, 4, 5, 6, 5, 40, 5, 5, 5, 5])  # items 0 and 5 are the head: a fifth of ten items
    lengths = [10, 11, 50, 51, 1]
    decisions = Decisions(
        profiles=[""] * 5,
        histories=[np.zeros(n, int) for n in lengths],
        purchased=[np.zeros(n, bool) for n in lengths],
        users=np.array([0, 1, 2, 2, 3]),
        targets=np.array([0, 1, 2, 3, 5]),
        max_history=50,
    )
    found = slices(decisions, clicks, np.array([9, 3, 0, 6]))
    assert {name: np.flatnonzero(mask).tolist() for name, mask in found.items()} == {
        "cold_items": [1],
        "long_tail": [1, 2, 3],
        "head": [0, 4],
        "low_activity": [1, 2, 3],
        "middle_activity": [4],
        "high_activity": [0],
        "short_history": [0, 4],
        "middle_history": [1, 2],
        "long_history": [3],
    }


def test_targets_of_a_later_day_are_told_from_those_of_the_same_day():
    midnight = 86_400
    rows = [("u", item, midnight - 30 + 20 * time, 5.0) for time, item in enumerate("abc")]  # c is 10 s after midnight
    rows += [("v", item, 20 * time, 5.0) for time, item in enumerate("abc")]
    data = build_data(raw_log(rows), config(), seed=0)
    decisions = Decisions.from_targets(data, data.targets["leave_one_out"]["test"])
    found = day_slices(data, decisions)
    assert {name: mask.tolist() for name, mask in found.items()} == {
        "later_day": [True, False],
        "same_day": [False, True],
    }
    data.card["time"] = {}  # as of a log that has only an order
    assert day_slices(data, decisions) == {}

"""Slices of targets, on a catalogue with a target at every threshold."""

import numpy as np

from llmrec.data.decision import Decisions
from llmrec.evaluation.slices import slices


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

"""When evaluations are due."""

import pytest

from llmrec.selection.best_adapter import evaluation_due


@pytest.mark.parametrize(
    ("eval_steps", "expected"),
    [(3, [3, 6, 9, 10]), (0.25, [3, 5, 8, 10]), (0.01, list(range(1, 11))), (50, [10])],
)
def test_evaluations_are_due_at_intervals_and_after_the_last_step(eval_steps, expected):
    assert [step for step in range(1, 11) if evaluation_due(step, 10, eval_steps)] == expected


def test_a_share_of_the_steps_makes_as_many_evaluations_at_equal_distances():
    due = [step for step in range(1, 733) if evaluation_due(step, 732, 0.2)]
    assert due == [147, 293, 440, 586, 732]  # multiples of 146.4, rounded up
    assert sum(evaluation_due(step, 700, 0.1) for step in range(1, 701)) == 10

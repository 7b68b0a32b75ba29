"""When evaluations are due."""

import pytest

from llmrec.selection.best_adapter import evaluation_due


@pytest.mark.parametrize(
    ("eval_steps", "expected"),
    [(3, [3, 6, 9, 10]), (0.25, [2, 4, 6, 8, 10]), (0.01, list(range(1, 11))), (50, [10])],
)
def test_evaluations_are_due_at_intervals_and_after_the_last_step(eval_steps, expected):
    assert [step for step in range(1, 11) if evaluation_due(step, 10, eval_steps)] == expected

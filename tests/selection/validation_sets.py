"""Small validation sets for tests of selection and PPO."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from llmrec.data.decision import Decision, Decisions
from llmrec.selection.guard import MIN_DECIDING_USERS, Guard, ValidationSet


def validation_set(decisions: Sequence[Decision], targets: Sequence[int]) -> ValidationSet:
    """Decisions of one user each over ten items. The reward is the item's index; the judge scores its negative."""
    rewards = torch.arange(10.0).expand(len(decisions), 10)
    rows = [
        replace(decision, user=user, target=target)
        for user, (decision, target) in enumerate(zip(decisions, targets, strict=True))
    ]
    return ValidationSet(
        decisions=Decisions.from_decisions(rows, max_history=50), rewards=rewards, judge_rewards=-rewards
    )


def small_guard(directory: Path, deciding: int = MIN_DECIDING_USERS) -> Guard:
    """A guard with one choosing user, for tests that replace its measurements."""
    asked = Decision("20", [], [0, 1])
    return Guard(validation_set([asked], [5]), validation_set([asked] * deciding, [5] * deciding), directory)

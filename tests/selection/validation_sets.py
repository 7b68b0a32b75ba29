"""Small validation sets for tests of selection and PPO."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from llmrec.data.decision import Decision, Decisions
from llmrec.selection.guard import ValidationSet


def validation_set(decisions: Sequence[Decision], targets: Sequence[int]) -> ValidationSet:
    """Decisions over ten items whose reward is the item's index; the judge scores its negative."""
    rewards = torch.arange(10.0).expand(len(decisions), 10)
    rows = [replace(decision, target=target) for decision, target in zip(decisions, targets, strict=True)]
    return ValidationSet(
        decisions=Decisions.from_decisions(rows, max_history=50), rewards=rewards, judge_rewards=-rewards
    )


def one_decision() -> ValidationSet:
    """A validation set of a single decision, for tests that replace its measurements."""
    return validation_set([Decision("20", [], [0, 1])], [5])

"""What PPO asks of a reward."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from llmrec.data.decision import Decision
from llmrec.language.prompt import Recommendation


@dataclass(frozen=True)
class RewardBatch:
    """What a reward says of B recommendations, in its own weighted units.

    Attributes:
        item: reward of the recommended item, [B].
        text: reward of the justification, [B].
        parts: every part alone, before weights, by name, each [B].
    """

    item: torch.Tensor
    text: torch.Tensor
    parts: dict[str, torch.Tensor]


class Reward(Protocol):
    """A reward over parsed recommendations and the decisions that they answer."""

    def __call__(self, recommendations: Sequence[Recommendation], decisions: Sequence[Decision]) -> RewardBatch:
        """Scores B recommendations."""
        ...

    def decisions(self, decisions: Sequence[Decision]) -> list[torch.Tensor]:
        """Weighted item rewards of all N items after each shown item of each decision: per decision [J, N]."""
        ...

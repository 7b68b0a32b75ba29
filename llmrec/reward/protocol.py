"""The interface between PPO and a reward: what PPO calls and what it gets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from llmrec.data.decision import Decision
from llmrec.language.prompt import Recommendation


@dataclass(frozen=True)
class RewardBatch:
    """Rewards of B recommendations, with the weights applied.

    Attributes:
        item: reward of the recommended item, float [B].
        text: reward of the justification, float [B].
        parts: every part of the reward before its weight, by name, float [B] each.
    """

    item: torch.Tensor
    text: torch.Tensor
    parts: dict[str, torch.Tensor]


class RewardFunction(Protocol):
    """What PPO maximizes: a reward of recommendations and, for exact PPO, of all items."""

    def __call__(self, recommendations: Sequence[Recommendation], decisions: Sequence[Decision]) -> RewardBatch:
        """Scores recommendations.

        Args:
            recommendations: B parsed completions.
            decisions: the decision that each one answers.
        """
        ...

    def item_rewards_per_prefix(self, decisions: Sequence[Decision]) -> list[torch.Tensor]:
        """Rewards of all items after each shown item of each decision.

        Args:
            decisions: the decisions, with J shown items each.

        Returns:
            per decision, float [J, N].
        """
        ...

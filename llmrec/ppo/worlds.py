"""The interface between PPO over several turns and a world, and today's reward as a world of one turn."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmrec.data.decision import Decision, Decisions
from llmrec.language.prompt import Recommendation
from llmrec.ppo.rollout import shuffled
from llmrec.reward.protocol import RewardFunction


@dataclass(frozen=True)
class Turn:
    """What came of showing an item to each of n lives. Rows of lives that were over before are ignored.

    Attributes:
        reward: float [n].
        parts: every part of the reward before its weight, by name, float [n] each.
        clicked: whether the item was clicked, bool [n].
        gap: days until the next session, 0 if the session goes on, float [n].
        over: whether the life has ended, bool [n].
        truncated: whether it was cut off, so that its value afterwards is not 0, bool [n].
    """

    reward: np.ndarray
    parts: dict[str, np.ndarray]
    clicked: np.ndarray
    gap: np.ndarray
    over: np.ndarray
    truncated: np.ndarray


class World(Protocol):
    """Lives that answer to what they are shown. The lives of one number are the same in every training."""

    def reset(self, numbers: range) -> list[Decision]:
        """Starts lives.

        Args:
            numbers: their numbers among the lives of all updates and processes, n of them.

        Returns:
            what is known of each life before its first turn.
        """
        ...

    def step(self, items: np.ndarray) -> Turn:
        """Shows each life an item, int64 [n]. Items of lives that are over are ignored."""
        ...


class OneTurn:
    """The world of one-step PPO: a recommendation earns its reward, and the life is over.

    Args:
        reward: scores recommendations; the part of the text stays out.
        dataset: the prompts. Their order is that of `rollout.RolloutSampler`.
        seed: seed of the training.
    """

    def __init__(self, reward: RewardFunction, dataset: Decisions, seed: int):
        self.reward = reward
        self.dataset = dataset
        self.seed = seed

    def reset(self, numbers: Iterable[int]) -> list[Decision]:
        """The prompts at some positions of the training."""
        self._decisions = [self.dataset[row] for row in shuffled(numbers, len(self.dataset), self.seed)]
        return self._decisions

    def step(self, items: np.ndarray) -> Turn:
        """Rewards the items."""
        found = self.reward([Recommendation(int(item), (), finished=False) for item in items], self._decisions)
        everybody = np.ones(len(items), bool)
        return Turn(
            reward=found.item.cpu().numpy(),
            parts={name: part.cpu().numpy() for name, part in found.parts.items()},
            clicked=everybody,
            gap=np.zeros(len(items)),
            over=everybody,
            truncated=~everybody,
        )

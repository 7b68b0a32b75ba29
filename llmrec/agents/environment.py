"""People as the vector environment of Stable-Baselines3, with the actions of an agent instead of items."""

from typing import Any

import numpy as np
from gymnasium import spaces

from llmrec.agents.actions import Actions
from llmrec.simulator.people import People
from llmrec.simulator.policies import top_slates
from llmrec.simulator.stable_baselines import PeopleVecEnv


class AgentVecEnv(PeopleVecEnv):
    """Many lives as one batch. Each is shown the unseen items that the agent's action scores highest.

    Args:
        people: the people.
        actions: what an action means.
        num_envs: number of lives at a time.
        seed: seed of the world.
        slate: number K of items in a slate.
    """

    def __init__(self, people: People, actions: Actions, num_envs: int, seed: int, slate: int = 1) -> None:
        self.actions = actions
        self.slate = slate
        super().__init__(people, num_envs, seed, slate)

    def actions_of(self, people: People, slate: int) -> spaces.Space[Any]:
        """The space of the agent's actions."""
        return self.actions.space

    def slates(self, actions: np.ndarray) -> np.ndarray:
        """The best unseen items of each life, int64 [n, K]."""
        scores = self.actions.scores(actions, self.people, self.state)
        return top_slates(scores, self.state.seen, self.slate)

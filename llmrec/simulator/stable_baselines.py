"""People as the vector environment of Stable-Baselines3, without one Python object for each life."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmrec.errors import UserError
from llmrec.simulator.environment import action_space, observation_space, without_repeats
from llmrec.simulator.observations import observe
from llmrec.simulator.people import People

try:
    from gymnasium import spaces
    from stable_baselines3.common.vec_env import VecEnv
except ImportError:
    raise UserError("The agents need Stable-Baselines3: run `pip install 'llmrec[simulate]'`.") from None


class PeopleVecEnv(VecEnv):
    """Many lives as one batch, for `PPO(..., PeopleVecEnv(people, 64))` and the other algorithms.

    Args:
        people: the people.
        num_envs: number of lives at a time.
        seed: seed of the world.
        slate: number K of items in a slate.
    """

    def __init__(self, people: People, num_envs: int, seed: int = 0, slate: int = 1) -> None:
        self.people = people
        self._world_seed = seed
        super().__init__(num_envs, observation_space(people), self.actions_of(people, slate))

    def actions_of(self, people: People, slate: int) -> spaces.Space[Any]:
        """The actions of one life. A subclass may have others than items."""
        return action_space(people, slate)

    def slates(self, actions: np.ndarray) -> np.ndarray:
        """What each life is shown, int64 [n, K]."""
        return without_repeats(np.asarray(actions).reshape(self.num_envs, -1), self.people.num_items)

    def reset(self) -> np.ndarray:
        """Starts all lives anew."""
        self.state = self.people.reset(self._world_seed, self.num_envs)
        self._next_life = self.num_envs
        return observe(self.people, self.state)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Acts for all lives: observations, rewards, which lives are over, and what the library asks for beside."""
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: np.ndarray) -> None:
        """Keeps the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Shows each life its item or slate. A life that is over is replaced in the same step."""
        outcome = self.people.step(self.state, self.slates(self._actions))
        observations = observe(self.people, self.state)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        rows = np.flatnonzero(outcome.over)
        if len(rows):
            for row in rows:
                infos[row] = {
                    "terminal_observation": observations[row].copy(),
                    "TimeLimit.truncated": bool(outcome.truncated[row]),
                }
            self.people.restart(self.state, rows, self._next_life + np.arange(len(rows)))
            self._next_life += len(rows)
            observations[rows] = observe(self.people, self.state.rows(rows))
        return observations, outcome.reward.astype(np.float32), outcome.over, infos

    def close(self) -> None:
        """Nothing is held open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same attribute for each life; None where there is none."""
        return [getattr(self, attr_name, None)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Lives have no attributes of their own.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(f"{attr_name} cannot be set: the lives of a batch share everything.")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Lives have no methods of their own.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(f"There is no method {method_name} of single lives.")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No life is wrapped."""
        return [False] * len(list(self._get_indices(indices)))

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Sets the seed of the world for the next `reset`."""
        if seed is not None:
            self._world_seed = seed
        return [seed] * self.num_envs

"""A world as a gymnasium environment, one life at a time or many as one batch.

    import gymnasium, llmrec.simulator.environment
    env = gymnasium.make("llmrec/Recommend-v0", simulator="runs/NAME/simulator/base")

An action is an item, or a slate of K items. An observation is what a recommender may know; see `observe`. `info` holds
the parts of the reward, the clicked item and the item numbers that the user has clicked.
"""

from pathlib import Path
from typing import Any

import numpy as np

from llmrec.errors import UserError
from llmrec.simulator.observations import observation_size, observe
from llmrec.simulator.people import People, check_slate_size
from llmrec.simulator.state import REWARD_PARTS, Outcome
from llmrec.simulator.tabular import TabularWorld
from llmrec.simulator.world import World, load_world

try:
    import gymnasium
    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode, VectorEnv
except ImportError:
    raise UserError("The environment needs gymnasium: run `pip install 'llmrec[simulate]'`.") from None

Simulator = str | Path | World | People


def people_of(simulator: Simulator) -> People:
    """The people of a world that is given by its folder, as a `World`, or as `People`."""
    if isinstance(simulator, People):
        return simulator
    world = simulator if isinstance(simulator, World) else load_world(simulator)
    return world.people()


def action_space(people: People, slate: int) -> spaces.Space[Any]:
    """One item of N, or K of them.

    Raises:
        CatalogueError: the slate is larger than the catalogue.
    """
    check_slate_size(slate, people.num_items)
    return spaces.Discrete(people.num_items) if slate == 1 else spaces.MultiDiscrete([people.num_items] * slate)


def observation_space(people: People) -> spaces.Box:
    """The space of `observe`."""
    return spaces.Box(-10.0, 10.0, (observation_size(people),), np.float32)


def without_repeats(slates: np.ndarray, num_items: int) -> np.ndarray:
    """Slates in which a repeated item is replaced by the next item number that the slate lacks, int64 [n, K]."""
    slates = np.array(slates, dtype=np.int64).reshape(len(slates), -1)
    ordered = np.sort(slates, axis=1)
    for row in np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1)):
        used: set[int] = set()
        for place in range(slates.shape[1]):
            while int(slates[row, place]) in used:
                slates[row, place] = (slates[row, place] + 1) % num_items
            used.add(int(slates[row, place]))
    return slates


class RecommendEnv(gymnasium.Env[np.ndarray, Any]):
    """One life after another.

    Args:
        simulator: folder of a world, a `World` or `People`.
        slate: number K of items in a slate.

    Raises:
        CatalogueError: the slate is larger than the catalogue.
    """

    metadata = {"render_modes": []}

    def __init__(self, simulator: Simulator, slate: int = 1) -> None:
        self.people = people_of(simulator)
        self.action_space = action_space(self.people, slate)
        self.observation_space = observation_space(self.people)
        self._life = 0
        self._seed = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Starts the next life; with a seed, the first life of that seed."""
        super().reset(seed=seed)
        if seed is not None:
            self._seed, self._life = seed, 0
        self.state = self.people.reset(self._seed, 1, first=self._life)
        self._life += 1
        return observe(self.people, self.state)[0], {"history": np.flatnonzero(self.state.seen[0])}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Shows an item or a slate."""
        slates = without_repeats(np.atleast_2d(action), self.people.num_items)
        outcome = self.people.step(self.state, slates)
        truncated = bool(outcome.truncated[0])
        info = {
            "history": np.flatnonzero(self.state.seen[0]),
            "clicked": int(outcome.clicked[0]),
            "parts": dict(zip(REWARD_PARTS, outcome.parts[0].tolist(), strict=True)),
        }
        reward = float(outcome.reward[0])
        return observe(self.people, self.state)[0], reward, bool(outcome.over[0]) and not truncated, truncated, info


class RecommendVectorEnv(VectorEnv[np.ndarray, Any, np.ndarray]):
    """Many lives as one batch. A life that is over is replaced in the same step.

    Args:
        simulator: folder of a world, a `World` or `People`.
        num_envs: number of lives at a time.
        slate: number K of items in a slate.

    Raises:
        CatalogueError: the slate is larger than the catalogue.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, simulator: Simulator, num_envs: int = 256, slate: int = 1) -> None:
        self.people = people_of(simulator)
        self.num_envs = num_envs
        self.single_action_space = action_space(self.people, slate)
        self.single_observation_space = observation_space(self.people)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self._seed = 0

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts all lives anew. The lives of one seed are numbered, so one seed is enough for all of them."""
        if isinstance(seed, list):
            seed = seed[0]
        if seed is not None:
            self._seed = seed
        self.state = self.people.reset(self._seed, self.num_envs)
        self._next_life = self.num_envs
        return observe(self.people, self.state), {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Shows each life an item or a slate."""
        slates = without_repeats(np.asarray(actions).reshape(self.num_envs, -1), self.people.num_items)
        outcome = self.people.step(self.state, slates)
        observations = observe(self.people, self.state)
        info: dict[str, Any] = {"parts": outcome.parts, "clicked": outcome.clicked}
        if outcome.over.any():
            info |= {"final_obs": observations.copy(), "_final_obs": outcome.over}
            observations = self._replace(outcome, observations)
        return observations, outcome.reward, outcome.over & ~outcome.truncated, outcome.truncated, info

    def _replace(self, outcome: Outcome, observations: np.ndarray) -> np.ndarray:
        """Starts new lives in the place of those that are over, and returns the observations with theirs."""
        rows = np.flatnonzero(outcome.over)
        self.people.restart(self.state, rows, self._next_life + np.arange(len(rows)))
        self._next_life += len(rows)
        observations[rows] = observe(self.people, self.state.rows(rows))
        return observations


class TabularEnv(gymnasium.Env[Any, Any]):
    """A tabular world, such as `Bait().world()`, one episode after another.

    Args:
        world: the world.
        max_steps: steps after which an episode is cut off.
    """

    metadata = {"render_modes": []}

    def __init__(self, world: TabularWorld, max_steps: int = 200) -> None:
        self.world = world
        self.max_steps = max_steps
        self.observation_space = spaces.Discrete(world.num_states)
        self.action_space = spaces.Discrete(world.num_actions)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Starts an episode."""
        super().reset(seed=seed)
        self.state = self.world.start
        self.steps = 0
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Takes an action. The reward is the expected one."""
        bounds = np.cumsum(self.world.transitions[self.state, action])
        after = int(np.searchsorted(bounds, self.np_random.random(), side="right"))
        reward = float(self.world.rewards[self.state, action])
        self.steps += 1
        ended = after == self.world.num_states
        self.state = self.world.start if ended else after
        return self.state, reward, ended, not ended and self.steps >= self.max_steps, {}


gymnasium.register(
    id="llmrec/Recommend-v0",
    entry_point="llmrec.simulator.environment:RecommendEnv",
    vector_entry_point="llmrec.simulator.environment:RecommendVectorEnv",
)

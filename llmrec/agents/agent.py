"""A trained agent: what it does after an observation, and how it is saved."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from safetensors.numpy import load_file, save_file

from llmrec.agents.actions import Actions
from llmrec.files import write_with
from llmrec.simulator.observations import observe
from llmrec.simulator.people import People
from llmrec.simulator.policies import Scores
from llmrec.simulator.state import State

ARRAYS_FILE = "agent.safetensors"
MODEL_FILE = "agent.zip"


class Agent(Protocol):
    """Chooses an action after each observation, without exploration."""

    def act(self, observations: np.ndarray) -> np.ndarray:
        """One action for each observation, float32 [n, F] -> [n, ...]."""
        ...

    def save(self, folder: Path) -> None:
        """Writes the agent into a folder."""
        ...


def policy_of(agent: Agent, actions: Actions) -> Scores:
    """Lets an agent score the items for each life."""

    def scores(people: People, state: State) -> np.ndarray:
        return actions.scores(agent.act(observe(people, state)), people, state)

    return scores


class ArrayAgent:
    """An agent that is a dataclass of arrays."""

    def save(self, folder: Path) -> None:
        """Writes `agent.safetensors`."""
        arrays = {one.name: np.ascontiguousarray(getattr(self, one.name)) for one in fields(self)}  # pyright: ignore[reportArgumentType]
        write_with(folder / ARRAYS_FILE, lambda path: save_file(arrays, path))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what `save` wrote."""
        return cls(**load_file(folder / ARRAYS_FILE))


@dataclass(frozen=True)
class ConstantAgent(ArrayAgent):
    """Does always the same.

    Attributes:
        action: the action, [...].
    """

    action: np.ndarray

    def act(self, observations: np.ndarray) -> np.ndarray:
        """The action, once for each observation."""
        return np.repeat(self.action[None], len(observations), axis=0)


@dataclass(frozen=True)
class LinearAgent(ArrayAgent):
    """Takes the action whose expected reward, linear in the observation, is largest.

    Attributes:
        weights: weights of the observation and of a constant, for each action, float64 [A, F + 1].
    """

    weights: np.ndarray

    def act(self, observations: np.ndarray) -> np.ndarray:
        """The best action of each observation, int64 [n]."""
        return (with_constant(observations) @ self.weights.T).argmax(axis=1)


@dataclass(frozen=True)
class TableAgent(ArrayAgent):
    """Takes the action with the largest value in a table of states.

    Attributes:
        values: action values, float64 [S, A].
        edges: borders between the bins of each feature, float64 [3, bins - 1].
    """

    values: np.ndarray
    edges: np.ndarray

    def act(self, observations: np.ndarray) -> np.ndarray:
        """The best action of each observation, int64 [n]."""
        return self.values[self.states(observations)].argmax(axis=1)

    def states(self, observations: np.ndarray) -> np.ndarray:
        """The row of the table that each observation falls into, int64 [n]."""
        return table_states(observations, self.edges)


@dataclass(frozen=True)
class DeepAgent:
    """A model of Stable-Baselines3.

    Attributes:
        model: the model.
    """

    model: Any

    def act(self, observations: np.ndarray) -> np.ndarray:
        """The action of each observation, without noise."""
        return self.model.predict(observations, deterministic=True)[0]

    def save(self, folder: Path) -> None:
        """Writes `agent.zip`, as Stable-Baselines3 does."""
        write_with(folder / MODEL_FILE, self.model.save)


TABLE_FEATURES = (-7, -2, -1)  # columns of `observe`: steps of the session, recent click rate, purchases of the session


def table_states(observations: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Index of the cell of a grid that each observation falls into, int64 [n].

    Args:
        observations: float [n, F].
        edges: see `TableAgent`.
    """
    states = np.zeros(len(observations), np.int64)
    for column, borders in zip(TABLE_FEATURES, edges, strict=True):
        states = states * (len(borders) + 1) + np.searchsorted(borders, observations[:, column])
    return states


def with_constant(observations: np.ndarray) -> np.ndarray:
    """Observations and a column of ones, float64 [n, F + 1]."""
    return np.concatenate([observations, np.ones((len(observations), 1))], axis=1).astype(np.float64)

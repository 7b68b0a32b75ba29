"""What the action of an agent means: how it becomes scores of all items."""

from itertools import combinations
from typing import Protocol

import numpy as np
from gymnasium import spaces

from llmrec.agents.rankers import RANKERS, Rankers
from llmrec.catalogue.cooccurrence import cooccurrence_vectors
from llmrec.data.dataset import InteractionData
from llmrec.simulator.people import People
from llmrec.simulator.state import State

ITEM_DIMENSIONS = 8  # of the vectors behind `NearestItem`


class Actions(Protocol):
    """A set of actions."""

    @property
    def space(self) -> spaces.Space:
        """The actions."""
        ...

    def scores(self, actions: np.ndarray, people: People, state: State) -> np.ndarray:
        """Scores of all items; the best unseen ones are shown.

        Args:
            actions: one action for each life, [n, ...].
            people: the people.
            state: n lives.

        Returns:
            float [n, N].
        """
        ...


class Weights:
    """An action holds the weight of each ranker, from -1 (weight 0) to 1 (weight 1)."""

    space = spaces.Box(-1.0, 1.0, (len(RANKERS),), np.float32)

    def __init__(self, rankers: Rankers) -> None:
        self.rankers = rankers

    def scores(self, actions: np.ndarray, people: People, state: State) -> np.ndarray:
        """The weighted sum of the rankers' scores."""
        weights = (np.asarray(actions, np.float32).reshape(len(state.life), -1) + 1.0) / 2.0
        return np.einsum("nr,nrm->nm", weights, self.rankers.scores(people, state))


class Arms:
    """An action is one of the fixed mixtures of `mixtures`."""

    def __init__(self, rankers: Rankers) -> None:
        self.weights = Weights(rankers)
        self.mixtures = mixtures(len(RANKERS))
        self.space = spaces.Discrete(len(self.mixtures))

    def scores(self, actions: np.ndarray, people: People, state: State) -> np.ndarray:
        """The weighted sum of the rankers' scores."""
        return self.weights.scores(self.mixtures[np.asarray(actions).reshape(-1)], people, state)


class NearestItem:
    """An action is a direction among the item vectors. The unseen items of the nearest directions are shown.

    This is the lookup of Dulac-Arnold et al. (Deep Reinforcement Learning in Large Discrete Action Spaces, 2015), with
    one neighbor, so the critic does not choose among several.

    Args:
        data: the prepared log, whose training clicks give the vectors.
    """

    def __init__(self, data: InteractionData) -> None:
        self.vectors = cooccurrence_vectors(data.train_histories, data.num_items, ITEM_DIMENSIONS).numpy()
        self.space = spaces.Box(-1.0, 1.0, (self.vectors.shape[1],), np.float32)

    def scores(self, actions: np.ndarray, people: People, state: State) -> np.ndarray:
        """The dot product with the vector of each item; an item without a neighbor in any history has 0."""
        return np.asarray(actions, np.float32).reshape(len(state.life), -1) @ self.vectors.T


def mixtures(rankers: int) -> np.ndarray:
    """Each ranker alone, each pair in equal parts, and all in equal parts, as actions of `Weights`, float32 [M, R]."""
    subsets = [*combinations(range(rankers), 1), *combinations(range(rankers), 2), tuple(range(rankers))]
    found = np.full((len(subsets), rankers), -1.0, np.float32)
    for row, subset in enumerate(subsets):
        found[row, list(subset)] = 1.0
    return found

"""Worlds of a few states, their optimum by value iteration, and tabular Q-learning.

They prove learners: an agent that cannot find the optimum here will not find it in a world of people.
"""

from dataclasses import dataclass

import numpy as np

from llmrec.errors import RewardError

GOOD, BAIT = 0, 1  # actions of the bait world


@dataclass(frozen=True)
class TabularWorld:
    """A Markov decision process with S states and A actions.

    Attributes:
        transitions: probability of the next state, float64 [S, A, S]. What is missing to 1 is the end of the episode.
        rewards: expected reward, float64 [S, A].
        start: state in which an episode begins.

    Raises:
        ValueError: a probability is negative, or the probabilities of a state and an action sum to more than 1.
        RewardError: a reward is not finite.
    """

    transitions: np.ndarray
    rewards: np.ndarray
    start: int = 0

    def __post_init__(self) -> None:
        totals = self.transitions.sum(axis=2)
        if (self.transitions < 0).any() or (totals > 1 + 1e-9).any():
            raise ValueError(
                f"Transition probabilities sum to {totals.min():g} to {totals.max():g}; expected 0 or more each, and a "
                "sum of at most 1 for every state and action."
            )
        if not np.isfinite(self.rewards).all():
            raise RewardError(f"The rewards {self.rewards.tolist()} are not all finite; expected finite numbers.")

    @property
    def num_states(self) -> int:
        """Number S of states."""
        return self.rewards.shape[0]

    @property
    def num_actions(self) -> int:
        """Number A of actions."""
        return self.rewards.shape[1]


def value_iteration(world: TabularWorld, gamma: float, tolerance: float = 1e-12) -> np.ndarray:
    """Optimal action values by repeated Bellman updates (Sutton & Barto, 2018, eq. 4.10).

    Args:
        world: the world.
        gamma: discount factor, below 1 unless every policy ends.
        tolerance: largest change of a value in the last sweep.

    Returns:
        float64 [S, A].
    """
    values = np.zeros(world.num_states)
    while True:
        actions = world.rewards + gamma * world.transitions @ values
        new = actions.max(axis=1)
        if np.abs(new - values).max() < tolerance:
            return actions
        values = new


def policy_values(world: TabularWorld, policy: np.ndarray, gamma: float) -> np.ndarray:
    """Values of the states under a policy, by solving the Bellman equation.

    Args:
        world: the world.
        policy: probability of each action, float64 [S, A], or the action of each state, int64 [S].
        gamma: discount factor.

    Returns:
        float64 [S].
    """
    if policy.ndim == 1:
        policy = np.eye(world.num_actions)[policy]
    transitions = np.einsum("sa,sat->st", policy, world.transitions)
    rewards = (policy * world.rewards).sum(axis=1)
    return np.linalg.solve(np.eye(world.num_states) - gamma * transitions, rewards)


def q_target(reward: float, next_values: np.ndarray | None, gamma: float) -> float:
    """Target of Q-learning: reward plus the discounted best value of the next state (Watkins & Dayan, 1992).

    Args:
        reward: reward of the step.
        next_values: action values of the next state, [A]; None if the episode has ended.
        gamma: discount factor.
    """
    return reward if next_values is None else reward + gamma * float(next_values.max())


def q_learning(world: TabularWorld, gamma: float, steps: int, seed: int, exploration: float = 0.3) -> np.ndarray:
    """Tabular Q-learning with a step size of 1 / visits^0.7.

    Args:
        world: the world. Q-learning only draws from it.
        gamma: discount factor. 0 gives the myopic twin, which learns expected rewards alone.
        steps: number of steps.
        seed: seed of the episodes and of the exploration.
        exploration: share of random actions.

    Returns:
        action values, float64 [S, A].
    """
    rng = np.random.default_rng(seed)
    values = np.zeros((world.num_states, world.num_actions))
    visits = np.zeros_like(values)
    bounds = np.cumsum(world.transitions, axis=2)
    draws = rng.random((steps, 3))
    state = world.start
    for explore, which, chance in draws:
        action = int(which * world.num_actions) if explore < exploration else int(values[state].argmax())
        after = int(np.searchsorted(bounds[state, action], chance, side="right"))
        ended = after == world.num_states
        target = q_target(world.rewards[state, action], None if ended else values[after], gamma)
        visits[state, action] += 1
        values[state, action] += (target - values[state, action]) / visits[state, action] ** 0.7
        state = world.start if ended else after
    return values


# --- worlds ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bait:
    """A world in which the item that is clicked most is regretted.

    A session has `length` steps. In each the recommender shows something good or bait. After the session the user comes
    back with probability `loyalty` times `damage` to the power of the number of baits.

    Attributes:
        length: steps T of a session.
        good: click probability of the good item.
        bait: click probability of the bait, above `good`.
        loyalty: probability of coming back after a session without bait.
        damage: factor of that probability for each bait.
    """

    length: int = 3
    good: float = 0.6
    bait: float = 0.9
    loyalty: float = 0.95
    damage: float = 0.5

    def world(self) -> TabularWorld:
        """The world as a table: state t (t + 1) / 2 + b is step t of a session with b baits so far."""
        size = self.length * (self.length + 1) // 2
        transitions = np.zeros((size, 2, size))
        rewards = np.tile([self.good, self.bait], (size, 1))
        for step in range(self.length):
            for baits in range(step + 1):
                state = step * (step + 1) // 2 + baits
                for action in (GOOD, BAIT):
                    if step + 1 < self.length:
                        transitions[state, action, (step + 1) * (step + 2) // 2 + baits + action] = 1.0
                    else:
                        transitions[state, action, 0] = self.loyalty * self.damage ** (baits + action)
        return TabularWorld(transitions, rewards)

    def value(self, baits: int, gamma: float) -> float:
        """Value of showing bait in the first steps of every session, in closed form.

        A session with b baits is worth R(b), the sum over its steps of gamma^t times the click probability. It is
        followed by another with probability p(b), T steps later. So V(b) = R(b) / (1 - gamma^T p(b)).
        """
        clicks = np.where(np.arange(self.length) < baits, self.bait, self.good)
        session = float((gamma ** np.arange(self.length) * clicks).sum())
        return session / (1 - gamma**self.length * self.loyalty * self.damage**baits)

    def optimum(self, gamma: float) -> float:
        """The largest value. Bait in the first steps is worth more than later, so only their number is chosen."""
        return max(self.value(baits, gamma) for baits in range(self.length + 1))


def satiation_world(categories: int = 2, levels: int = 3, click: float = 0.8, loss: float = 0.35) -> TabularWorld:
    """A world in which showing a category tires of it, and a pause recovers it.

    The state holds the fatigue of each category, 0 to `levels` - 1. Showing a category earns `click` minus `loss` for
    each level, raises its fatigue by 1 and lowers the others by 1. The session ends with probability 0.05.
    """
    shape = (levels,) * categories
    size = levels**categories
    transitions = np.zeros((size, categories, size))
    rewards = np.zeros((size, categories))
    for state in range(size):
        fatigue = np.array(np.unravel_index(state, shape))
        for action in range(categories):
            after = np.maximum(fatigue - 1, 0)
            after[action] = min(fatigue[action] + 1, levels - 1)
            rewards[state, action] = max(0.0, click - loss * fatigue[action])
            transitions[state, action, np.ravel_multi_index(tuple(after), shape)] = 0.95
    return TabularWorld(transitions, rewards)

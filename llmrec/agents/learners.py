"""Learners of our own: bandits, tabular Q-learning and the search for constant weights.

Each takes an environment and a number of steps of people, and returns an agent.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from llmrec.agents.agent import (
    TABLE_FEATURES,
    ConstantAgent,
    LinearAgent,
    TableAgent,
    policy_of,
    table_states,
    with_constant,
)
from llmrec.agents.environment import AgentVecEnv
from llmrec.simulator.policies import live
from llmrec.simulator.tabular import q_target

Advance = Callable[[int], Any]  # takes the steps of people that were made since the last call
Transition = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]

UCB_WIDTH = 0.5  # standard errors that LinUCB adds to an expected reward
THOMPSON_SCALE = 0.5  # standard deviation of rewards that Thompson sampling assumes
TABLE_BINS = 4  # of each feature of the table
EXPLORATION = 0.2  # share of random actions of tabular Q-learning
CANDIDATES = 16  # weights that the search starts with
KEPT = (6, 2, 1)  # candidates that are left after each of its rounds
LIVES_AT_ONCE = 4


# --- bandits --------------------------------------------------------------------------------------


def linucb(env: AgentVecEnv, steps: int, gamma: float, seed: int, advance: Advance) -> LinearAgent:
    """LinUCB with one ridge regression an arm (Li et al., A Contextual-Bandit Approach ..., WWW 2010, algorithm 1)."""

    def choose(features: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
        widths = np.sqrt(np.einsum("nf,afg,ng->na", features, covariances, features))
        return (features @ means.T + UCB_WIDTH * widths).argmax(axis=1)

    return _linear_bandit(env, steps, choose, advance)


def thompson(env: AgentVecEnv, steps: int, gamma: float, seed: int, advance: Advance) -> LinearAgent:
    """Linear Thompson sampling (Agrawal & Goyal, Thompson Sampling for Contextual Bandits, ICML 2013)."""
    rng = np.random.default_rng(seed)

    def choose(features: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
        variances = np.einsum("nf,afg,ng->na", features, covariances, features)
        return rng.normal(features @ means.T, THOMPSON_SCALE * np.sqrt(variances)).argmax(axis=1)

    return _linear_bandit(env, steps, choose, advance)


def _linear_bandit(
    env: AgentVecEnv, steps: int, choose: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], advance: Advance
) -> LinearAgent:
    """Fits the reward of a step for each arm, while `choose` decides which arm to try.

    Args:
        choose: takes features [n, F], means [A, F] and covariances [A, F, F] of the weights; returns arms, int64 [n].
    """
    observations = env.reset()
    arms, size = int(env.action_space.n), observations.shape[1] + 1  # pyright: ignore[reportAttributeAccessIssue]
    precisions = np.tile(np.eye(size), (arms, 1, 1))
    covariances = precisions.copy()
    sums = np.zeros((arms, size))
    means = np.zeros((arms, size))
    for _ in range(steps // env.num_envs):
        features = with_constant(observations)
        chosen = choose(features, means, covariances)
        observations, rewards, _, _ = env.step(chosen)
        for arm in np.unique(chosen):
            rows = features[chosen == arm]
            precisions[arm] += rows.T @ rows
            sums[arm] += rows.T @ np.asarray(rewards, np.float64)[chosen == arm]
            covariances[arm] = np.linalg.inv(precisions[arm])
            means[arm] = covariances[arm] @ sums[arm]
        advance(env.num_envs)
    return LinearAgent(means)


# --- tabular Q-learning ---------------------------------------------------------------------------


def q_learning(env: AgentVecEnv, steps: int, gamma: float, seed: int, advance: Advance) -> TableAgent:
    """Q-learning over bins of three features, with a step size of 1 / visits^0.7 (Watkins & Dayan, 1992).

    The borders of the bins are quantiles of the first tenth of the steps, in which all actions are random.
    """
    rng = np.random.default_rng(seed)
    arms = int(env.action_space.n)  # pyright: ignore[reportAttributeAccessIssue]
    rounds = steps // env.num_envs
    warm_up = list(_play(env, max(1, rounds // 10), lambda seen: rng.integers(0, arms, len(seen)), advance))
    edges = table_edges(np.concatenate([observations for observations, *_ in warm_up]))
    values = np.zeros((TABLE_BINS ** len(edges), arms))
    visits = np.zeros_like(values)

    def choose(seen: np.ndarray) -> np.ndarray:
        greedy = values[table_states(seen, edges)].argmax(axis=1)
        return np.where(rng.random(len(seen)) < EXPLORATION, rng.integers(0, arms, len(seen)), greedy)

    for transition in warm_up:
        _update(values, visits, edges, transition, gamma)
    for transition in _play(env, rounds - len(warm_up), choose, advance):
        _update(values, visits, edges, transition, gamma)
    return TableAgent(values, edges)


def table_edges(observations: np.ndarray) -> np.ndarray:
    """Quantiles that cut each feature of the table into bins, float64 [3, bins - 1]."""
    shares = np.arange(1, TABLE_BINS) / TABLE_BINS
    return np.quantile(observations[:, list(TABLE_FEATURES)], shares, axis=0).T.astype(np.float64)


def _play(
    env: AgentVecEnv, rounds: int, choose: Callable[[np.ndarray], np.ndarray], advance: Advance
) -> Iterator[Transition]:
    """Plays and yields observations, actions, rewards, next observations and which lives have ended, of each round."""
    observations = env.reset()
    for _ in range(rounds):
        actions = choose(observations)
        after, rewards, over, infos = env.step(actions)
        following = after.copy()
        ended = over.copy()
        for row in np.flatnonzero(over):
            following[row] = infos[row]["terminal_observation"]
            ended[row] = not infos[row]["TimeLimit.truncated"]
        advance(env.num_envs)
        yield observations, actions, rewards, following, ended
        observations = after


def _update(values: np.ndarray, visits: np.ndarray, edges: np.ndarray, transition: Transition, gamma: float) -> None:
    """One step of Q-learning for each life, in place."""
    observations, actions, rewards, following, ended = transition
    states, after = table_states(observations, edges), table_states(following, edges)
    for row, (state, action) in enumerate(zip(states, actions, strict=True)):
        target = q_target(float(rewards[row]), None if ended[row] else values[after[row]], gamma)
        visits[state, action] += 1
        values[state, action] += (target - values[state, action]) / visits[state, action] ** 0.7


# --- constant weights -----------------------------------------------------------------------------


def blend_search(env: AgentVecEnv, steps: int, gamma: float, seed: int, advance: Advance) -> ConstantAgent:
    """The best of random constant weights, by successive halving (Karnin et al., ICML 2013).

    In each round, every candidate lives the same lives, until the round's third of the steps is used. The mean reward
    of a life decides who is left. Each ranker alone is among the candidates.
    """
    rng = np.random.default_rng(seed)
    size = env.action_space.shape[0]  # pyright: ignore[reportOptionalSubscript]
    alone = 2.0 * np.eye(size) - 1.0
    candidates = np.concatenate([alone, rng.uniform(-1.0, 1.0, (CANDIDATES - size, size))]).astype(np.float32)
    for number, kept in enumerate(KEPT):
        rewards = _rewards(env, candidates, steps // len(KEPT), 1 + seed * len(KEPT) + number, advance)
        candidates = candidates[np.argsort(-rewards, kind="stable")[:kept]]
    return ConstantAgent(candidates[0])


def _rewards(env: AgentVecEnv, candidates: np.ndarray, steps: int, seed: int, advance: Advance) -> np.ndarray:
    """Mean reward of a life under each candidate, float64 [n]. All live the same blocks of lives."""
    totals = np.zeros(len(candidates))
    used = blocks = 0
    while blocks == 0 or used * (blocks + 1) <= steps * blocks:  # one more block as long as the steps suffice
        for row, candidate in enumerate(candidates):
            scores = policy_of(ConstantAgent(candidate), env.actions)
            lives = live(env.people, scores, LIVES_AT_ONCE, seed * 1_000 + blocks, env.slate)
            totals[row] += lives.reward.sum()
            used += int(lives.steps.sum())
            advance(int(lives.steps.sum()))
        blocks += 1
    return totals / (blocks * LIVES_AT_ONCE)

"""Value iteration, Bellman updates and Q-learning against textbooks, hand-worked numbers and closed forms."""

import numpy as np
import pytest

from llmrec.errors import RewardError
from llmrec.simulator.proof import CLICK, bait_people, bait_values
from llmrec.simulator.tabular import (
    BAIT,
    GOOD,
    Bait,
    TabularWorld,
    policy_values,
    q_learning,
    q_target,
    satiation_world,
    value_iteration,
)

GAMMA = 0.97


def gridworld() -> TabularWorld:
    """Sutton & Barto (2018), examples 3.5 and 3.8: 5 x 5 cells; A jumps to A' with +10 and B to B' with +5."""
    transitions = np.zeros((25, 4, 25))
    rewards = np.zeros((25, 4))
    for row in range(5):
        for column in range(5):
            for action, (down, right) in enumerate([(-1, 0), (1, 0), (0, 1), (0, -1)]):
                state = 5 * row + column
                new = (row + down, column + right)
                if (row, column) == (0, 1):
                    new, rewards[state, action] = (4, 1), 10.0
                elif (row, column) == (0, 3):
                    new, rewards[state, action] = (2, 3), 5.0
                elif not (0 <= new[0] < 5 and 0 <= new[1] < 5):
                    new, rewards[state, action] = (row, column), -1.0
                transitions[state, action, 5 * new[0] + new[1]] = 1.0
    return TabularWorld(transitions, rewards)


def test_value_iteration_finds_the_optimum_of_the_textbook() -> None:
    """Sutton & Barto (2018), figure 3.5."""
    expected = [
        [22.0, 24.4, 22.0, 19.4, 17.5],
        [19.8, 22.0, 19.8, 17.8, 16.0],
        [17.8, 19.8, 17.8, 16.0, 14.4],
        [16.0, 17.8, 16.0, 14.4, 13.0],
        [14.4, 16.0, 14.4, 13.0, 11.7],
    ]
    assert np.allclose(value_iteration(gridworld(), 0.9).max(axis=1).reshape(5, 5), expected, atol=0.051)


def test_policy_values_are_those_of_the_textbook() -> None:
    """Sutton & Barto (2018), figure 3.2, the values of the random policy, first and last row."""
    values = policy_values(gridworld(), np.full((25, 4), 0.25), 0.9).reshape(5, 5)
    assert np.allclose(values[0], [3.3, 8.8, 4.4, 5.3, 1.5], atol=0.051)
    assert np.allclose(values[4], [-1.9, -1.3, -1.2, -1.4, -2.0], atol=0.051)


def test_value_iteration_by_hand() -> None:
    """One state. Action 0 earns 1 and goes on with probability 1/2; action 1 earns 1.5 and ends. gamma 0.8.

    V = max(1 + 0.4 V, 1.5) = 1 / 0.6 = 1.6667, so Q = (1.6667, 1.5).
    """
    world = TabularWorld(np.array([[[0.5], [0.0]]]), np.array([[1.0, 1.5]]))
    assert np.allclose(value_iteration(world, 0.8), [[5 / 3, 1.5]])


def test_q_target_by_hand() -> None:
    assert q_target(1.0, np.array([2.0, 5.0]), 0.9) == pytest.approx(5.5)
    assert q_target(1.0, None, 0.9) == 1.0


def test_q_learning_averages_what_it_meets() -> None:
    """With one state, one action, no next state: the values are the reward from the first visit on."""
    world = TabularWorld(np.zeros((1, 1, 1)), np.array([[0.25]]))
    assert q_learning(world, 0.9, steps=5, seed=0)[0, 0] == 0.25


@pytest.mark.parametrize("bait", [Bait(), Bait(length=2, damage=0.9), Bait(length=4, good=0.3, damage=0.99)])
def test_the_closed_form_of_the_bait_world_is_its_optimum(bait: Bait) -> None:
    assert value_iteration(bait.world(), GAMMA)[0].max() == pytest.approx(bait.optimum(GAMMA), rel=1e-9)
    always = np.full(bait.world().num_states, BAIT)
    assert policy_values(bait.world(), always, GAMMA)[0] == pytest.approx(bait.value(bait.length, GAMMA), rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_q_learning_avoids_the_bait_and_its_myopic_twin_takes_it(seed: int) -> None:
    bait = Bait()
    world = bait.world()
    sequential = q_learning(world, GAMMA, steps=20_000, seed=seed).argmax(axis=1)
    myopic = q_learning(world, 0.0, steps=20_000, seed=seed).argmax(axis=1)
    # States with baits are off the path of the good policy; on its path it shows nothing but good items.
    assert policy_values(world, sequential, GAMMA)[0] >= 0.95 * bait.optimum(GAMMA)
    assert (myopic == BAIT).all()
    assert policy_values(world, myopic, GAMMA)[0] < 0.5 * bait.optimum(GAMMA)


@pytest.mark.parametrize("seed", range(3))
def test_q_learning_reaches_the_optimum_of_satiation(seed: int) -> None:
    world = satiation_world()
    best = value_iteration(world, 0.9)[0].max()
    learned = q_learning(world, 0.9, steps=20_000, seed=seed).argmax(axis=1)
    repeated = policy_values(world, np.zeros(world.num_states, np.int64), 0.9)[0]
    assert policy_values(world, learned, 0.9)[0] >= 0.95 * best
    assert repeated < 0.6 * best


def test_people_of_the_bait_world_have_the_value_of_the_closed_form() -> None:
    """A discount of 0.95 is the same as a further 5 % of lives that end at each step."""
    gamma = 0.95
    world = bait_people()
    for kind, expected in zip((GOOD, BAIT), bait_values(gamma), strict=True):
        state = world.reset(0, 20_000)
        total = np.zeros(20_000)
        for step in range(120):
            total += gamma**step * world.step(state, np.full(20_000, kind)).reward
        error = total.std() / np.sqrt(len(total))
        assert abs(total.mean() - expected) < 4.5 * error
    good, bait = bait_values(gamma)
    assert good > 1.2 * bait and CLICK[BAIT] > CLICK[GOOD]


def test_malformed_worlds_are_refused() -> None:
    with pytest.raises(ValueError, match="sum to"):
        TabularWorld(np.ones((2, 1, 2)), np.zeros((2, 1)))
    with pytest.raises(RewardError, match="not all finite"):
        TabularWorld(np.zeros((1, 1, 1)), np.array([[np.nan]]))

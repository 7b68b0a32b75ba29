"""Our own learners in the bait world: those that look ahead leave the bait, those that do not take it."""

import numpy as np
import pytest

pytest.importorskip("sb3_contrib", reason="llmrec[simulate] is not installed")

from gymnasium import spaces

from llmrec.agents.agent import ConstantAgent, LinearAgent, TableAgent, policy_of, table_states
from llmrec.agents.environment import AgentVecEnv
from llmrec.agents.learners import LIVES_AT_ONCE, blend_search, linucb, q_learning, table_edges, thompson
from llmrec.agents.registry import LEARNERS, contenders
from llmrec.simulator.people import People
from llmrec.simulator.policies import live
from llmrec.simulator.proof import bait_people
from llmrec.simulator.state import State
from tests.simulator.worlds import people

GOOD, BAIT = 0, 1
KINDS = np.eye(2, dtype=np.float32)[np.arange(400) % 2]  # whether an item is good, and whether it is bait


class KindArms:
    """An arm shows one kind of item."""

    space = spaces.Discrete(2)

    def scores(self, actions: np.ndarray, people: People, state: State) -> np.ndarray:
        return KINDS[:, np.asarray(actions).reshape(-1)].T


class KindWeights:
    """Weights of the two kinds."""

    space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def scores(self, actions: np.ndarray, people: People, state: State) -> np.ndarray:
        return np.asarray(actions) @ KINDS.T


def bait_env(actions=None) -> AgentVecEnv:
    return AgentVecEnv(bait_people(400, max_steps=60), actions or KindArms(), num_envs=32, seed=0)


def share_of_bait(agent) -> float:
    """Share of bait among what an agent does in states of its own lives."""
    env = bait_env()
    observations = env.reset()
    chosen = []
    for _ in range(30):
        chosen.append(agent.act(observations))
        observations = env.step(chosen[-1])[0]
    return float(np.mean(chosen))


def test_q_learning_leaves_the_bait_and_its_twin_takes_it():
    for seed in range(5):
        ahead = q_learning(bait_env(), 8_000, 0.95, seed, lambda steps: None)
        myopic = q_learning(bait_env(), 8_000, 0.0, seed, lambda steps: None)
        assert share_of_bait(ahead) < 0.1 and share_of_bait(myopic) > 0.9, seed


@pytest.mark.parametrize("learner", [linucb, thompson])
def test_bandits_take_the_bait_because_they_see_one_step(learner):
    used: list[int] = []
    agent = learner(bait_env(), 6_000, 0.0, 0, used.append)
    assert share_of_bait(agent) > 0.9
    assert 6_000 - 32 < sum(used) <= 6_000


def test_linucb_is_a_ridge_regression_of_each_arm():
    env = bait_env()
    seen: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    step = env.step

    def recorded(actions):
        before = env_observations[-1]
        found = step(actions)
        seen.append((before, np.array(actions), found[1]))
        env_observations.append(found[0])
        return found

    env_observations = [env.reset()]
    env.step = recorded
    agent = linucb(env, 640, 0.0, 0, lambda steps: None)
    observations, arms, rewards = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    for arm in (GOOD, BAIT):
        rows = np.concatenate([observations, np.ones((len(observations), 1))], 1)[arms == arm].astype(np.float64)
        ridge = np.linalg.solve(rows.T @ rows + np.eye(rows.shape[1]), rows.T @ rewards[arms == arm])
        assert np.allclose(agent.weights[arm], ridge, atol=1e-6)


def test_the_search_keeps_to_its_budget_and_finds_what_pays_over_a_life():
    used: list[int] = []
    agent = blend_search(bait_env(KindWeights()), 24_000, 0.0, 0, used.append)
    assert agent.action[GOOD] > agent.action[BAIT]
    assert 12_000 < sum(used) <= 24_500


def test_the_search_compares_candidates_on_the_same_lives(monkeypatch):
    """Two candidates that do the same get the same reward, whatever the luck."""
    from llmrec.agents.learners import _rewards

    env = bait_env(KindWeights())
    same = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]], np.float32)
    rewards = _rewards(env, same, 10_000, 3, lambda steps: None)
    assert rewards[0] == rewards[1] != rewards[2]
    first = live(env.people, policy_of(ConstantAgent(same[0]), env.actions), LIVES_AT_ONCE, 3_000).reward
    assert first.sum() > 0


def test_states_of_the_table_are_bins_of_three_features():
    observations = np.zeros((4, 9), np.float32)
    observations[:, 2] = [0, 1, 2, 3]  # steps of the session are the seventh feature from the end
    edges = np.array([[0.5, 1.5, 2.5], [0.5, 1.5, 2.5], [0.5, 1.5, 2.5]])
    assert table_states(observations, edges).tolist() == [0, 16, 32, 48]
    observations[:, 8], observations[:, 7] = 9.0, 1.0  # purchases of the session, click rate
    assert table_states(observations, edges).tolist() == [7, 23, 39, 55]
    assert table_edges(np.arange(45.0).reshape(5, 9)).shape == (3, 3)


def test_agents_of_arrays_are_saved_and_read(tmp_path):
    agents = [
        ConstantAgent(np.array([0.5, -1.0], np.float32)),
        LinearAgent(np.arange(20.0).reshape(2, 10)),
        TableAgent(np.arange(128.0).reshape(64, 2), np.tile([0.1, 0.2, 0.3], (3, 1))),
    ]
    observations = np.random.default_rng(0).random((5, 9)).astype(np.float32)
    for agent in agents:
        agent.save(tmp_path)
        assert np.array_equal(type(agent).load(tmp_path).act(observations), agent.act(observations))


@pytest.mark.parametrize("name", ["dqn", "qr_dqn", "ppo", "a2c", "ddpg", "td3"])
def test_agents_of_the_library_are_trained_saved_and_read(name, tmp_path):
    learner = LEARNERS[name]
    actions = KindArms() if learner.actions == "arms" else KindWeights()
    used: list[int] = []
    agent = learner.train(bait_env(actions), 1_100, 0.9, 0, used.append)
    agent.save(tmp_path)
    observations = np.random.default_rng(0).random((5, 11)).astype(np.float32)
    assert np.array_equal(learner.load(tmp_path).act(observations), agent.act(observations))
    assert 1_100 <= sum(used) < 1_100 + 32 * 32


def test_sequential_learners_have_a_twin():
    found = {one.name: one.gamma for one in contenders(["linucb", "dqn"], 0.9)}
    assert found == {"linucb": 0.0, "dqn": 0.9, "dqn_gamma0": 0.0}


def test_only_the_chosen_users_live():
    everybody = people(users=9)
    some = People(everybody.population, everybody.behavior, users=np.array([2, 5]))
    assert set(some.reset(0, 200).user) == {2, 5}
    assert set(everybody.reset(0, 200).user) == set(range(9))

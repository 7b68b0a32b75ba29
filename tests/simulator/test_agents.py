"""Agents of Stable-Baselines3 in the bait world of people: sequential ones leave the bait, myopic twins end on it.

A deep agent with gamma 0 learns expected clicks alone. It is the control of the same agent with gamma 0.95. Each has
the same number of steps. The optimum is known in closed form.
"""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("stable_baselines3", reason="llmrec[simulate] is not installed")

from stable_baselines3 import A2C, DQN, PPO

from llmrec.simulator.proof import bait_people, bait_values
from llmrec.simulator.stable_baselines import PeopleVecEnv

GAMMA = 0.95
LIVES = 4000
SMALL = {"net_arch": [32]}
AGENTS: dict[str, tuple[Any, int, dict[str, Any]]] = {
    "ppo": (PPO, 64, {"n_steps": 32, "batch_size": 512, "n_epochs": 5, "learning_rate": 3e-3}),
    "a2c": (A2C, 64, {"n_steps": 8, "learning_rate": 3e-3}),
    "dqn": (
        DQN,
        16,
        {
            "learning_rate": 2e-3, "buffer_size": 20_000, "learning_starts": 500, "batch_size": 128, "train_freq": 4,
            "gradient_steps": 4, "target_update_interval": 500, "exploration_fraction": 0.3,
        },
    ),
}  # fmt: skip
STEPS = 30_000


def trained(name: str, gamma: float, seed: int) -> Any:
    kind, lives, settings = AGENTS[name]
    env = PeopleVecEnv(bait_people(), lives, seed=seed)
    agent = kind("MlpPolicy", env, gamma=gamma, seed=seed, device="cpu", policy_kwargs=SMALL, **settings)
    return agent.learn(STEPS)


def value(agent: Any) -> float:
    """Mean discounted clicks of new lives under the agent's greedy policy."""
    env = PeopleVecEnv(bait_people(), LIVES, seed=1000)
    observations = env.reset()
    total = np.zeros(LIVES)
    alive = np.ones(LIVES, bool)
    for step in range(120):
        env.step_async(agent.predict(observations, deterministic=True)[0])
        observations, rewards, over, _ = env.step_wait()
        total += GAMMA**step * rewards * alive
        alive &= ~over
    return float(total.mean())


def test_an_agent_of_the_library_trains_on_people() -> None:
    """A few updates run end to end; what is learned is tested by the slow proofs."""
    env = PeopleVecEnv(bait_people(), 8)
    agent = PPO("MlpPolicy", env, n_steps=8, batch_size=32, device="cpu", policy_kwargs=SMALL).learn(128)
    actions, _ = agent.predict(env.reset(), deterministic=True)
    assert ((actions >= 0) & (actions < 4)).all() and agent.num_timesteps == 128


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
def test_sequential_agents_leave_the_bait_and_myopic_twins_take_it(name: str) -> None:
    good, bait = bait_values(GAMMA)
    for seed in range(5):
        assert value(trained(name, GAMMA, seed)) >= 0.95 * good, (name, seed)
        assert value(trained(name, 0.0, seed)) <= 1.05 * bait, (name, seed)

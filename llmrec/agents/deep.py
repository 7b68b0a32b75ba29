"""Learners of Stable-Baselines3 and its contributions, with settings that suit short lives and few steps."""

from copy import deepcopy
from typing import Any

import numpy as np
from sb3_contrib import QRDQN
from stable_baselines3 import A2C, DDPG, DQN, PPO, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise

from llmrec.agents.agent import MODEL_FILE, DeepAgent
from llmrec.agents.environment import AgentVecEnv
from llmrec.agents.learners import Advance

NOISE = 0.3  # standard deviation of the exploration of DDPG and TD3; actions lie between -1 and 1
_OFF_POLICY = {"learning_rate": 1e-3, "buffer_size": 50_000, "learning_starts": 1000, "batch_size": 256,
               "train_freq": 1, "gradient_steps": 8}  # fmt: skip
_EXPLORATION = {"exploration_fraction": 0.4, "exploration_final_eps": 0.05, "target_update_interval": 1000}
_SMALL = {"net_arch": [64, 64]}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ppo": (PPO, {"n_steps": 32, "batch_size": 512, "n_epochs": 5, "learning_rate": 1e-3}),
    "a2c": (A2C, {"n_steps": 8, "learning_rate": 1e-3}),
    "dqn": (DQN, {**_OFF_POLICY, **_EXPLORATION}),
    "qr_dqn": (QRDQN, {**_OFF_POLICY, **_EXPLORATION, "policy_kwargs": {**_SMALL, "n_quantiles": 32}}),
    "ddpg": (DDPG, _OFF_POLICY),
    "td3": (TD3, _OFF_POLICY),
}


class Deep:
    """Trains one algorithm.

    Args:
        name: a key of `KINDS`.
    """

    def __init__(self, name: str) -> None:
        self.kind, self.settings = KINDS[name]

    def __call__(self, env: AgentVecEnv, steps: int, gamma: float, seed: int, advance: Advance) -> DeepAgent:
        """Trains on `steps` steps of people and returns the agent."""
        noise = {}
        if self.kind in (DDPG, TD3):
            size = env.action_space.shape[0]  # pyright: ignore[reportOptionalSubscript]
            noise = {"action_noise": NormalActionNoise(np.zeros(size), np.full(size, NOISE))}
        settings = deepcopy({"policy_kwargs": _SMALL, **self.settings, **noise})  # the library changes what it is given
        model = self.kind("MlpPolicy", env, gamma=gamma, seed=seed, device="cpu", **settings)
        model.learn(steps, callback=_Progress(advance))
        return DeepAgent(model)

    def load(self, folder: Any) -> DeepAgent:
        """Reads what `DeepAgent.save` wrote."""
        return DeepAgent(self.kind.load(folder / MODEL_FILE, device="cpu"))


class _Progress(BaseCallback):
    """Reports the steps of people."""

    def __init__(self, advance: Advance) -> None:
        super().__init__()
        self.advance = advance

    def _on_step(self) -> bool:
        self.advance(self.training_env.num_envs)
        return True

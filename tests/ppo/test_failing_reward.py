"""A reward that fails during PPO leaves the last checkpoint intact, and the same command resumes from it."""

import sys
import types

import numpy as np
import pytest

from llmrec.config import Config
from llmrec.data.dataset import InteractionData, save_data
from llmrec.errors import RewardError
from llmrec.policy.model import RecPolicy
from llmrec.ppo.checkpoint import newest_checkpoint
from llmrec.ppo.stage import train_ppo
from llmrec.run import Run
from reward_models import catalogue_hash, fit_click_purchase, fit_judge
from tests.conftest import make_config


@pytest.fixture
def module(monkeypatch):
    """The reward function `my_rewards:fragile`, whose call number `module.fails_at` returns NaN."""
    module = types.ModuleType("my_rewards")
    module.calls, module.fails_at = 0, 0

    def fragile(recommendations, rows):
        module.calls += 1
        return [float("nan") if module.calls == module.fails_at else 0.0 for _ in rows]

    module.fragile = fragile
    monkeypatch.setitem(sys.modules, "my_rewards", module)
    return module


@pytest.fixture
def run(tiny_base, data, tmp_path) -> Run:
    """A run that is ready for PPO and uses the fragile reward."""
    reward = {"num_train_epochs": 1, "parts": [{"callable": "my_rewards:fragile", "weight": 1.0}]}
    ppo = {"total_episodes": 32, "per_device_train_batch_size": 4, "batch_size": 8, "save_steps": 1,
           "eval_steps": 2, "response_length": 24, "text": "on"}  # fmt: skip
    return ready_for_ppo(make_config(tiny_base, output_dir=str(tmp_path), reward=reward, ppo=ppo), data)


def ready_for_ppo(config: Config, data: InteractionData) -> Run:
    """A run whose stages before PPO have finished."""
    run = Run.create(config)
    for stage in ("data", "sft", "reward"):
        run.begin(stage)
        if stage == "data":
            save_data(data, run.path("data"))
        elif stage == "sft":
            RecPolicy.create(run.config, data).save_pretrained(run.path("sft", "adapter"))
        else:
            users, same_items = np.arange(data.num_users), catalogue_hash(data.items["item_id"])
            model, _ = fit_click_purchase(data, run.config.reward, seed=0, users=users)
            model.save_pretrained(run.path("reward"))
            judge = fit_judge([data.train_histories[u] for u in users], data.purchases, data.num_items, same_items)
            judge.save_pretrained(run.path("reward"))
        run.finish(stage, {})
    return run


def test_the_last_checkpoint_stays_intact_and_training_resumes_from_it(run, module):
    module.fails_at = 3
    with pytest.raises(RewardError) as caught:
        train_ppo(run)
    kept = newest_checkpoint(run.path("ppo", "checkpoints"))
    assert kept.name == "checkpoint-2"
    message = str(caught.value)
    assert "The reward part `my_rewards:fragile` gave nan" in message
    assert f"run the same command again: training continues from {kept}, which is intact" in message
    assert caught.value.exit_code == 2 and not run.finished("ppo")
    before = {file: file.read_bytes() for file in kept.rglob("*") if file.is_file()}
    assert before
    module.fails_at = 0
    metrics = train_ppo(run)
    assert metrics["updates"] == 4 and run.finished("ppo")
    assert [entry["reward/my_rewards:fragile"] for entry in metrics["log"]] == [0.0] * 4
    assert module.calls == 3 + 2  # only updates 3 and 4 were repeated


def test_before_the_first_checkpoint_training_restarts_from_sft(run, module):
    module.fails_at = 1
    with pytest.raises(RewardError, match="training continues from the SFT adapter, because no checkpoint was due yet"):
        train_ppo(run)
    assert not newest_checkpoint(run.path("ppo", "checkpoints"))

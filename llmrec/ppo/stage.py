"""The PPO stage: from the SFT adapter and the reward model to the best adapter by validation.

accelerate launch scripts/train_ppo.py --config configs/quickstart.yaml
"""

import numpy as np
import torch
from datasets import Dataset
from trl.experimental.ppo import PPOConfig

from llmrec.catalogue.prompt import profiles
from llmrec.config import Config, PPOSection
from llmrec.data.dataset import InteractionData, Targets, load_data
from llmrec.policy.model import RecPolicy
from llmrec.policy.packed import Window
from llmrec.ppo.checkpoint import checkpoints
from llmrec.ppo.guard import Guard
from llmrec.ppo.trainer import RecPPOTrainer
from llmrec.progress import watch
from llmrec.run import Run
from reward_models import load_reward_model
from reward_models.composite import CompositeReward

SHOWN = {
    "objective/scores": "reward",
    "reward/groundedness": "grounded",
    "objective/item_kl": "item KL",
    "eval/ndcg@10": "NDCG@10",
    "eps": "episodes/s",
}


def train_ppo(run: Run) -> dict:
    """Trains the RL adapter of a run, or goes on where it was interrupted; returns its metrics.

    Raises:
        RunError: an earlier stage has not finished.
    """
    run.require("data", "sft", "reward")
    run.begin("ppo")
    data, section = load_data(run.path("data")), run.config.ppo
    torch.manual_seed(run.config.seed)
    policy = RecPolicy.from_pretrained(run.path("sft", "adapter"))
    policy.add_rl_adapter()
    model = load_reward_model(run.path("reward"), data.items["item_id"])
    trainer = RecPPOTrainer(
        training_arguments(run),
        section,
        policy,
        CompositeReward(model, policy.facts, run.config.reward),
        training_rows(data, run.config),
        validation_guard(run, data),
    )
    watch(trainer, "ppo", SHOWN, run.path("ppo", "logs"))
    done = checkpoints(run.path("ppo", "checkpoints"))
    trainer.train(resume_from_checkpoint=str(done[-1]) if done else None)
    if trainer.is_world_process_zero():
        policy.save_pretrained(run.path("ppo", "adapter"))
    log = [entry for entry in trainer.state.log_history if "objective/scores" in entry]
    metrics = {"updates": trainer.state.global_step, "guard": trainer.guard.report(), "log": log}
    run.finish("ppo", metrics)
    return metrics


def training_rows(data: InteractionData, config: Config) -> Dataset:
    """Prompts to learn from: windows of training histories, each with at least one item.

    Returns:
        rows `profile, prior, items, purchased`; `purchased` covers `prior + items`. All but the newest item of a
        training history can be shown: what follows the window is what the user really took.
    """
    width = config.catalogue.max_history
    names = profiles(data.users, config.catalogue.user_attributes)
    rows = []
    for user, history in enumerate(data.train_histories):
        for stop in range(len(history), 0, -width):
            start = max(0, stop - width)
            rows.append(
                {
                    "profile": names[user],
                    "prior": history[:start].tolist(),
                    "items": history[start:stop].tolist(),
                    "purchased": data.purchases[user][:stop].tolist(),
                }
            )
    return Dataset.from_list(rows)


def validation_guard(run: Run, data: InteractionData) -> Guard:
    """A guard on a seeded sample of `InteractionData.selection_targets`."""
    targets = data.selection_targets()
    order = np.random.default_rng((run.config.seed, 11)).permutation(len(targets))[: run.config.ppo.eval_users]
    sample = Targets(targets.users[order], targets.positions[order])
    windows = target_windows(data, sample, run.config)
    items = [data.histories[u][p] for u, p in zip(sample.users, sample.positions, strict=True)]
    return Guard(windows, items, run.path("ppo", "best"))


def target_windows(data: InteractionData, targets: Targets, config: Config) -> list[Window]:
    """Prompts of prediction targets: everything that the user had before the target."""
    width = config.catalogue.max_history
    names = profiles(data.users, config.catalogue.user_attributes)
    windows = []
    for user, position in zip(targets.users, targets.positions, strict=True):
        history = data.histories[user][:position].tolist()
        windows.append(Window(names[user], history[:-width], history[-width:]))
    return windows


def training_arguments(run: Run) -> PPOConfig:
    """TRL's arguments for the section of a config."""
    section: PPOSection = run.config.ppo
    same = (
        "total_episodes learning_rate per_device_train_batch_size gradient_accumulation_steps "
        "num_mini_batches num_ppo_epochs response_length missing_eos_penalty kl_coef kl_estimator cliprange "
        "cliprange_value vf_coef gamma lam temperature max_grad_norm save_steps"
    )
    return PPOConfig(
        output_dir=str(run.path("ppo", "checkpoints")),
        **{name: getattr(section, name) for name in same.split()},
        local_rollout_forward_batch_size=section.per_device_train_batch_size,
        gradient_checkpointing=False,
        num_sample_generations=0,
        lr_scheduler_type="linear",
        logging_steps=1,
        bf16=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        seed=run.config.seed,
        report_to="none",  # `watch` reports
        remove_unused_columns=False,
    )

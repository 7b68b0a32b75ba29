"""The PPO stage: from the SFT adapter and the reward model to the best adapter by validation.

accelerate launch scripts/train_ppo.py --config configs/quickstart.yaml
"""

import os

import numpy as np
import torch
from trl.experimental.ppo import PPOConfig as TRLPPOConfig

from llmrec.config import Config, PPOConfig
from llmrec.data.dataset import InteractionData, load_data
from llmrec.data.decision import Decisions
from llmrec.data.profiles import profile_texts
from llmrec.distributed import is_main_process, settle_mixed_precision
from llmrec.errors import ConfigError, RewardError
from llmrec.policy.model import RecPolicy
from llmrec.ppo.checkpoint import newest_checkpoint
from llmrec.ppo.trainer import RecPPOTrainer
from llmrec.progress import watch
from llmrec.reward.composite import CompositeReward
from llmrec.run import Run
from llmrec.selection.guard import Guard, ValidationSet
from llmrec.selection.validation import validation_sample
from reward_models import EaseJudge

GUARD_ROWS = 32  # validation users that the reward model reads at a time
COLUMNS = {
    "objective/scores": "reward",
    "objective/kl": "KL",
    "objective/item_kl": "item KL",
    "reward/groundedness": "grounded",
    "eval/ndcg@10": "NDCG@10",
    "eval/judge": "judge",
    "eps": "episodes/s",
}


def train_ppo(run: Run) -> dict:
    """Trains the RL adapter of a run, or goes on where it was interrupted; returns its metrics.

    Raises:
        RunError: an earlier stage has not finished.
        ConfigError: see `refuse_sharding`.
    """
    refuse_sharding()
    run.require("data", "sft", "reward")
    run.begin("ppo")
    data, section = load_data(run.path("data")), run.config.ppo
    torch.manual_seed(run.config.seed)
    policy = RecPolicy.from_pretrained(run.path("sft", "adapter"))
    policy.add_rl_adapter()
    reward = CompositeReward.from_pretrained(run.path("reward"), data, policy.facts, run.config.reward)
    guard = validation_guard(run, data, reward)
    prompts = training_decisions(data, run.config)
    trainer = RecPPOTrainer(training_arguments(run), section, policy, reward, prompts, guard)
    checkpoint = newest_checkpoint(run.path("ppo", "checkpoints"))
    try:
        with watch(trainer, run, "ppo", COLUMNS) as trainer.record:
            trainer.train(resume_from_checkpoint=checkpoint)
    except RewardError as error:
        raise RewardError(f"{error} {_what_is_safe(run)}") from error
    if is_main_process():
        policy.save_pretrained(run.path("ppo", "adapter"))
    log = [entry for entry in trainer.state.log_history if "objective/scores" in entry]
    metrics = {"updates": trainer.state.global_step, "guard": guard.report(), "events": trainer.events, "log": log}
    run.finish("ppo", metrics)
    return metrics


def refuse_sharding() -> None:
    """Raises ConfigError under FSDP, which shards weights that rollouts read outside of the wrapped forward pass, and
    under DeepSpeed, for which TRL's trainer wants the reward to be a network.
    """
    for name in ("FSDP", "DeepSpeed"):
        if os.environ.get(f"ACCELERATE_USE_{name.upper()}") == "true":
            raise ConfigError(f"PPO does not run under {name}: launch it with configs/accelerate/ddp.yaml.")


def _what_is_safe(run: Run) -> str:
    """Where an interrupted stage goes on."""
    kept = newest_checkpoint(run.path("ppo", "checkpoints"))
    where = f"from {kept}, which is untouched" if kept else "from the SFT adapter; no checkpoint had been due"
    return f"Mend it and run the same command again: it goes on {where}."


def training_decisions(data: InteractionData, config: Config) -> Decisions:
    """The prompts that PPO learns from: windows of `catalogue.max_history` items over every training history.

    The newest window of a history ends with its newest training item; each earlier one ends where the next begins.
    """
    width = config.catalogue.max_history
    texts = profile_texts(data.users, config.catalogue.user_attributes)
    places = [
        (user, stop) for user, history in enumerate(data.train_histories) for stop in range(len(history), 0, -width)
    ]
    lengths = data.train_lengths
    return Decisions(
        profiles=[texts[user] for user, _ in places],
        histories=[data.histories[user][:stop] for user, stop in places],
        purchased=[data.purchases[user][:stop] for user, stop in places],
        users=np.array([user for user, _ in places], dtype=np.int64),
        targets=np.array([data.histories[u][stop] if stop < lengths[u] else -1 for u, stop in places], dtype=np.int64),
        max_history=width,
    )


def validation_guard(run: Run, data: InteractionData, reward: CompositeReward) -> Guard:
    """A guard on a seeded sample of `InteractionData.selection_targets`."""
    sample = validation_sample(data, run.config.ppo.eval_users, run.config.seed)
    decisions = Decisions.from_targets(data, sample, run.config.catalogue)
    judge = EaseJudge.from_pretrained(run.path("reward"), data.items["item_id"])
    last = []  # a few rows at a time: every decision of every window does not fit into memory
    for part in decisions.batches(GUARD_ROWS):
        last += [rewards[-1].cpu().clone() for rewards in reward.decisions(part)]
    return Guard(
        ValidationSet(decisions, torch.stack(last), reward.judged(judge)(decisions.histories)), run.path("ppo", "best")
    )


def training_arguments(run: Run) -> TRLPPOConfig:
    """TRL's arguments for the section of a config."""
    section: PPOConfig = run.config.ppo
    same = (
        "total_episodes learning_rate optim per_device_train_batch_size gradient_accumulation_steps "
        "num_mini_batches num_ppo_epochs response_length missing_eos_penalty kl_coef kl_estimator cliprange "
        "cliprange_value vf_coef gamma lam temperature max_grad_norm save_steps"
    )
    return TRLPPOConfig(
        output_dir=str(run.path("ppo", "checkpoints")),
        **{name: getattr(section, name) for name in same.split()},
        local_rollout_forward_batch_size=section.per_device_train_batch_size,
        gradient_checkpointing=False,
        num_sample_generations=0,
        lr_scheduler_type="linear",
        logging_steps=1,
        bf16=settle_mixed_precision() == "bf16",
        use_cpu=not torch.cuda.is_available(),
        seed=run.config.seed,
        report_to="none",  # `watch` reports
        remove_unused_columns=False,
    )

"""The PPO stage: trains the RL adapter of a run, starting from its SFT adapter, on its reward.

accelerate launch scripts/train_ppo.py --config configs/quickstart.yaml
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from trl.experimental.ppo import PPOConfig as TRLPPOConfig

from llmrec.config import Config, PPOConfig
from llmrec.config.batch import ppo_share
from llmrec.data.dataset import InteractionData, Targets, load_data
from llmrec.data.decision import Decisions, items_at
from llmrec.data.profiles import drop_profiles, profile_texts
from llmrec.data.ragged import Ragged
from llmrec.distributed import is_main_process, settle_mixed_precision
from llmrec.errors import RewardError
from llmrec.policy.model import RecPolicy
from llmrec.ppo.checkpoint import newest_checkpoint
from llmrec.ppo.trainer import RecPPOTrainer
from llmrec.progress import watch
from llmrec.requests.draw import ask
from llmrec.reward.composite import CompositeReward
from llmrec.run import Run
from llmrec.selection.guard import Guard, ValidationSet
from llmrec.selection.validation import choosing_and_deciding, validation_sample
from llmrec.sharding import check_launch
from llmrec.timing import timed
from reward_models import EaseJudge

COLUMNS = {
    "objective/scores": "reward",
    "objective/item_reward": "item reward",
    "objective/kl": "KL",
    "objective/item_kl": "item KL",
    "reward/groundedness": "grounded",
    "eval/ndcg@10": "NDCG@10",
    "eval/judge": "judge",
    "eps": "episodes/s",
}
TRL_OPTIONS = (  # options of the config section `ppo` that TRL's arguments share by name
    "total_episodes",
    "learning_rate",
    "optim",
    "num_mini_batches",
    "num_ppo_epochs",
    "response_length",
    "missing_eos_penalty",
    "kl_coef",
    "kl_estimator",
    "cliprange",
    "cliprange_value",
    "vf_coef",
    "gamma",
    "lam",
    "temperature",
    "max_grad_norm",
    "save_steps",
)


def train_ppo(run: Run, guarded: bool = True) -> dict[str, Any]:
    """Trains the RL adapter of a run and resumes an interrupted training.

    Args:
        run: the run.
        guarded: whether a guard chooses and decides on validation users. Without it, the last adapter stays.

    Returns:
        the metrics of the stage.

    Raises:
        RunError: an earlier stage has not finished.
        ConfigError: the launcher cannot shard this base (see `sharding.check_launch`), or the processes cannot share a
            batch evenly.
        RewardError: a reward function failed or returned an invalid value.
    """
    check_launch(run.config.model.quantization)
    ppo_share(run.config.ppo)  # refuses a number of processes before anything is read
    run.require("data", "sft", "reward")
    run.begin("ppo")
    data = load_data(run.path("data"))
    torch.manual_seed(run.config.seed)
    with timed("base model"):
        policy = RecPolicy.from_pretrained(run.path("sft", "adapter"))
        policy.add_rl_adapter()
    with timed("rewards of validation users"):
        reward = CompositeReward.from_pretrained(
            run.path("reward"), data, policy.facts, run.config.reward, policy.attributes
        )
        guard = validation_guard(run, data, reward) if guarded else None
    prompts = ask(training_decisions(data, run.config), policy.attributes, run.config.sft.requests, run.config.seed)
    trainer = RecPPOTrainer(training_arguments(run), run.config.ppo, policy, reward, prompts, guard)
    _train(run, trainer)
    weights = policy.adapter_weights()
    if is_main_process():
        policy.save_pretrained(run.path("ppo", "adapter"), weights)
    metrics = {
        "updates": trainer.state.global_step,
        "guard": None if guard is None else guard.report(),
        "text": trainer.text,
        "events": trainer.events,
        "log": [entry for entry in trainer.state.log_history if "episode" in entry],
    }
    run.finish("ppo", metrics)
    return metrics


def _train(run: Run, trainer: RecPPOTrainer) -> None:
    """Trains from the newest checkpoint, or from the start."""
    checkpoint = newest_checkpoint(run.path("ppo", "checkpoints"))
    try:
        with watch(trainer, run, "ppo", COLUMNS) as trainer.record:
            trainer.train(resume_from_checkpoint=checkpoint)
    except RewardError as error:
        raise RewardError(f"{error} {_resume_hint(run)}") from error


def _resume_hint(run: Run) -> str:
    """A sentence that says where training continues after the reward is fixed."""
    checkpoint = newest_checkpoint(run.path("ppo", "checkpoints"))
    start = f"{checkpoint}, which is intact" if checkpoint else "the SFT adapter, because no checkpoint was due yet"
    return f"Fix the reward and run the same command again: training continues from {start}."


def training_decisions(data: InteractionData, config: Config) -> Decisions:
    """The prompts that PPO learns from: consecutive windows of `catalogue.max_history` items of training histories.

    The newest window ends with the newest training item of its history. Each earlier window ends where the next begins.
    The share `sft.profile_dropout` of the prompts shows no profile.
    """
    width = config.catalogue.max_history
    texts = profile_texts(data.users, config.catalogue.user_attributes)
    lengths = data.train_lengths
    counts = -(-lengths // width)
    users = np.repeat(np.arange(data.num_users), counts)
    number = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)  # of each window, the newest first
    stops = lengths[users] - number * width
    targets = np.where(number > 0, items_at(data, users, stops), -1)
    return Decisions(
        profiles=drop_profiles([texts[user] for user in users], config.sft.profile_dropout, config.seed),
        histories=Ragged.of(data.histories).select(users).first(stops),
        purchased=Ragged.of(data.purchases).select(users).first(stops),
        users=users,
        targets=targets,
        max_history=width,
        repeats=data.repeats,
    )


def validation_guard(run: Run, data: InteractionData, reward: CompositeReward) -> Guard:
    """A guard on a seeded sample of `InteractionData.selection_targets`, split into users who choose and who decide."""
    sample = validation_sample(data, run.config.ppo.eval_users, run.config.seed)
    judge = EaseJudge.from_pretrained(run.path("reward"), data.items["item_id"])
    choosing, deciding = (
        validation_set(_validation_decisions(run, data, part, reward), reward, judge)
        for part in choosing_and_deciding(sample)
    )
    return Guard(choosing, deciding, run.path("ppo", "best"))


def _validation_decisions(run: Run, data: InteractionData, part: Targets, reward: CompositeReward) -> Decisions:
    """The decisions at some targets; the share `sft.requests` of them has a request, as in training."""
    decisions = Decisions.from_targets(data, part, run.config.catalogue)
    return ask(decisions, reward.attributes, run.config.sft.requests, run.config.seed)


def validation_set(decisions: Decisions, reward: CompositeReward, judge: EaseJudge) -> ValidationSet:
    """Validation decisions with the reward and the judge's score of every item."""
    return ValidationSet(
        decisions=decisions,
        rewards=reward.newest_item_rewards(decisions),
        judge_rewards=reward.judged(judge)(decisions.histories),
    )


def batch_arguments(section: PPOConfig) -> dict[str, Any]:
    """TRL's arguments for this process's share of a batch.

    Raises:
        ConfigError: the processes cannot share the batch evenly.
    """
    share = ppo_share(section)
    return {
        "per_device_train_batch_size": share.forward,
        "gradient_accumulation_steps": share.passes * section.num_mini_batches,
        "local_rollout_forward_batch_size": section.per_device_train_batch_size,
    }


def training_arguments(run: Run) -> TRLPPOConfig:
    """TRL's arguments for the config section `ppo`."""
    return trl_arguments(run.config.ppo, run.path("ppo", "checkpoints"), run.config.seed)


def trl_arguments(section: PPOConfig, checkpoints: Path, seed: int) -> TRLPPOConfig:
    """TRL's arguments for options of PPO.

    Args:
        section: the options.
        checkpoints: folder of the checkpoints.
        seed: seed of the training.
    """
    return TRLPPOConfig(
        output_dir=str(checkpoints),
        **{name: getattr(section, name) for name in TRL_OPTIONS},
        **batch_arguments(section),
        gradient_checkpointing=False,
        num_sample_generations=0,
        lr_scheduler_type="linear",
        logging_steps=1,
        bf16=settle_mixed_precision() == "bf16",
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
        report_to="none",  # `watch` reports
        remove_unused_columns=False,
    )

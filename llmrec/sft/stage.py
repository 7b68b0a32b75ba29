"""The SFT stage: trains the adapter on next items and justifications of all training histories.

accelerate launch scripts/train_sft.py --config configs/quickstart.yaml
"""

import shutil
from typing import Any

import torch
from transformers.trainer import TRAINER_STATE_NAME
from trl.trainer.sft_config import SFTConfig as TRLSFTConfig

from llmrec.config import SFTConfig
from llmrec.data.dataset import InteractionData, load_data
from llmrec.data.decision import Decisions
from llmrec.data.profiles import NEW_USER, profile_texts
from llmrec.distributed import is_main_process, settle_mixed_precision
from llmrec.files import newest_checkpoint
from llmrec.policy.model import RecPolicy
from llmrec.progress import watch
from llmrec.run import Run
from llmrec.selection.validation import validation_sample
from llmrec.sft.check import check_completions
from llmrec.sft.trainer import NDCG, RecSFTTrainer, ValidationCallback
from llmrec.sft.windows import training_windows
from llmrec.sharding import check_launch
from llmrec.timing import timed

COLUMNS = {"item_loss": "item loss", "text_loss": "text loss", NDCG: "NDCG@10"}


def train_sft(run: Run) -> dict[str, Any]:
    """Trains the SFT adapter of a run and resumes an interrupted training.

    Returns:
        the metrics of the stage.

    Raises:
        RunError: the data has not been prepared.
        ConfigError: the mask forbids what the tokenizer makes of a supervised text, or the launcher cannot shard the
            base; see `sharding.check_launch`.
    """
    check_launch(run.config.model.quantization)
    run.require("data")
    run.begin("sft")
    data = load_data(run.path("data"))
    torch.manual_seed(run.config.seed)
    with timed("base model"):
        policy = RecPolicy.create(run.config, data)
    trainer = _make_trainer(run, policy, data)
    validation = ValidationCallback(trainer, _validation_decisions(run, data))
    _train(run, trainer, validation)
    validation.best.restore_best(policy)
    trainer.save_model(str(run.path("sft")))
    metrics = _metrics(trainer, validation) | {"summary": [coverage(policy, data)]}
    run.finish("sft", metrics)
    if is_main_process():
        shutil.rmtree(validation.best.directory, ignore_errors=True)
    return metrics


@timed("training windows")
def _make_trainer(run: Run, policy: RecPolicy, data: InteractionData) -> RecSFTTrainer:
    section = run.config.sft
    windows = training_windows(policy, data, run.config.catalogue.user_attributes, section, run.config.seed)
    check_completions(policy, windows)
    return RecSFTTrainer(policy, windows, training_arguments(section, run), section)


def _validation_decisions(run: Run, data: InteractionData) -> Decisions:
    sample = validation_sample(data, run.config.sft.eval_users, run.config.seed)
    return Decisions.from_targets(data, sample, run.config.catalogue)


@timed("training")
def _train(run: Run, trainer: RecSFTTrainer, validation: ValidationCallback) -> None:
    """Trains from the newest checkpoint, or from the start."""
    with watch(trainer, run, "sft", COLUMNS):
        trainer.add_callback(validation)
        checkpoint = newest_checkpoint(run.path("sft", "checkpoints"), TRAINER_STATE_NAME)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def _metrics(trainer: RecSFTTrainer, validation: ValidationCallback) -> dict[str, Any]:
    return {
        "windows": len(trainer.windows),
        "steps": trainer.state.global_step,
        "validation": validation.best.history,
        "log": [entry for entry in trainer.state.log_history if "item_loss" in entry],
    }


def coverage(policy: RecPolicy, data: InteractionData) -> str:
    """How many items have a fact that a justification can state, and how many users have attributes, in one line.

    Args:
        policy: the policy, whose facts and attributes the prompts and justifications use.
        data: the prepared data.
    """
    stated = sum(bool(policy.facts.facts_of(item)) for item in range(data.num_items))
    profiles = profile_texts(data.users, policy.catalogue.user_attributes)
    known = sum(profile != NEW_USER for profile in profiles)
    return (
        f"{stated:,} of {data.num_items:,} items have facts that can be stated; {known:,} of {data.num_users:,} users "
        "have attributes in the prompt"
    )


def training_arguments(section: SFTConfig, run: Run) -> TRLSFTConfig:
    """TRL's arguments for a config section. TRL sees one epoch, because the windows hold all epochs."""
    return TRLSFTConfig(
        output_dir=str(run.path("sft", "checkpoints")),
        num_train_epochs=1,
        learning_rate=section.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=section.warmup_ratio,  # a value below 1 is a share of all steps
        weight_decay=section.weight_decay,
        optim=section.optim,
        per_device_train_batch_size=section.per_device_train_batch_size,
        gradient_accumulation_steps=section.gradient_accumulation_steps,
        gradient_checkpointing=False,
        bf16=settle_mixed_precision() == "bf16",
        use_cpu=not torch.cuda.is_available(),
        max_grad_norm=1.0,
        logging_steps=10,
        save_steps=section.save_steps,
        save_total_limit=2,
        seed=run.config.seed,
        report_to="none",  # `watch` reports
        remove_unused_columns=False,
        loss_type="nll",  # `RecSFTTrainer` computes the loss; TRL's default would patch the model's head
        dataset_kwargs={"skip_prepare_dataset": True},
    )

"""The SFT stage: trains the adapter on next items and justifications of all training histories.

accelerate launch scripts/train_sft.py --config configs/quickstart.yaml
"""

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from llmrec.config.batch import batch_record, few_updates, resumed_batch, sft_share
from llmrec.data.dataset import InteractionData, load_data
from llmrec.data.decision import Decisions
from llmrec.data.profiles import NEW_USER, profile_texts
from llmrec.distributed import is_main_process
from llmrec.files import newest_checkpoint, read_json
from llmrec.policy.model import RecPolicy
from llmrec.progress import TrainingLog, watch
from llmrec.requests.draw import ask
from llmrec.run import Run
from llmrec.selection.validation import validation_sample
from llmrec.sft.arguments import training_arguments
from llmrec.sft.check import check_completions
from llmrec.sft.private import train_private
from llmrec.sft.trainer import BEST, NDCG, RecSFTTrainer, ValidationCallback
from llmrec.sft.windows import TrainingWindows
from llmrec.sharding import check_launch
from llmrec.timing import timed

BATCH = "batch"  # key of the batch in the trainer's state
COLUMNS = {"item_loss": "item loss", "text_loss": "text loss", NDCG: "NDCG@10"}


def train_sft(run: Run) -> dict[str, Any]:
    """Trains the SFT adapter of a run and resumes an interrupted training.

    Returns:
        the metrics of the stage.

    Raises:
        RunError: the data has not been prepared.
        ConfigError: the mask forbids what the tokenizer makes of a supervised text, the launcher cannot shard the base
            (see `sharding.check_launch`), the processes cannot share a batch evenly, or the section `privacy` does not
            fit the log or the launch.
    """
    check_launch(run.config.model.quantization)
    sft_share(run.config.sft)  # refuses a number of processes before the data is read
    run.require("data")
    run.begin("sft")
    data = load_data(run.path("data"))
    torch.manual_seed(run.config.seed)
    with timed("base model"):
        policy = RecPolicy.create(run.config, data)
    decisions = _validation_decisions(run, policy, data)
    train = _train_best if run.config.privacy is None else train_private
    metrics = train(run, policy, data, decisions)
    metrics["summary"] = [coverage(policy, data), *metrics.get("summary", [])]
    weights = policy.adapter_weights()
    if is_main_process():
        policy.save_pretrained(run.path("sft", "adapter"), weights)
    run.finish("sft", metrics)
    if is_main_process():
        shutil.rmtree(run.path("sft", BEST), ignore_errors=True)
    return metrics


def _train_best(run: Run, policy: RecPolicy, data: InteractionData, decisions: Decisions) -> dict[str, Any]:
    """Trains the policy, and leaves it with the adapter of the best evaluation on validation. Returns the metrics."""
    trainer = _make_trainer(run, policy, data)
    validation = ValidationCallback(trainer, decisions)
    _train(run, trainer, validation)
    validation.best.restore_best(policy)
    return _metrics(trainer, validation)


@timed("training windows")
def _make_trainer(run: Run, policy: RecPolicy, data: InteractionData) -> RecSFTTrainer:
    section = run.config.sft
    windows = TrainingWindows(policy, data, run.config.catalogue.user_attributes, section, run.config.seed)
    check_completions(policy, windows)
    return RecSFTTrainer(policy, windows, training_arguments(section, run), section)


def _validation_decisions(run: Run, policy: RecPolicy, data: InteractionData) -> Decisions:
    sample = validation_sample(data, run.config.sft.eval_users, run.config.seed)
    decisions = Decisions.from_targets(data, sample, run.config.catalogue)
    return ask(decisions, policy.attributes, run.config.sft.requests, run.config.seed)


@timed("training")
def _train(run: Run, trainer: RecSFTTrainer, validation: ValidationCallback) -> None:
    """Trains from the newest checkpoint, or from the start."""
    batch_size = run.config.sft.batch_size
    steps = len(trainer.windows) // batch_size
    checkpoint = newest_checkpoint(run.path("sft", "checkpoints"), TRAINER_STATE_NAME)
    if checkpoint is None:
        notices = few_updates(steps, "sft.batch_size", "sft.num_train_epochs")
    else:
        notices = resumed_batch("sft.batch_size", batch_size, _batch_of(checkpoint, steps, batch_size), checkpoint)
    with watch(trainer, run, "sft", COLUMNS) as record:
        trainer.add_callback(BatchCallback(batch_size, notices, record))
        trainer.add_callback(validation)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def _batch_of(checkpoint: Path, steps: int, batch_size: int) -> dict[str, int]:
    """The batch record of a checkpoint. In one of an earlier version, the number of all steps tells the batch."""
    state = read_json(checkpoint / TRAINER_STATE_NAME)
    former = {"batch_size": round(steps * batch_size / state["max_steps"])}
    return state.get("stateful_callbacks", {}).get(BATCH, former)


class BatchCallback(TrainerCallback):
    """Puts the batch into the checkpoints, and records notices at the start of training.

    Args:
        batch_size: windows of an optimizer step.
        notices: sentences about the batch.
        record: receives the notices.
    """

    def __init__(self, batch_size: int, notices: list[str], record: TrainingLog):
        self.batch_size = batch_size
        self.notices = notices
        self.record = record

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Adds the batch to the state that checkpoints hold, and records the notices."""
        cast(dict[str, Any], state.stateful_callbacks)[BATCH] = batch_record(self.batch_size)
        for notice in self.notices:
            self.record.event(state.global_step, notice)


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

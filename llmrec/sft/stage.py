"""Supervised fine-tuning: every next item of every history in one pass, and a justification at each window's end.

    accelerate launch scripts/train_sft.py --config configs/quickstart.yaml

The softmax at item positions runs over the items that were allowed there, and only there; see `policy.constraint`.
"""

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from trl import SFTConfig as TRLSFTConfig
from trl import SFTTrainer

from llmrec.config import SFTConfig
from llmrec.data.dataset import InteractionData, load_data
from llmrec.data.decision import Decision, Decisions
from llmrec.data.profiles import profile_texts
from llmrec.distributed import settle_mixed_precision
from llmrec.files import newest_checkpoint, read_json, write_json
from llmrec.language.grammar import ITEM
from llmrec.language.templates import write
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch, pack, target_log_probs
from llmrec.progress import watch
from llmrec.run import Run
from llmrec.selection.validation import mean_policy_ndcg, validation_sample

NDCG = "eval_ndcg@10"
COLUMNS = {"item_loss": "item loss", "text_loss": "text loss", NDCG: "NDCG@10"}


def train_sft(run: Run) -> dict:
    """Trains the SFT adapter of a run, or goes on where it was interrupted; returns its metrics.

    Raises:
        RunError: the data has not been prepared.
    """
    run.require("data")
    run.begin("sft")
    data, section = load_data(run.path("data")), run.config.sft
    torch.manual_seed(run.config.seed)
    policy = RecPolicy.create(run.config, data)
    windows = training_windows(policy, data, run.config.catalogue.user_attributes, section, run.config.seed)
    trainer = RecSFTTrainer(policy, windows, training_arguments(section, run), section)
    sample = validation_sample(data, section.eval_users, run.config.seed)
    best = BestAdapter(trainer, Decisions.from_targets(data, sample, run.config.catalogue))
    with watch(trainer, run, "sft", COLUMNS):
        trainer.add_callback(best)
        checkpoint = newest_checkpoint(run.path("sft", "checkpoints"), TRAINER_STATE_NAME)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    best.restore()
    trainer.save_model(str(run.path("sft")))  # in all processes: with FSDP each holds a shard
    losses = [entry for entry in trainer.state.log_history if "item_loss" in entry]
    metrics = {"windows": len(windows), "steps": trainer.state.global_step, "validation": best.history, "log": losses}
    run.finish("sft", metrics)
    if trainer.args.should_save:
        shutil.rmtree(best.directory, ignore_errors=True)
    return metrics


def training_windows(
    policy: RecPolicy, data: InteractionData, attributes: list[str], section: SFTConfig, seed: int
) -> Dataset:
    """Windows of all epochs in the order of training: fresh cuts and fresh wording in every epoch.

    Each row is a window of the training part of one history: `profile, prior, items, completions`. The one completion
    recommends the item that followed, with a justification that is true of it.
    """
    generator = random.Random(seed)
    names = profile_texts(data.users, attributes)
    rows: list[dict] = []
    for _ in range(int(np.ceil(section.num_train_epochs))):
        epoch = []
        for user, history in enumerate(data.train_histories):
            for start, stop in _cut(len(history), policy.catalogue.max_history, generator):
                *shown, last = history[start:stop].tolist()
                segments = write(policy.facts, last, shown, generator)
                text = policy.prompts.justification(segments)
                completion = [*policy.vocabulary.sequences[last], *text, policy.prompts.end]
                prior = history[:start].tolist()
                epoch.append({"profile": names[user], "prior": prior, "items": shown, "completions": [completion]})
        rows += _batches_of_like_length(epoch, section.per_device_train_batch_size, generator)
    share = section.num_train_epochs / np.ceil(section.num_train_epochs)
    return Dataset.from_list(rows[: int(len(rows) * share)])


def _cut(length: int, width: int, generator: random.Random) -> list[tuple[int, int]]:
    """Cuts [0, length) into windows of `width` shown items and a last one to predict, at a random phase."""
    if length <= width + 1:
        return [(0, length)] if length else []
    bounds = [0, *range(generator.randint(2, width + 1), length, width + 1), length]
    return [(a, b) for a, b in zip(bounds, bounds[1:], strict=False) if b - a > 1]


def _batches_of_like_length(rows: list[dict], batch: int, generator: random.Random) -> list[dict]:
    """Shuffles rows so that those of one batch are of like length: less padding, still a random order."""
    generator.shuffle(rows)
    chunks = [sorted(rows[i : i + 16 * batch], key=lambda r: len(r["items"])) for i in range(0, len(rows), 16 * batch)]
    ordered = [row for chunk in chunks for row in chunk]
    batches = [ordered[i : i + batch] for i in range(0, len(ordered), batch)]
    generator.shuffle(batches)
    return [row for rows in batches for row in rows]


def training_arguments(section: SFTConfig, run: Run) -> TRLSFTConfig:
    """TRL's arguments for a section; one pass over the windows, which hold all epochs."""
    return TRLSFTConfig(
        output_dir=str(run.path("sft", "checkpoints")),
        num_train_epochs=1,
        learning_rate=section.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=section.warmup_ratio,  # below 1 it is a share of all steps
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
        loss_type="nll",  # ours replaces it; TRL's default would patch the head
        dataset_kwargs={"skip_prepare_dataset": True},
    )


class RecSFTTrainer(SFTTrainer):
    """TRL's SFT trainer with the masked loss over packed histories.

    Args:
        policy: trained in place.
        windows: rows as `training_windows` makes them, in the order of training.
        args: TRL's arguments.
        section: dropout and the weight of the text.
    """

    def __init__(self, policy: RecPolicy, windows: Dataset, args: TRLSFTConfig, section: SFTConfig):
        self.policy = policy
        self.section = section
        super().__init__(
            model=policy,
            args=args,
            train_dataset=windows,
            data_collator=self._collate,
            processing_class=policy.tokenizer,
        )
        if section.gradient_checkpointing:
            policy.model.gradient_checkpointing_enable({"use_reentrant": False})

    def _collate(self, rows: Sequence[dict]) -> dict:
        decisions = [Decision(row["profile"], row["prior"], row["items"]) for row in rows]
        return vars(pack(self.policy, decisions, [row["completions"] for row in rows]))

    def _get_train_sampler(self, *_) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # the rows are already in a random order, epoch by epoch

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        batch = PackedBatch(**inputs)
        hidden = model(*batch.inputs(), self.section.dropout)
        item_loss, text_loss = sft_losses(self.policy, batch, hidden)
        for name, value in (("item_loss", item_loss), ("text_loss", text_loss)):
            self._metrics["train"][name].append(value.item())
        return item_loss + self.section.text_weight * text_loss

    def _save(self, output_dir=None, state_dict=None) -> None:
        """The adapter, not the base, and in its own folder."""
        if self.args.should_save:  # with FSDP all processes come here, and one has gathered the weights
            self.policy.save_pretrained(f"{output_dir}/adapter", state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        self.policy.load_adapter_weights(f"{resume_from_checkpoint}/adapter")


class BestAdapter(TrainerCallback):
    """Looks at validation NDCG@10 during training and keeps the best adapter: small logs are soon learned by heart.

    Under FSDP no process holds the whole policy between steps; nothing is looked at, and the last adapter stays.

    Args:
        trainer: whose policy is looked at every `sft.eval_steps`, and after the last step.
        decisions: validation decisions with their targets.

    Attributes:
        history: what was seen, each `{step, eval_ndcg@10}`.
    """

    def __init__(self, trainer: RecSFTTrainer, decisions: Decisions):
        self.trainer = trainer
        self.decisions = decisions
        self.directory = Path(trainer.args.output_dir).parent / "best"
        self.history: list[dict] = []

    def on_train_begin(self, args, state, control, **kwargs):
        seen = read_json(self._record) if self._record.is_file() else []
        self.history = [entry for entry in seen if entry["step"] <= state.global_step]

    def on_step_end(self, args, state, control, **kwargs):
        steps = self.trainer.section.eval_steps
        every = max(1, round(steps if steps >= 1 else steps * state.max_steps))
        due = state.global_step % every == 0 or state.global_step == state.max_steps
        if due and not self.trainer.is_fsdp_enabled:
            self._look(state.global_step)

    def _look(self, step: int) -> None:
        policy = self.trainer.policy
        value = broadcast_object_list([mean_policy_ndcg(policy, self.decisions)])[0]
        self.trainer.log({NDCG: value})  # before training goes on: TRL counts it as evaluation
        policy.train()
        if value > max((entry[NDCG] for entry in self.history), default=-1.0) and self.trainer.args.should_save:
            policy.save_pretrained(self.directory / f"adapter-{step}")
        self.history.append({"step": step, NDCG: value})
        if self.trainer.args.should_save:
            write_json(self._record, self.history)

    def restore(self) -> None:
        """Puts the best adapter's weights into the policy, after training."""
        if self.history:
            best = max(self.history, key=lambda entry: entry[NDCG])
            self.trainer.accelerator.wait_for_everyone()
            self.trainer.policy.load_adapter_weights(self.directory / f"adapter-{best['step']}")

    @property
    def _record(self) -> Path:
        return self.directory / "validation.json"


def sft_losses(policy: RecPolicy, batch: PackedBatch, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean negative log-likelihood of the items and of the justifications, both under the mask.

    Args:
        batch: B windows with a completion each.
        hidden: of all tokens, [B, L, d].

    Returns:
        item loss a token (nats), text loss a token (nats).
    """
    scores = batch.score(policy, hidden)
    item, real = scores.region == ITEM, batch.completion_mask
    items = torch.cat([target_log_probs(policy, batch, hidden), scores.log_probs[real & item]])
    text = scores.log_probs[real & ~item]
    return -items.mean(), -text.mean()

"""TRL's SFT trainer with item and text losses under the policy's mask, and a callback that keeps the best adapter."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.sft_config import SFTConfig as TRLSFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from llmrec.config import SFTConfig
from llmrec.data.decision import Decision, Decisions
from llmrec.distributed import is_main_process
from llmrec.files import read_json, write_json
from llmrec.language.grammar import ITEM
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch, pack, target_log_probs
from llmrec.selection.best_adapter import BestAdapter, evaluation_due
from llmrec.sft.windows import Window
from llmrec.sharding import Shards, configure

NDCG = "eval_ndcg@10"


def sft_losses(policy: RecPolicy, batch: PackedBatch, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean negative log-likelihood of items and of justifications, both under the policy's mask.

    The item softmax runs over the items that may be recommended at each position, so every shown item is a training
    target too.

    Args:
        policy: gives the distributions.
        batch: B windows with one completion each.
        hidden: hidden states of all tokens, [B, L, d].

    Returns:
        item loss and text loss, both in nats a token.
    """
    scores = batch.score(policy, hidden)
    item_tokens = scores.region == ITEM
    real = batch.completion_mask
    items = torch.cat([target_log_probs(policy, batch, hidden), scores.log_probs[real & item_tokens]])
    text = scores.log_probs[real & ~item_tokens]
    return -items.mean(), -text.mean()


class RecSFTTrainer(SFTTrainer):
    """TRL's SFT trainer for a `RecPolicy` and packed windows.

    Args:
        policy: trained in place.
        windows: rows of `training_windows`, in training order.
        args: TRL's arguments.
        section: dropout, text weight and evaluation steps.
    """

    def __init__(self, policy: RecPolicy, windows: Dataset, args: TRLSFTConfig, section: SFTConfig):
        self.policy = policy
        self.section = section
        self.windows = windows
        super().__init__(
            model=policy,  # pyright: ignore[reportArgumentType]  # any nn.Module trains
            args=args,
            train_dataset=windows,
            data_collator=self._collate,
            processing_class=policy.tokenizer,
        )
        configure(self.accelerator, args.max_grad_norm)
        if section.gradient_checkpointing:
            policy.model.gradient_checkpointing_enable({"use_reentrant": False})

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Item loss plus weighted text loss of a batch; logs both."""
        batch = PackedBatch(**inputs)
        hidden = model(*batch.inputs(), self.section.dropout)
        item_loss, text_loss = sft_losses(self.policy, batch, hidden)
        self._metrics["train"]["item_loss"].append(item_loss.item())
        self._metrics["train"]["text_loss"].append(text_loss.item())
        return item_loss + self.section.text_weight * text_loss

    def _collate(self, rows: Sequence[Window]) -> dict[str, torch.Tensor]:
        decisions = [Decision(row["profile"], row["prior"], row["items"]) for row in rows]
        return vars(pack(self.policy, decisions, [row["completions"] for row in rows]))

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.windows)  # the rows are shuffled already, epoch by epoch

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the adapter only, in a folder of its own. All processes must call this."""
        weights = self.policy.adapter_weights()
        if is_main_process():
            self.policy.save_pretrained(f"{output_dir}/adapter", weights)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        self.policy.load_adapter_weights(f"{resume_from_checkpoint}/adapter")


class ValidationCallback(TrainerCallback):
    """Evaluates validation NDCG@10 every `sft.eval_steps` and after the last step, and keeps the best adapter.

    Small logs overfit quickly, so the last adapter is often not the best.

    Args:
        trainer: the trainer whose policy is evaluated.
        decisions: validation decisions with known targets.

    Attributes:
        best: the best adapter and the history of evaluations.
    """

    def __init__(self, trainer: RecSFTTrainer, decisions: Decisions):
        self.trainer = trainer
        self.best = BestAdapter(decisions, Path(str(trainer.args.output_dir)).parent / "best", NDCG)
        self.record = self.best.directory / "validation.json"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Reads the evaluations of an interrupted run, up to the checkpoint that it resumes from."""
        self.trainer.policy.shards = Shards(self.trainer.model_wrapped, self.trainer.policy.read_outside())
        entries = read_json(self.record) if self.record.is_file() else []
        self.best.history = [entry for entry in entries if entry["step"] <= state.global_step]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Evaluates if an evaluation is due."""
        step = state.global_step
        if not evaluation_due(step, state.max_steps, self.trainer.section.eval_steps):
            return
        metrics = self.best.evaluate(self.trainer.policy, step)
        self.trainer.log(metrics)  # while the policy is in evaluation mode: TRL counts it as an evaluation
        self.trainer.policy.train()
        if is_main_process():
            write_json(self.record, self.best.history)

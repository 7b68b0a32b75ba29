"""TRL's SFT trainer with item and text losses under the policy's mask, and a callback that keeps the best adapter."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.sft_config import SFTConfig as TRLSFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from llmrec.config import SFTConfig
from llmrec.data.decision import Decisions
from llmrec.distributed import is_main_process
from llmrec.files import read_json, write_json
from llmrec.language.grammar import ITEM
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import PackedBatch, pack, target_log_probs
from llmrec.selection.best_adapter import BestAdapter, evaluation_due
from llmrec.sft.windows import HistoryWindows, Window, decision_of
from llmrec.sharding import Shards, configure

NDCG = "eval_ndcg@10"
BEST = "best"  # folder of the best adapters during training
ROW = "row"  # column of the data set that TRL sees: numbers of windows
COUNTS = "counts"  # key of a collated batch: its item tokens and its text tokens, int64 [2]


def sft_losses(
    policy: RecPolicy, batch: PackedBatch, hidden: torch.Tensor, counts: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean negative log-likelihood of items and of justifications, both under the policy's mask.

    The item softmax runs over the items that may be recommended at each position, so every shown item is a training
    target too.

    Args:
        policy: gives the distributions.
        batch: B windows with one completion each.
        hidden: hidden states of all tokens, [B, L, d].
        counts: item tokens and text tokens of the optimizer step that the batch is a part of, [2]. None: of the batch.

    Returns:
        item loss and text loss, both in nats a token. The losses of the parts of a step add up to those of the step.
    """
    scores = batch.score(policy, hidden)
    item_tokens = scores.region == ITEM
    real = batch.completion_mask
    items = torch.cat([target_log_probs(policy, batch, hidden), scores.log_probs[real & item_tokens]])
    text = scores.log_probs[real & ~item_tokens]
    item_tokens_of_step, text_tokens_of_step = (len(items), len(text)) if counts is None else counts
    return -items.sum() / item_tokens_of_step, -text.sum() / text_tokens_of_step


class RecSFTTrainer(SFTTrainer):
    """TRL's SFT trainer for a `RecPolicy` and packed windows.

    Losses are means over the tokens of an optimizer step, however processes and forward passes share its windows.

    Args:
        policy: trained in place.
        windows: the windows, in training order.
        args: TRL's arguments.
        section: dropout, text weight and evaluation steps.
    """

    loss_is_scaled_for_ga = True  # transformers then does not divide the loss by the number of forward passes

    def __init__(self, policy: RecPolicy, windows: HistoryWindows, args: TRLSFTConfig, section: SFTConfig):
        self.policy = policy
        self.section = section
        self.windows = windows
        self._logged_means = 0  # means of losses since the last log, and the sums of this process's losses over them
        self._logged_losses = torch.zeros(2)
        super().__init__(
            model=policy,  # pyright: ignore[reportArgumentType]  # any nn.Module trains
            args=args,
            train_dataset=Dataset.from_dict({ROW: np.arange(len(windows), dtype=np.int32)}),  # TRL takes no other type
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
        """Item loss plus weighted text loss of a part of an optimizer step."""
        batch = PackedBatch(**{name: tensor for name, tensor in inputs.items() if name != COUNTS})
        hidden = model(*batch.inputs(), self.section.dropout)
        counts = inputs[COUNTS] if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        item_loss, text_loss = sft_losses(self.policy, batch, hidden, counts)
        self._logged_losses += torch.stack([item_loss, text_loss]).detach().cpu()
        # DDP takes the mean over processes, but the losses of their parts add up.
        return (item_loss + self.section.text_weight * text_loss) * self.accelerator.num_processes

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        """The parts of an optimizer step, and the numbers of its item tokens and text tokens over all processes."""
        parts, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._logged_means += 1
        counts = torch.stack([part[COUNTS] for part in parts]).sum(0).to(device)
        return parts, cast(torch.Tensor, self.accelerator.reduce(counts, "sum"))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean item loss and text loss of the steps since the last log."""
        if self.policy.training and self._logged_means:
            sums = cast(torch.Tensor, self.accelerator.reduce(self._logged_losses.to(self.args.device), "sum"))
            item_loss, text_loss = (sums / self._logged_means).tolist()
            logs |= {"item_loss": item_loss, "text_loss": text_loss}
            self._logged_losses.zero_()
            self._logged_means = 0
        super().log(logs, start_time)

    def _collate(self, numbers: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        return self.pack_windows([row for number in numbers for row in self.windows.of_row(number[ROW])])

    def pack_windows(self, rows: Sequence[Window]) -> dict[str, torch.Tensor]:
        """The windows as the tensors of a `PackedBatch`, and the `COUNTS` of their tokens."""
        completions = [row["completions"] for row in rows]
        batch = pack(self.policy, [decision_of(row, self.policy.repeats) for row in rows], completions)
        batch = batch.with_choices([row["learned"] for row in rows])
        recommended = [self.policy.prompts.parse(tokens).item for of_window in completions for tokens in of_window]
        item_tokens = sum(len(self.policy.vocabulary.sequences[item]) for item in recommended)
        counts = [len(batch.target) + item_tokens, int(batch.completion_mask.sum()) - item_tokens]
        return vars(batch) | {COUNTS: torch.tensor(counts)}

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(range(len(self.windows)))  # the rows are shuffled already, epoch by epoch

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
        self.best = BestAdapter(decisions, Path(str(trainer.args.output_dir)).parent / BEST, NDCG)
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

"""Trains a tiny policy with weights that the launcher shards; `test_sharded.py` compares it with one process.

accelerate launch --config_file configs/accelerate/fsdp2.yaml --num_processes 2 --mixed_precision no -m \
    tests.ppo.sharded BASE OUTPUT
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl.trainer.sft_config import SFTConfig as TRLSFTConfig

from llmrec.data.decision import Decision, Decisions
from llmrec.distributed import is_main_process, leave_processes
from llmrec.files import write_json
from llmrec.policy.model import RecPolicy
from llmrec.ppo.checkpoint import newest_checkpoint
from llmrec.ppo.trainer import RecPPOTrainer
from llmrec.sft.trainer import RecSFTTrainer, ValidationCallback
from llmrec.sft.windows import TrainingWindows
from llmrec.sharding import whole
from tests.conftest import make_config, make_data
from tests.fakes.sharding import shard_on_cpus
from tests.ppo import first_update
from tests.ppo.test_kill import build
from tests.ppo.test_trainer import PreferItem, make_trainer

PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
RUNS = ("gae", "micro")  # of `first_update`; "micro" learns items exactly, in several micro-batches
WHOLE = {"save_steps": 1, "eval_steps": 1, "ema_decay": 0.5, "ptx_coef": 0.5, "learning_rate": 3e-3,
         "total_episodes": 24}  # fmt: skip
INTERRUPTED = 2  # updates before the interruption
SFT_DECISIONS = [Decision("20", [], [0, 1], target=2), Decision("31", [2], [3, 4, 5], target=1)]


class Interruption(TrainerCallback):
    """Interrupts training after an update, before its checkpoint is written."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == INTERRUPTED:
            raise KeyboardInterrupt


def main(base: str, output: Path) -> None:
    """Writes metrics and weights of first updates, of a whole and of an interrupted PPO training, and of SFT."""
    torch.set_num_threads(1)
    for run in RUNS:
        take_first_update(base, output, run)
    for name in ("whole", "interrupted"):
        trainer = trainer_of(base, output / name)
        if name == "interrupted":
            trainer.add_callback(Interruption())
            try:
                trainer.train()
            except KeyboardInterrupt:
                trainer = trainer_of(base, output / name)
        train(trainer, output / name)
    fine_tune(base, output)


def trainer_of(base: str, folder: Path) -> RecPPOTrainer:
    """A PPO trainer with guard, weight average and checkpoints of every update."""
    unset_hf_deepspeed_config()  # transformers would shard the base while it is read
    trainer = build(base, folder, WHOLE)
    trainer.reward = PreferItem()
    return trainer


def take_first_update(base: str, output: Path, run: str) -> None:
    """Writes the metrics of one update, the weights after it, and how many weights this process holds in part."""
    unset_hf_deepspeed_config()
    trainer = make_trainer(base, make_data(), output / "checkpoints", **first_update.RUNS[run])
    trainer._begin()
    experience, metrics = trainer.collect(1)
    metrics = metrics | trainer.update(experience, 1)
    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = dict(model.named_parameters())
    shards = sum(
        isinstance(weight, DTensor) or weight.numel() < getattr(weight, "ds_numel", 0) for weight in weights.values()
    )
    trained = {name: whole(weight).contiguous() for name, weight in weights.items() if weight.requires_grad}
    name = f"{run}-{trainer.accelerator.process_index}"
    save_file(trained, output / f"{name}.safetensors")
    write_json(output / f"{name}.json", {"metrics": metrics, "shards": shards})
    trainer.accelerator.wait_for_everyone()


def train(trainer: RecPPOTrainer, folder: Path) -> None:
    """Trains from the newest checkpoint and writes the final adapter and the log."""
    trainer.train(resume_from_checkpoint=newest_checkpoint(folder / "checkpoints"))
    weights = trainer.policy.adapter_weights()
    if is_main_process():
        trainer.policy.save_pretrained(folder / "adapter", weights)
        write_json(folder / "log.json", trainer.state.log_history)
        write_json(folder / "guard.json", trainer.guard.report())
    trainer.accelerator.wait_for_everyone()


def fine_tune(base: str, output: Path) -> None:
    """Takes some steps of SFT with validation by beam search, and writes the best adapter and the losses."""
    config = make_config(base, "title", sft={"eval_steps": 2})
    data = make_data()
    torch.manual_seed(0)
    unset_hf_deepspeed_config()
    policy = RecPolicy.create(config, data)
    arguments = TRLSFTConfig(
        output_dir=str(output / "sft" / "checkpoints"), per_device_train_batch_size=4 // PROCESSES, max_steps=4,
        learning_rate=1e-2, logging_steps=1, save_steps=2, use_cpu=True, report_to="none", loss_type="nll",
        remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True}, gradient_checkpointing=False,
        disable_tqdm=True,
    )  # fmt: skip
    trainer = RecSFTTrainer(policy, TrainingWindows(policy, data, ["age"], config.sft, 0), arguments, config.sft)
    validation = ValidationCallback(trainer, Decisions.from_decisions(SFT_DECISIONS, max_history=3))
    trainer.add_callback(validation)
    trainer.train()
    validation.best.restore_best(policy)
    trainer.save_model(str(output / "sft"))
    if is_main_process():
        write_json(output / "sft" / "log.json", [entry for entry in trainer.state.log_history if "item_loss" in entry])
        write_json(output / "sft" / "validation.json", validation.best.history)


if __name__ == "__main__":
    shard_on_cpus()
    main(sys.argv[1], Path(sys.argv[2]))
    leave_processes()

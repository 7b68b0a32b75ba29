"""Checkpoints of PPO: adapter, critic, optimiser and scheduler; randomness needs none, see `RecPPOTrainer.rows_of`."""

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from llmrec.files import atomic_directory, read_json, write_json

if TYPE_CHECKING:
    from llmrec.ppo.trainer import RecPPOTrainer

KEPT = 2


def save_checkpoint(trainer: "RecPPOTrainer") -> None:
    """Writes `checkpoint-<step>`, all or nothing, and removes all but the newest."""
    if not trainer.accelerator.is_main_process:
        return
    root = Path(trainer.args.output_dir)
    with atomic_directory(root / f"checkpoint-{trainer.state.global_step}") as folder:
        trainer.policy.save_pretrained(folder / "adapter")
        save_file(trainer.value_model.state_dict(), folder / "critic.safetensors")
        for name, part in (("optimizer.pt", trainer.optimizer), ("scheduler.pt", trainer.lr_scheduler)):
            with open(folder / name, "wb") as file:  # an open file, so that a full disk is an OSError
                torch.save(part.state_dict(), file)
        progress = {"global_step": trainer.state.global_step, "episode": trainer.state.episode}
        write_json(folder / "progress.json", progress | {"log_history": trainer.state.log_history})
    for old in checkpoints(root)[:-KEPT]:
        shutil.rmtree(old)


def load_checkpoint(trainer: "RecPPOTrainer", folder: str | Path) -> None:
    """Puts a checkpoint's state into a trainer."""
    folder = Path(folder)
    trainer.policy.load_adapter_weights(folder / "adapter")
    trainer.value_model.load_state_dict(load_file(folder / "critic.safetensors"))
    trainer.optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
    trainer.lr_scheduler.load_state_dict(torch.load(folder / "scheduler.pt", weights_only=True))
    for name, value in read_json(folder / "progress.json").items():
        setattr(trainer.state, name, value)
    if trainer.guard is not None:
        trainer.guard.load(trainer.state.global_step)


def checkpoints(root: Path) -> list[Path]:
    """Complete checkpoints in a directory, oldest first."""
    found = {int(m.group(1)): p for p in root.glob("checkpoint-*") if (m := re.fullmatch(r"checkpoint-(\d+)", p.name))}
    return [found[step] for step in sorted(found)]

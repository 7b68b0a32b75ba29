"""Checkpoints of PPO: adapter, its average, critic, optimiser, scheduler, KL coefficient, and what was logged.

Prompts and randomness need no state: both are functions of the number of the update, see `RecPPOTrainer.rows_of`.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from llmrec import files
from llmrec.distributed import is_main_process
from llmrec.files import atomic_directory, checkpoints_by_step, file_sizes, read_json, write_json

if TYPE_CHECKING:
    from llmrec.ppo.trainer import RecPPOTrainer

PROGRESS = "progress.json"


def save_checkpoint(trainer: "RecPPOTrainer") -> None:
    """Writes `checkpoint-<step>`, all or nothing, and removes all but the newest.

    Later checkpoints are damaged ones that `newest_checkpoint` passed over: they do not count among the newest.
    """
    if not is_main_process():
        return
    root = Path(trainer.args.output_dir)
    with atomic_directory(root / f"checkpoint-{trainer.state.global_step}") as folder:
        trainer.policy.save_pretrained(folder / "adapter")
        save_file(trainer.value_model.state_dict(), folder / "critic.safetensors")
        if trainer.average is not None:
            trainer.average.save(folder)
        for name, part in (("optimizer.pt", trainer.optimizer), ("scheduler.pt", trainer.lr_scheduler)):
            with open(folder / name, "wb") as file:  # an open file, so that a full disk is an OSError
                torch.save(part.state_dict(), file)
        state = {name: getattr(trainer.state, name) for name in ("global_step", "episode", "log_history")}
        ours = {name: getattr(trainer, name) for name in ("kl_scale", "events")}
        guard = trainer.guard.history if trainer.guard is not None else []
        write_json(
            folder / PROGRESS, {"state": state, "trainer": ours, "guard": guard, "files": file_sizes(folder, PROGRESS)}
        )
    so_far = [path for step, path in checkpoints_by_step(root) if step <= trainer.state.global_step]
    for old in so_far[: -trainer.section.save_total_limit]:
        shutil.rmtree(old)


def load_checkpoint(trainer: "RecPPOTrainer", folder: str | Path) -> None:
    """Puts a checkpoint's state into a trainer."""
    folder = Path(folder)
    trainer.policy.load_adapter_weights(folder / "adapter")
    trainer.value_model.load_state_dict(load_file(folder / "critic.safetensors"))
    if trainer.average is not None:
        trainer.average.load(folder)
    trainer.optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
    trainer.lr_scheduler.load_state_dict(torch.load(folder / "scheduler.pt", weights_only=True))
    progress = read_json(folder / PROGRESS)
    for target, values in ((trainer.state, progress["state"]), (trainer, progress["trainer"])):
        for name, value in values.items():
            setattr(target, name, value)
    if trainer.guard is not None:
        trainer.guard.history = progress["guard"]


def newest_checkpoint(root: Path) -> Path | None:
    """The newest complete checkpoint of PPO; see `llmrec.files.newest_checkpoint`."""
    return files.newest_checkpoint(root, PROGRESS)

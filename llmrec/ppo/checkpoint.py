"""Checkpoints of PPO: adapter, its average, critic, optimiser, scheduler, KL coefficient, and what was logged.

Prompts and randomness need no state: both are functions of the number of the update, see `RecPPOTrainer.rows_of`.
"""

import re
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file

from llmrec.files import atomic_directory, read_json, write_json

if TYPE_CHECKING:
    from llmrec.ppo.trainer import RecPPOTrainer

PROGRESS = "progress.json"


def save_checkpoint(trainer: "RecPPOTrainer") -> None:
    """Writes `checkpoint-<step>`, all or nothing, and removes all but the newest.

    Later checkpoints are damaged ones that `newest_checkpoint` passed over: they do not count among the newest.
    """
    if not trainer.accelerator.is_main_process:
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
        write_json(folder / PROGRESS, {"state": state, "trainer": ours, "guard": guard, "files": _sizes(folder)})
    so_far = [path for step, path in _by_step(root) if step <= trainer.state.global_step]
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
    """The newest complete checkpoint; warns of each that is newer but incomplete."""
    for leftover in sorted(root.glob(".checkpoint-*")) if PartialState().is_main_process else ():
        warnings.warn(f"{leftover} was being written when a run ended; it is removed.", stacklevel=2)
        shutil.rmtree(leftover, ignore_errors=True)
    for _, folder in reversed(_by_step(root)):
        try:
            if read_json(folder / PROGRESS)["files"] == _sizes(folder):
                return folder
        except (OSError, ValueError, KeyError, TypeError):
            pass
        warnings.warn(f"{folder} is incomplete and is ignored; training goes on from an older one.", stacklevel=2)
    return None


def _by_step(root: Path) -> list[tuple[int, Path]]:
    """Steps and checkpoints in a directory, oldest first."""
    found = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in root.glob("checkpoint-*"))
    return sorted((int(match.group(1)), path) for match, path in found if match)


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file below a folder but the list itself."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != PROGRESS)
    return {str(p.relative_to(folder)): p.stat().st_size for p in files}

"""Checkpoints of PPO: adapter, weight average, critic, optimizer, scheduler, KL coefficient, logs.

Prompts and random numbers need no state: both are functions of the number of the update, see `ppo.rollout`.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from llmrec import files
from llmrec.config.batch import batch_record, resumed_batch
from llmrec.distributed import is_main_process
from llmrec.files import atomic_directory, checkpoints_by_step, file_sizes, read_json, write_json
from llmrec.sharding import assign, load_optimizer_state, optimizer_state, whole

if TYPE_CHECKING:
    from llmrec.ppo.trainer import RecPPOTrainer

PROGRESS = "progress.json"
STATE_FIELDS = ("global_step", "episode", "log_history")
TRAINER_FIELDS = ("kl_scale", "events", "text")


def save_checkpoint(trainer: "RecPPOTrainer") -> None:
    """Writes `checkpoint-<step>` atomically and removes all but the newest `ppo.save_total_limit` checkpoints.

    All processes must call this. Tensors are saved whole, so that a run can resume under another kind of sharding.
    Checkpoints of later steps are damaged: the run resumed from an older one. They do not count among the newest.
    """
    adapter = trainer.policy.adapter_weights()
    critic = {name: whole(weight) for name, weight in trainer.critic.named_parameters()}
    optimizer = optimizer_state(trainer.optimizer)
    if not is_main_process():
        return
    root = Path(str(trainer.args.output_dir))
    with atomic_directory(root / f"checkpoint-{trainer.state.global_step}") as folder:
        trainer.policy.save_pretrained(folder / "adapter", adapter)
        save_file(critic, folder / "critic.safetensors")
        if trainer.average is not None:
            trainer.average.save(folder)
        _save_state(optimizer, folder / "optimizer.pt")
        _save_state(trainer.lr_scheduler.state_dict(), folder / "scheduler.pt")
        progress = {
            "state": {name: getattr(trainer.state, name) for name in STATE_FIELDS},
            "trainer": {name: getattr(trainer, name) for name in TRAINER_FIELDS},
            "batch": batch_record(trainer.rollouts.episodes),
            "guard": trainer.guard.history if trainer.guard is not None else [],
            "files": file_sizes(folder, PROGRESS),
        }
        write_json(folder / PROGRESS, progress)
    earlier = [path for step, path in checkpoints_by_step(root) if step <= trainer.state.global_step]
    for old in earlier[: -trainer.section.save_total_limit]:
        shutil.rmtree(old)


def load_checkpoint(trainer: "RecPPOTrainer", folder: str | Path) -> list[str]:
    """Restores the state of a trainer from a checkpoint, which any number of processes may have written.

    Returns:
        a sentence if their number has changed, else nothing.

    Raises:
        RunError: the checkpoint was written with another batch.
    """
    folder = Path(folder)
    progress = read_json(folder / PROGRESS)
    state = progress["state"]
    batch = progress.get("batch", {"batch_size": state["episode"] // max(1, state["global_step"])})
    notices = resumed_batch("ppo.batch_size", trainer.rollouts.episodes, batch, folder)
    trainer.policy.load_adapter_weights(folder / "adapter")
    critic = load_file(folder / "critic.safetensors")
    for name, weight in trainer.critic.named_parameters():
        assign(weight, critic[name])
    if trainer.average is not None:
        trainer.average.load(folder)
    load_optimizer_state(trainer.optimizer, torch.load(folder / "optimizer.pt", weights_only=True))
    trainer.lr_scheduler.load_state_dict(torch.load(folder / "scheduler.pt", weights_only=True))
    for name, value in state.items():
        setattr(trainer.state, name, value)
    for name, value in progress["trainer"].items():
        setattr(trainer, name, value)
    if trainer.guard is not None:
        trainer.guard.resume(progress["guard"])
    return notices


def newest_checkpoint(root: Path) -> Path | None:
    """The newest complete checkpoint of PPO; see `llmrec.files.newest_checkpoint`."""
    return files.newest_checkpoint(root, PROGRESS)


def _save_state(state: dict[str, Any], path: Path) -> None:
    with open(path, "wb") as file:  # with an open file, a full disk raises OSError
        torch.save(state, file)

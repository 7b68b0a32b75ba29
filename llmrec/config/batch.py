"""How the processes of a run share a global batch, so that the number of updates does not depend on them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec.config.ppo import PPOConfig
from llmrec.config.reward import TextRewardConfig
from llmrec.config.sft import SFTConfig
from llmrec.distributed import num_processes
from llmrec.errors import ConfigError, RunError

FEWEST_UPDATES = 20  # below, warm-up, schedule and weight average have no effect, and few evaluations are made


@dataclass(frozen=True)
class BatchShare:
    """A process's share of an optimizer step.

    Attributes:
        forward: rows of one forward pass.
        passes: forward passes of the step; their gradients are accumulated.
    """

    forward: int
    passes: int


def share_batch(key: str, rows: int, processes: int, most: int, together: int = 1) -> BatchShare:
    """Shares the rows of an optimizer step evenly, in as few forward passes as fit.

    Args:
        key: config key of the batch, for the error.
        rows: rows of the step over all processes, a multiple of `together`.
        processes: number of processes.
        most: largest number of rows in one forward pass, at least `together`.
        together: rows that stay in one forward pass.

    Raises:
        ConfigError: the processes cannot have equal shares.
    """
    groups = rows // together
    if groups % processes:
        sizes = ", ".join(str(size) for size in range(1, groups + 1) if groups % size == 0)
        raise ConfigError(
            f"`{key}`: {processes} processes cannot share the {groups} prompts of an optimizer step evenly. Numbers of "
            f"processes that can: {sizes}. Launch one of them, or change `{key}`."
        )
    local = groups // processes
    forward = max(size for size in range(1, max(1, most // together) + 1) if local % size == 0)
    return BatchShare(forward=forward * together, passes=local // forward)


def sft_share(section: SFTConfig) -> BatchShare:
    """This process's share of an optimizer step of SFT, in windows."""
    return share_batch("sft.batch_size", section.batch_size, num_processes(), section.per_device_train_batch_size)


def ppo_share(section: PPOConfig) -> BatchShare:
    """This process's share of an optimizer step of PPO, in episodes. An update has several steps."""
    rows = section.batch_size // section.num_mini_batches
    most = section.per_device_train_batch_size
    return share_batch("ppo.batch_size", rows, num_processes(), most, section.num_generations)


def text_reward_share(section: TextRewardConfig) -> BatchShare:
    """This process's share of an optimizer step of the text reward model, in pairs."""
    return share_batch("reward.text.batch_size", section.batch_size, num_processes(), section.batch_size)


def few_updates(updates: int, batch_key: str, length_key: str) -> list[str]:
    """A warning if a training has fewer than `FEWEST_UPDATES` updates, else nothing."""
    if updates >= FEWEST_UPDATES:
        return []
    return [
        f"few updates: {updates} in the whole training, expected at least {FEWEST_UPDATES}. Raise `{length_key}` or "
        f"lower `{batch_key}`"
    ]


def batch_record(batch_size: int) -> dict[str, int]:
    """What checkpoints hold of the batch: its size, and the number of processes that share it."""
    return {"batch_size": batch_size, "processes": num_processes()}


def resumed_batch(key: str, batch_size: int, found: dict[str, Any], checkpoint: Path) -> list[str]:
    """Checks the batch of a checkpoint that training resumes from.

    Training continues at the same update for any number of processes, because they share one global batch.

    Args:
        key: config key of the batch.
        batch_size: the batch of the config.
        found: the `batch_record` of the checkpoint. Checkpoints of earlier versions lack the number of processes.
        checkpoint: the checkpoint.

    Returns:
        a sentence if the number of processes has changed, else nothing.

    Raises:
        RunError: the checkpoint was written with another batch, so its updates are not those of this config.
    """
    if found["batch_size"] != batch_size:
        raise RunError(
            f"{checkpoint} was written with batches of {found['batch_size']}, but `{key}` is {batch_size}: its updates "
            f"are not those of this config. Set `{key}` to {found['batch_size']} under another `name`, or delete "
            f"{checkpoint.parent} to train from the start."
        )
    processes = found.get("processes", num_processes())
    if processes == num_processes():
        return []
    return [f"resumed by {num_processes()} processes from a checkpoint of {processes}; they share the same batches"]

"""Tells a process its device, its place among all processes, which part of the work is its own, and the precision."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    import numpy as np
    import torch

PRECISION_VARIABLE = "ACCELERATE_MIXED_PRECISION"  # set by `accelerate launch --mixed_precision`
T = TypeVar("T")


def is_main_process() -> bool:
    """Whether this process writes files and prints.

    True for the first process of `accelerate launch` or `torchrun`, and for a process that was started alone.
    """
    return os.environ.get("RANK", "0") == "0"


def num_processes() -> int:
    """Number of processes that `accelerate launch` or `torchrun` started, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_device() -> "torch.device":
    """The device on which this process trains, evaluates and recommends.

    It is the GPU that `accelerate` gives the process, or the CPU if there is none. In launched processes the first call
    connects them.
    """
    import torch  # takes seconds, and `is_main_process` does not need it
    from accelerate import PartialState

    return cast("torch.device", PartialState(cpu=not torch.cuda.is_available()).device)


def leave_processes() -> None:
    """Ends the connections to the other processes, once all of them are here. Every process must call it at its end.

    A process that ends with open connections may abort: gloo's threads still run while the interpreter goes.
    """
    import torch
    from accelerate import PartialState

    if torch.distributed.is_initialized():
        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()


def own_rows(count: int) -> "np.ndarray":
    """The rows that this process computes, out of `count` rows that all processes share.

    All processes have equally many, so that they make equally many forward passes. Behind the last row it is repeated.

    Returns:
        consecutive row numbers, int64.
    """
    import numpy as np

    size = -(-count // num_processes())
    first = size * int(os.environ.get("RANK", "0"))
    return np.minimum(np.arange(first, first + size), count - 1)


def gathered(own: Sequence[T], count: int) -> list[T]:
    """What all processes computed for their `own_rows`, in the order of the rows. Every process must call it.

    Args:
        own: one object for each row of this process.
        count: number of rows.
    """
    from accelerate.utils import gather_object

    own_device()  # connects the processes
    return list(gather_object(list(own)))[:count]


def mixed_precision() -> str:
    """The precision that training will use: `no`, `bf16` or `fp16`.

    It is what `accelerate launch` was given. Without a launcher it is `bf16` on a GPU that supports it, else `no`.
    """
    import torch  # takes seconds, and `is_main_process` does not need it

    supported = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return os.environ.get(PRECISION_VARIABLE, "bf16" if supported else "no")


def settle_mixed_precision() -> str:
    """Returns `mixed_precision()` and writes it into the environment.

    TRL's PPO trainer makes an `Accelerator` that reads the environment only: `PPOConfig(bf16=True)` has no effect.
    """
    return os.environ.setdefault(PRECISION_VARIABLE, mixed_precision())

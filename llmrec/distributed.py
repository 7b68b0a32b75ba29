"""Tells a process whether it is the main process, and which precision training uses."""

import os

PRECISION_VARIABLE = "ACCELERATE_MIXED_PRECISION"  # set by `accelerate launch --mixed_precision`


def is_main_process() -> bool:
    """Whether this process writes files and prints.

    True for the first process of `accelerate launch` or `torchrun`, and for a process that was started alone.
    """
    return os.environ.get("RANK", "0") == "0"


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

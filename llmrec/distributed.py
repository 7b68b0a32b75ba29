"""In which precision training runs: as `accelerate launch` was told, and without it in bf16 where the GPU can."""

import os

import torch

VARIABLE = "ACCELERATE_MIXED_PRECISION"  # what `accelerate launch --mixed_precision` sets


def mixed_precision() -> str:
    """`no`, `bf16` or `fp16`, which is also left in the environment.

    TRL's PPO trainer makes an `Accelerator` that reads nothing but the environment: `PPOConfig(bf16=True)` alone
    changes nothing.
    """
    able = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return os.environ.setdefault(VARIABLE, "bf16" if able else "no")

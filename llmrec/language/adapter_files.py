"""The weight file of a LoRA adapter, as peft writes it: its name and the shapes that it holds."""

import filecmp
from pathlib import Path

from safetensors import SafetensorError, safe_open

from llmrec.errors import ModelError

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def adapter_shapes(directory: Path) -> dict[str, list[int]]:
    """Reads the shape of every weight of an adapter, without the weights.

    peft would load a pickle if the safetensors file were missing, so this check comes before peft.

    Args:
        directory: directory of the adapter.

    Returns:
        shape by name of the weight.

    Raises:
        ModelError: the safetensors file is missing or unreadable.
    """
    path = directory / ADAPTER_WEIGHTS
    if not path.is_file():
        raise ModelError(f"{path} is missing: weights are read from safetensors only, never from a pickle (.bin, .pt).")
    try:
        with safe_open(path, framework="pt") as weights:
            return {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}. Copy or train it again.") from None


def same_weights(one: Path, two: Path) -> bool:
    """Whether the weights of two adapters are equal, by the bytes of their files."""
    return filecmp.cmp(one / ADAPTER_WEIGHTS, two / ADAPTER_WEIGHTS, shallow=False)

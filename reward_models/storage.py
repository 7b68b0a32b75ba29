"""Safetensors in and out, with errors that say which file is wrong and how to mend it."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmrec.errors import ModelError
from llmrec.files import read_json, write_with

MEND = "Run the reward stage again, or point to a directory that holds a reward model."


def fingerprint(item_ids: Iterable[str]) -> str:
    """SHA-256 of the item ids in catalogue order: where it is equal, every index is the same item."""
    return hashlib.sha256(json.dumps([str(item) for item in item_ids]).encode()).hexdigest()


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes tensors atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_with(path, lambda temporary: save_file(tensors, temporary))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads tensors.

    Raises:
        ModelError: no such file, or it is truncated or not safetensors.
    """
    if not path.is_file():
        raise ModelError(f"There is no {path}. {MEND}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or not a safetensors file ({error}). {MEND}") from None


def load_state(module: nn.Module, path: Path) -> None:
    """Fills a module from a file whose names and shapes must be exactly the module's.

    Raises:
        ModelError: as `load_tensors`, or another name or shape.
    """
    found, expected = load_tensors(path), module.state_dict()
    if wrong := sorted(found.keys() ^ expected.keys()):
        raise ModelError(f"{path} does not match its config: it lacks or adds {', '.join(wrong[:5])}. {MEND}")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise ModelError(
                f"{path} does not match its config: {name} has shape {list(found[name].shape)}, "
                f"expected {list(tensor.shape)}. {MEND}"
            )
        if not found[name].isfinite().all():
            raise ModelError(f"{path} holds numbers that are not finite in {name}. {MEND}")
    module.load_state_dict(found)


def load_config(path: Path, family: str) -> dict[str, Any]:
    """Reads a config whose `model_type` must be `family`; the key is taken out.

    Raises:
        ModelError: no such file, not JSON, or another family.
    """
    if not path.is_file():
        raise ModelError(f"There is no {path}. {MEND}")
    try:
        values = read_json(path)
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} is not readable as JSON ({error}). {MEND}") from None
    found = values.pop("model_type", None) if isinstance(values, dict) else None
    if found != family:
        raise ModelError(f"{path} describes a model of type {found!r}, expected {family!r}. {MEND}")
    return values


def check_catalogue(path: Path, num_items: int, items_sha256: str, item_ids: Iterable[str] | None) -> None:
    """Compares the catalogue a model was trained on with `item_ids`; None checks nothing.

    Raises:
        ModelError: another number of items, or other ids or another order.
    """
    if item_ids is None:
        return
    item_ids = list(item_ids)
    if len(item_ids) != num_items:
        raise ModelError(
            f"The reward model in {path} knows {num_items} items, the catalogue has {len(item_ids)}. {MEND}"
        )
    if items_sha256 != fingerprint(item_ids):
        raise ModelError(
            f"The reward model in {path} was trained on other items, or on these in another order, "
            f"although the number ({num_items}) is the same. {MEND}"
        )

"""Saves reward models as a JSON config and safetensors weights, and loads them with checks of both."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmrec.distributed import own_device
from llmrec.errors import ModelError
from llmrec.files import read_json, write_json, write_with

FIX_HINT = "Run the reward stage again, or point to a directory that holds a reward model."


def catalogue_hash(item_ids: Iterable[str]) -> str:
    """SHA-256 of the item ids in catalogue order. Equal hashes mean that every index stands for the same item."""
    return hashlib.sha256(json.dumps([str(item) for item in item_ids]).encode()).hexdigest()


class SavedModel(nn.Module):
    """Mixin of models that are saved as one JSON config and one safetensors file, possibly with parts in other files.

    A subclass has a `config` with `num_items` and `items_sha256`, sets the class attributes, and implements `_build`.

    Attributes:
        FAMILY: value of `model_type` in the config file.
        CONFIG_FILE: name of the config file.
        WEIGHTS_FILE: name of the weight file.
    """

    FAMILY: ClassVar[str]
    CONFIG_FILE: ClassVar[str] = "config.json"
    WEIGHTS_FILE: ClassVar[str] = "model.safetensors"
    config: Any

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes config and weights into `directory`; other files there stay.

        Raises:
            UserError: the disk is full or the directory is not writable.
        """
        directory = Path(directory)
        self._save_parts(directory)
        save_tensors(directory / self.WEIGHTS_FILE, self._own_state())
        write_json(directory / self.CONFIG_FILE, {"model_type": self.FAMILY, **self._config_values()})

    @classmethod
    def from_pretrained(cls, directory: str | Path, item_ids: Iterable[str] | None = None) -> Self:
        """Loads what `save_pretrained` wrote, in eval mode and on the device of this process.

        Args:
            directory: directory of the files, usually the run's `reward/`.
            item_ids: item ids of the catalogue. If given, the model must have been trained on exactly these.

        Raises:
            ModelError: a file is missing, damaged or of another model, or the catalogue is another one.
        """
        directory = Path(directory)
        item_ids = None if item_ids is None else list(item_ids)
        path = directory / cls.CONFIG_FILE
        values = load_config(path, cls.FAMILY)
        try:
            model = cls._build(values, directory, item_ids)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"{path} does not describe a model of type {cls.FAMILY!r} ({error}). {FIX_HINT}") from None
        check_catalogue(directory, model.config.num_items, model.config.items_sha256, item_ids)
        model.load_state_dict(read_state(directory / cls.WEIGHTS_FILE, model._own_state()), strict=False)
        return model.eval().to(own_device())

    @classmethod
    def _build(cls, values: dict[str, Any], directory: Path, item_ids: list[str] | None) -> Self:
        """Makes the model that the config file describes; `from_pretrained` fills in the weights.

        Raises:
            TypeError, ValueError: the values describe no model.
        """
        raise NotImplementedError

    def _config_values(self) -> dict[str, Any]:
        """Content of the config file."""
        return asdict(self.config)

    def _own_state(self) -> dict[str, Tensor]:
        """Content of the weight file."""
        return self.state_dict()

    def _save_parts(self, directory: Path) -> None:
        """Saves parts that have files of their own."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors atomically."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_with(path, lambda temporary: save_file(on_cpu, temporary))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads tensors.

    Raises:
        ModelError: the file is missing, truncated or not safetensors.
    """
    if not path.is_file():
        raise ModelError(f"There is no {path}. {FIX_HINT}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or not a safetensors file ({error}). {FIX_HINT}") from None


def read_state(
    path: Path, expected: Mapping[str, Tensor], former_names: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """Reads tensors that must have exactly the names and shapes of `expected`.

    Args:
        path: the file.
        expected: tensors by name.
        former_names: name in files of earlier versions to today's name.

    Raises:
        ModelError: the file cannot be read, a name or shape differs, or a number is not finite.
    """
    former_names = former_names or {}
    found = {former_names.get(name, name): tensor for name, tensor in load_tensors(path).items()}
    if wrong := sorted(found.keys() ^ expected.keys()):
        raise ModelError(f"{path} does not match its config: it lacks or adds {', '.join(wrong[:5])}. {FIX_HINT}")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise ModelError(
                f"{path} does not match its config: {name} has shape {list(found[name].shape)}, "
                f"expected {list(tensor.shape)}. {FIX_HINT}"
            )
        if not found[name].isfinite().all():
            raise ModelError(f"{path} holds numbers that are not finite in {name}. {FIX_HINT}")
    return found


def load_config(path: Path, family: str) -> dict[str, Any]:
    """Reads a config file and removes `model_type`, which must be `family`.

    Raises:
        ModelError: the file is missing, is not JSON, or describes another family.
    """
    if not path.is_file():
        raise ModelError(f"There is no {path}. {FIX_HINT}")
    try:
        values = read_json(path)
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} is not readable as JSON ({error}). {FIX_HINT}") from None
    found = values.pop("model_type", None) if isinstance(values, dict) else None
    if found != family:
        raise ModelError(f"{path} describes a model of type {found!r}, expected {family!r}. {FIX_HINT}")
    return values


def check_catalogue(path: Path, num_items: int, items_sha256: str, item_ids: Iterable[str] | None) -> None:
    """Checks that a model was trained on the catalogue `item_ids`; None checks nothing.

    Raises:
        ModelError: the number of items, the ids or their order differ.
    """
    if item_ids is None:
        return
    item_ids = list(item_ids)
    if len(item_ids) != num_items:
        raise ModelError(
            f"The reward model in {path} has {num_items} items, the catalogue has {len(item_ids)}. {FIX_HINT}"
        )
    if items_sha256 != catalogue_hash(item_ids):
        raise ModelError(
            f"The reward model in {path} was trained on other items, or on these in another order, "
            f"although the number ({num_items}) is the same. {FIX_HINT}"
        )

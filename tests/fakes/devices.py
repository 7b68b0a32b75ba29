"""Stand-ins for a GPU: tensors that claim to lie on one, and a count of the operations that would wait for one."""

import types
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")
FAKE_GPU = "meta"  # PyTorch for CPUs refuses tensors on `cuda`, even without values

# Operations whose result, or the shape of it, must be known on the host.
READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal"}


class HostReads(TorchDispatchMode):
    """Counts the operations that would make the host wait for an accelerator, by name.

    Attributes:
        counts: number of calls of each operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        by_counts = name == "repeat_interleave" and func._overloadname == "Tensor"
        if name in READS or by_mask or by_counts:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def fake_gpu() -> Generator[None]:
    """Inside the `with` block tensors have shapes and devices, but no values.

    An operation on tensors of two devices raises an error. So does one that needs a value on the host. The stand-in has
    no automatic mixed precision.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), patch("torch.autocast", lambda *_, **__: nullcontext()):
        yield


def on_gpu(value: T) -> T:
    """The tensor, or the list or record of tensors, on the fake GPU. A module changes in place, as with `to`."""
    if isinstance(value, nn.Module):
        for module in value.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(on_gpu(parameter), parameter.requires_grad)
            for name, buffer in module._buffers.items():
                module._buffers[name] = on_gpu(buffer)
        return value
    if isinstance(value, torch.Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device=FAKE_GPU)  # type: ignore[return-value]
    if isinstance(value, list):
        return [on_gpu(one) for one in value]  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{field.name: on_gpu(getattr(value, field.name)) for field in fields(value)})
    return value


def tensors_of(root: object, skip: tuple[object, ...] = ()) -> dict[str, torch.Tensor]:
    """Every tensor that can be reached from an object through attributes, containers and closures, by its path."""
    found: dict[str, torch.Tensor] = {}
    seen = {id(one) for one in skip}
    todo: list[tuple[str, object]] = [("", root)]
    while todo:
        path, value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            found[path] = value
        elif isinstance(value, dict):
            todo += [(f"{path}[{key!r}]", one) for key, one in value.items()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            todo += [(f"{path}[{number}]", one) for number, one in enumerate(value)]
        elif isinstance(value, types.MethodType):
            todo.append((f"{path}.__self__", value.__self__))
        elif type(value).__module__.split(".")[0] in ("llmrec", "reward_models", "peft", "torch", "transformers"):
            todo += [(f"{path}.{name}", one) for name, one in getattr(value, "__dict__", {}).items()]
    return found

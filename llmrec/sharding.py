"""Weights that FSDP2 or DeepSpeed shards over processes. Only this module knows how.

The layers of a base gather their own weights whenever they run. Two things need care:

- Code that reads weights by itself (embeddings, item rows, the critic) needs them whole. FSDP2 gathers them for the
  wrapped network's forward pass and inside `Shards.gathered`. Under ZeRO-3 they stay whole on every process.
- Gathering is a collective operation. All processes must run the layers equally often; see `Shards.any_process`.
"""

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

from llmrec.errors import ConfigError


def check_launch(quantization: str | None) -> None:
    """Checks that the launcher's way of sharding can train the configured base.

    Args:
        quantization: `model.quantization`.

    Raises:
        ConfigError: FSDP is version 1, or a quantized base would be sharded.
    """
    fsdp = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if fsdp and os.environ.get("FSDP_VERSION", "1") != "2":
        raise ConfigError(
            "accelerate was launched with FSDP version 1, which cannot shard an adapter on a frozen base as llmrec "
            "needs it: set `fsdp_version: 2`, as configs/accelerate/fsdp2.yaml does."
        )
    zero3 = (
        os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
        and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2") == "3"
    )
    if quantization is not None and (fsdp or zero3):
        launcher = "FSDP" if fsdp else "ZeRO-3"
        raise ConfigError(
            f"model.quantization is `{quantization}`, but {launcher} shards the weights of the base, and quantized "
            "weights cannot be sharded: remove model.quantization, or launch with configs/accelerate/ddp.yaml."
        )


def configure(accelerator: Accelerator, max_grad_norm: float) -> None:
    """Settings that accelerate does not take from its config file. Call it before `accelerator.prepare`.

    Args:
        accelerator: changed in place.
        max_grad_norm: gradient norm to which DeepSpeed clips.
    """
    fsdp = accelerator.state.fsdp_plugin if accelerator.is_fsdp2 else None
    if fsdp is not None and fsdp.mixed_precision_policy is not None:
        # accelerate would also reduce gradients and return log-probabilities in bf16.
        precision = MixedPrecisionPolicy(fsdp.mixed_precision_policy.param_dtype, reduce_dtype=torch.float32)
        fsdp.mixed_precision_policy = precision
    deepspeed = getattr(accelerator.state, "deepspeed_plugin", None)
    if deepspeed is not None:
        deepspeed.deepspeed_config["gradient_clipping"] = max_grad_norm


def set_micro_batches(accelerator: Accelerator, network: nn.Module, count: int) -> None:
    """Sets how many micro-batches an optimizer step has, after `accelerator.prepare` has returned `network`.

    `accelerator.backward` divides the loss by this number.
    """
    accelerator.gradient_accumulation_steps = count
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        engine: Any = network
        engine.set_train_batch_size(count * engine.train_micro_batch_size_per_gpu() * accelerator.num_processes)


class Shards:
    """How the weights of a network are spread over processes.

    Args:
        network: what `accelerator.prepare` returned. None: nothing is sharded.
        read_outside: weights that code reads by itself. Under ZeRO-3 they are made whole for good.
    """

    def __init__(self, network: nn.Module | None = None, read_outside: Iterable[nn.Parameter] = ()):
        self._root = network if isinstance(network, FSDPModule) else None
        self._depth = 0
        zero3 = network is not None and any(hasattr(weight, "ds_id") for weight in network.parameters())
        if zero3:
            _keep_whole(network, list(read_outside))
        self._collective = self._root is not None or zero3
        self._device = None if network is None else next(network.parameters()).device
        if self._root is not None:
            self._root._get_fsdp_state()._lazy_init()  # the first layer to run would otherwise count as the network

    @contextmanager
    def gathered(self) -> Generator[None]:
        """Inside the `with` block, weights that code reads by itself are whole. They must not be changed there."""
        if self._root is not None and self._depth == 0:
            self._root.unshard()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._root is not None and self._depth == 0:
                self._root.reshard()

    def any_process(self, flag: bool) -> bool:
        """Whether a flag is set in any of the processes that must run the layers equally often.

        Without sharding that is this process alone.
        """
        if not self._collective:
            return flag
        found = torch.tensor(flag, dtype=torch.uint8, device=self._device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)


def whole(weight: torch.Tensor) -> torch.Tensor:
    """The value of a trained weight, gathered from all processes in the optimizer's precision. All must call this."""
    if isinstance(weight, DTensor):
        return cast(DTensor, weight.detach()).full_tensor()
    if _is_zero(weight):
        from deepspeed.utils import safe_get_full_fp32_param  # pyright: ignore[reportMissingImports]

        return safe_get_full_fp32_param(weight)
    return weight.detach()


def whole_shape(weight: torch.Tensor) -> torch.Size:
    """The shape of a weight of which this process may hold a shard."""
    return getattr(weight, "ds_shape", weight.shape)


@torch.no_grad()
def assign(weight: torch.Tensor, value: torch.Tensor) -> None:
    """Gives a trained weight the same value in all processes. All must call this.

    Args:
        weight: the weight or this process's shard of it.
        value: the whole value.
    """
    value = value.to(weight.device)
    if _is_zero(weight):
        from deepspeed.runtime.zero import GatheredParameters  # pyright: ignore[reportMissingImports]

        _set_zero(weight, value.float())  # the optimizer's copy; the next step starts from it
        with GatheredParameters([weight], modifier_rank=0):
            weight.data.copy_(value)
        if getattr(weight, "ds_persist", False):
            cast(Any, weight).all_gather()
    else:
        weight.copy_(_as_shard(value.to(weight.dtype), weight))


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimizer as it would be in one process. All processes must call this.

    Args:
        optimizer: what `accelerator.prepare` returned.
    """
    zero = _zero_optimizer(optimizer)
    if zero is not None:
        return _zero_state(zero)
    state = optimizer.state_dict()
    state["state"] = {
        index: {key: whole(value) if isinstance(value, torch.Tensor) else value for key, value in entries.items()}
        for index, entries in state["state"].items()
    }
    return state


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restores what `optimizer_state` returned, under any kind of sharding."""
    zero = _zero_optimizer(optimizer)
    if zero is not None:
        _load_zero_state(zero, state)
        return
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    entries = {
        index: {key: _as_shard(value, weights[index]) for key, value in of_weight.items()}
        for index, of_weight in state["state"].items()
    }
    own = optimizer.state_dict()["param_groups"]  # DeepSpeed's groups do not number their weights
    groups = [saved | {"params": mine["params"]} for mine, saved in zip(own, state["param_groups"], strict=True)]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _as_shard(value: Any, weight: torch.Tensor) -> Any:
    """This process's shard of a tensor that has the shape of a weight; anything else as it is."""
    if not (isinstance(weight, DTensor) and isinstance(value, torch.Tensor) and value.shape == weight.shape):
        return value
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None)


# -- DeepSpeed --


def _is_zero(weight: torch.Tensor) -> bool:
    """Whether DeepSpeed trains a weight. It then keeps a copy for the optimizer, spread over the processes."""
    return hasattr(weight, "ds_id") or hasattr(weight, "_hp_mapping")


def _keep_whole(engine: Any, weights: list[Any]) -> None:
    """Makes weights that ZeRO-3 has partitioned whole in every process, for good."""
    engine.optimizer.persistent_parameters.extend(weight for weight in weights if not weight.ds_persist)
    for weight in weights:
        weight.ds_persist = True  # the optimizer gathers persistent weights again after every step
    weights[0].all_gather(weights)


def _zero_optimizer(optimizer: torch.optim.Optimizer) -> Any:
    """DeepSpeed's optimizer inside that of accelerate; None without DeepSpeed."""
    inner: Any = getattr(optimizer, "optimizer", None)
    return inner if hasattr(inner, "bit16_groups") or hasattr(inner, "fp16_groups") else None


def _zero_weights(zero: Any) -> list[nn.Parameter]:
    """The trained weights in the order of the optimizer."""
    groups = zero.fp16_groups if hasattr(zero, "fp16_groups") else zero.bit16_groups
    return [weight for group in groups for weight in group]


def _zero_state(zero: Any) -> dict[str, Any]:
    """The state of DeepSpeed's optimizer in the format of `torch.optim.Optimizer.state_dict`."""
    from deepspeed.utils import safe_get_full_optimizer_state  # pyright: ignore[reportMissingImports]

    inner: torch.optim.Optimizer = zero.optimizer
    flat, entries = next(iter(inner.state.items()), (None, {}))  # one flat tensor for a group of weights
    sharded = [key for key, value in entries.items() if flat is not None and value.shape == flat.shape]
    shared = {key: value for key, value in entries.items() if key not in sharded}
    weights = _zero_weights(zero) if entries else []
    _link_states(zero)
    return {
        "state": {
            index: {key: value.clone() for key, value in shared.items()}  # each weight counts its own steps
            | {key: safe_get_full_optimizer_state(weight, key) for key in sharded}
            for index, weight in enumerate(weights)
        },
        "param_groups": _groups_without_weights(inner),
    }


def _set_zero(weight: Any, value: torch.Tensor, state: str | None = None) -> None:
    """Sets this process's part of the optimizer's copy of a weight, or of a state of the optimizer.

    Args:
        weight: the weight.
        value: the whole value.
        state: name of the state; None for the copy of the weight.
    """
    from deepspeed import utils  # pyright: ignore[reportMissingImports]

    if not hasattr(weight, "ds_id"):
        if state is None:
            utils.safe_set_full_fp32_param(weight, value)
        else:
            utils.safe_set_full_optimizer_state(weight, value, state)
        return
    size = weight.ds_tensor.ds_numel  # the last part is padded; DeepSpeed's setter of whole values fails there
    padded = F.pad(value.flatten(), (0, size * dist.get_world_size() - value.numel()))
    own = padded.narrow(0, size * dist.get_rank(), size)
    if state is None:
        utils.safe_set_local_fp32_param(weight, own)
    else:
        utils.safe_set_local_optimizer_state(weight, own, state)


def _link_states(zero: Any) -> None:
    """Makes the optimizer's states reachable by weight under ZeRO-2.

    DeepSpeed links them once, after the step of the first group of weights. The states of other groups do not exist yet
    at that time.
    """
    if hasattr(zero, "bit16_groups"):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def _load_zero_state(zero: Any, state: dict[str, Any]) -> None:
    """Restores what `_zero_state` or an optimizer without DeepSpeed returned."""
    inner: torch.optim.Optimizer = zero.optimizer
    for group, saved in zip(inner.param_groups, state["param_groups"], strict=True):
        group.update({key: value for key, value in saved.items() if key != "params"})
    if not state["state"]:
        return
    weights = _zero_weights(zero)
    example = state["state"][0]
    sharded = [key for key, value in example.items() if value.shape == whole_shape(weights[0])]
    is_stage_3 = hasattr(zero, "fp16_groups")
    partitions = zero.fp32_partitioned_groups_flat if is_stage_3 else zero.single_partition_of_fp32_groups
    for flat in partitions:
        shared = {key: value.clone() for key, value in example.items() if key not in sharded}
        inner.state[flat] = shared | {key: torch.zeros_like(flat.data) for key in sharded}
    _link_states(zero)
    for index, weight in enumerate(weights):
        for key in sharded:
            _set_zero(weight, state["state"][index][key].to(partitions[0].device), key)


def _groups_without_weights(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]

"""A policy and a reward leave no tensor behind when they move: the meta device stands for any accelerator."""

import types

import pytest
import torch

from llmrec.policy.model import RecPolicy
from tests.conftest import make_config


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


@pytest.mark.parametrize("scheme", ["atomic", "title"])
def test_no_tensor_of_a_policy_stays_behind(tiny_base, data, scheme):
    policy = RecPolicy.create(make_config(tiny_base, scheme), data)
    policy.add_rl_adapter()
    policy.to("meta")
    # Facts and vocabulary are read by the host; the decoder has its own tensors of the facts.
    found = tensors_of(policy, skip=(policy.facts,))
    assert len(found) > 50
    assert {path: value.device.type for path, value in found.items() if not value.is_meta} == {}


def test_the_tensors_of_the_mask_are_not_part_of_the_saved_weights(tiny_base, data):
    policy = RecPolicy.create(make_config(tiny_base, "atomic"), data)
    assert {name.split(".")[0] for name in policy.state_dict()} == {"model"}

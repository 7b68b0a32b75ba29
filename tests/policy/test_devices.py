"""A policy leaves no tensor behind when it moves: the meta device stands for any accelerator."""

import pytest
import torch

from llmrec.evaluation.evaluate import environment
from llmrec.policy.model import RecPolicy
from llmrec.recommend import Recommender
from tests.conftest import make_config
from tests.fakes.devices import tensors_of


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


def test_a_recommender_and_the_report_use_the_device_of_the_process(tiny_base, data, monkeypatch):
    config = make_config(tiny_base, "atomic")
    policy = RecPolicy.create(config, data)
    assert policy.device.type == environment(config).device == "cpu"
    for module in ("recommend", "evaluation.evaluate"):
        monkeypatch.setattr(f"llmrec.{module}.own_device", lambda: torch.device("meta"))
    assert Recommender(policy, max_new_tokens=8).policy.device.type == "meta"
    assert environment(config).device == "meta"

"""What the tests of `llmrec.export` share: a run with a trained adapter, and logits."""

from pathlib import Path
from typing import Any

import torch

from llmrec.data.dataset import InteractionData, save_data
from llmrec.policy.model import RecPolicy
from llmrec.run import Run
from tests.conftest import disturb, make_config


def finished_run(base: str, data: InteractionData, folder: Path, scheme: str = "atomic", **model: Any) -> Run:
    """A run with data and an SFT adapter that differs from its start."""
    settings = {"base": base, "lora_r": 4, "lora_alpha": 8} | model
    ppo = {"advantage": "exact" if scheme == "atomic" else "gae"}
    run = Run.create(make_config(base, scheme, output_dir=str(folder), model=settings, ppo=ppo))
    policy = RecPolicy.create(run.config, data)
    disturb(policy)
    run.begin("data")
    save_data(data, run.path("data"))
    run.finish("data", {})
    run.begin("sft")
    policy.save_pretrained(run.path("sft", "adapter"))
    run.finish("sft", {})
    return run


def logits(model: torch.nn.Module, prompts: list[list[int]]) -> list[torch.Tensor]:
    """Logits [T, V] of each prompt."""
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([prompt])).logits[0] for prompt in prompts]


def assert_same_logits(model: torch.nn.Module, expected: torch.nn.Module, prompts: list[list[int]]) -> None:
    """Two models agree on prompts within the tolerance of an export."""
    for found, wanted in zip(logits(model, prompts), logits(expected, prompts), strict=True):
        assert torch.allclose(found, wanted, atol=1e-3)

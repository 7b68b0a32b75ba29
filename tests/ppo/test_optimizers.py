"""8-bit AdamW and gradient checkpointing work on the CPU."""

import importlib.util

import pytest
import torch

from llmrec.policy.model import RecPolicy
from llmrec.ppo.checkpoint import newest_checkpoint
from llmrec.run import Run
from llmrec.sft.stage import training_arguments
from llmrec.sft.trainer import RecSFTTrainer
from llmrec.sft.windows import TrainingWindows
from tests.conftest import make_base, make_config
from tests.ppo.test_trainer import make_trainer, weights

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="pip install 'bitsandbytes>=0.50'"
)


@pytest.fixture(scope="module")
def wide_base(tmp_path_factory) -> str:
    """A base whose adapter tensors have at least 4096 elements; bitsandbytes keeps smaller ones in 32 bits."""
    return make_base(tmp_path_factory.mktemp("wide"), hidden_size=128)


def sft_trainer(base: str, data, tmp_path, **section) -> RecSFTTrainer:
    sft = {"num_train_epochs": 30.0, "learning_rate": 5e-3} | section
    model = {"base": base, "lora_r": 32}
    config = make_config(base, name="run", output_dir=str(tmp_path), sft=sft, model=model)
    policy = RecPolicy.create(config, data)
    arguments = training_arguments(config.sft, Run.create(config))
    arguments.logging_steps, arguments.disable_tqdm = 1, True
    return RecSFTTrainer(policy, TrainingWindows(policy, data, ["age"], config.sft, 0), arguments, config.sft)


@needs_bitsandbytes
def test_sft_learns_with_8_bit_adamw(wide_base, data, tmp_path):
    trainer = sft_trainer(wide_base, data, tmp_path, optim="adamw_bnb_8bit")
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "item_loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    assert torch.uint8 in {state["state1"].dtype for state in trainer.optimizer.state.values()}


@needs_bitsandbytes
def test_ppo_with_8_bit_adamw_resumes_bit_identical(wide_base, data, tmp_path):
    options = {"optim": "adamw_bnb_8bit", "model": {"lora_r": 32}}
    whole = make_trainer(wide_base, data, tmp_path / "a", **options)
    whole.train()
    make_trainer(wide_base, data, tmp_path / "b", save_steps=2, **options).train()
    resumed = make_trainer(wide_base, data, tmp_path / "b", save_steps=2, **options)
    checkpoint = newest_checkpoint(tmp_path / "b")
    assert checkpoint.name == "checkpoint-2"
    resumed.train(resume_from_checkpoint=checkpoint)
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    states = [state["state1"].dtype for state in resumed.optimizer.state.values()]
    assert torch.uint8 in states


def test_sft_with_gradient_checkpointing_takes_the_same_step(tiny_base, data, tmp_path):
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        trainer = sft_trainer(
            tiny_base, data, tmp_path / str(checkpointing), num_train_epochs=1.0, gradient_checkpointing=checkpointing
        )
        assert trainer.policy.model.is_gradient_checkpointing == checkpointing
        trainer.train()
        found.append({name: p.detach() for name, p in trainer.policy.named_parameters() if p.requires_grad})
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], atol=1e-6), name

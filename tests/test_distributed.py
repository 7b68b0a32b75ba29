"""The main process and the precision of training: both trainers use what `accelerate launch` was given."""

import os
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from llmrec.data.decision import Decision
from llmrec.distributed import (
    PRECISION_VARIABLE,
    gathered,
    is_main_process,
    leave_processes,
    mixed_precision,
    num_processes,
    settle_mixed_precision,
)
from llmrec.files import read_json, write_json
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack
from llmrec.ppo import stage
from llmrec.ppo.trainer import RecPPOTrainer
from llmrec.run import Run
from llmrec.sft.stage import training_arguments
from llmrec.sft.trainer import RecSFTTrainer
from llmrec.sft.windows import TrainingWindows
from tests.conftest import make_config
from tests.ppo.test_trainer import PreferItem
from tests.processes import run_processes


@pytest.fixture(autouse=True)
def fresh_state(monkeypatch):
    """Resets Accelerate, which keeps its precision for the life of a process."""
    monkeypatch.delenv(PRECISION_VARIABLE, raising=False)
    yield monkeypatch
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def config(tiny_base, tmp_path):
    sft = {"num_train_epochs": 30.0, "learning_rate": 2e-2}
    ppo = {"total_episodes": 80, "learning_rate": 6e-3, "per_device_train_batch_size": 4,
           "batch_size": 8, "response_length": 24, "item_kl_coef": 0.1, "ptx_coef": 0.0,
           "item_loss_weight": 1.0, "missing_eos_penalty": 0.1}  # fmt: skip
    return make_config(tiny_base, name="run", output_dir=str(tmp_path), sft=sft, ppo=ppo)


def dtypes_inside(policy: RecPolicy) -> set[torch.dtype]:
    """The dtypes of the outputs of one linear map of the decoder, collected from now on."""
    seen: set[torch.dtype] = set()
    layer = policy.model.get_base_model().model.layers[0].mlp.up_proj
    layer.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    return seen


@pytest.mark.parametrize(("asked", "dtype"), [("bf16", torch.bfloat16), ("no", torch.float32), (None, torch.float32)])
def test_sft_runs_in_the_precision_that_the_launcher_was_given(config, data, fresh_state, asked, dtype):
    if asked:
        fresh_state.setenv(PRECISION_VARIABLE, asked)
    policy = RecPolicy.create(config, data)
    arguments = training_arguments(config.sft, Run.create(config))
    arguments.logging_steps, arguments.disable_tqdm = 1, True
    trainer = RecSFTTrainer(policy, TrainingWindows(policy, data, ["age"], config.sft, 0), arguments, config.sft)
    seen = dtypes_inside(policy)
    trainer.train()
    assert seen == {dtype}
    losses = [entry["loss"] for entry in trainer.state.log_history if "item_loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    assert {p.dtype for p in policy.parameters()} == {torch.float32}


def test_ppo_learns_in_bf16(config, data, fresh_state):
    fresh_state.setenv(PRECISION_VARIABLE, "bf16")
    torch.manual_seed(0)
    policy = RecPolicy.create(config, data)
    policy.add_rl_adapter()
    arguments = stage.training_arguments(Run.create(config))
    arguments.disable_tqdm = True
    prompts = stage.training_decisions(data, config)
    trainer = RecPPOTrainer(arguments, config.ppo, policy, PreferItem(), prompts)
    assert arguments.bf16 and trainer.accelerator.mixed_precision == "bf16"
    seen = dtypes_inside(policy)
    trainer.train()
    assert torch.bfloat16 in seen
    rewards = [entry["objective/item_reward"] for entry in trainer.state.log_history]
    assert rewards[-1] > rewards[0] + 0.05


def test_a_gpu_with_bf16_uses_it_unless_the_launcher_says_otherwise(fresh_state):
    fresh_state.setattr(torch.cuda, "is_available", lambda: True)
    fresh_state.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    fresh_state.setenv(PRECISION_VARIABLE, "no")
    assert mixed_precision() == settle_mixed_precision() == "no"
    fresh_state.delenv(PRECISION_VARIABLE)
    assert mixed_precision() == "bf16" and PRECISION_VARIABLE not in os.environ
    assert settle_mixed_precision() == "bf16" == os.environ[PRECISION_VARIABLE]  # TRL's PPO trainer reads this only


@pytest.mark.parametrize(("rank", "expected"), [(None, True), ("0", True), ("1", False)])
def test_the_main_process_is_the_first_one_or_one_that_runs_alone(monkeypatch, rank, expected):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert is_main_process() is expected


def test_logits_are_float32_inside_autocast(tiny_base, data):
    policy = RecPolicy.create(make_config(tiny_base), data).eval()
    batch = pack(policy, [Decision("20", [], [0, 1])])
    tokens = policy.vocabulary.trie.tokens
    with torch.no_grad():
        hidden = policy(*batch.inputs())[0]
        expected = policy.logits(hidden, tokens)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(policy.logits(hidden, tokens), expected)


def join_and_leave(folder: Path) -> None:
    found = gathered([os.environ["RANK"]], num_processes())
    joined = torch.distributed.is_initialized()
    leave_processes()
    write_json(folder / f"{os.environ['RANK']}.json", [found, joined, torch.distributed.is_initialized()])


def test_processes_leave_each_other_before_they_end(tmp_path):
    assert run_processes(2, join_and_leave, tmp_path) == [0, 0]
    assert [read_json(tmp_path / f"{rank}.json") for rank in (0, 1)] == [[["0", "1"], True, False]] * 2

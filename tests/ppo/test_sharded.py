"""PPO and SFT on sharded weights: two CPU processes under FSDP2, ZeRO-2 and ZeRO-3 against one process."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from llmrec.data.decision import Decision, Decisions
from llmrec.files import read_json
from llmrec.policy.model import RecPolicy
from llmrec.policy.packing import pack
from llmrec.selection.validation import mean_policy_ndcg
from llmrec.sft.trainer import NDCG
from tests.ppo.sharded import RUNS, SFT_DECISIONS, take_first_update, trainer_of
from tests.processes import free_port

ROOT = Path(__file__).parents[2]
# ZeRO-3 keeps small weights whole. At this threshold it shards those of a tiny model too.
ZERO_3 = {
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
}
needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is missing")
LAUNCHERS = ["fsdp2", *(pytest.param(name, marks=[pytest.mark.slow, needs_deepspeed]) for name in ("zero2", "zero3"))]


@pytest.fixture(scope="module")
def one(tiny_base, tmp_path_factory) -> Path:
    """Output of one process."""
    output = tmp_path_factory.mktemp("one")
    for run in RUNS:
        take_first_update(tiny_base, output, run)
    return output


@pytest.fixture(scope="module", params=LAUNCHERS)
def two(request, tiny_base, tmp_path_factory) -> tuple[str, Path]:
    """A launcher's name and the output of two processes that it started."""
    output = tmp_path_factory.mktemp(request.param)
    config = ["--config_file", f"configs/accelerate/{request.param}.yaml"]
    if request.param == "zero3":
        (output / "zero3.json").write_text(json.dumps(ZERO_3))
        config = ["--use_deepspeed", "--deepspeed_config_file", str(output / "zero3.json")]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *config, "--num_processes", "2"]
    launch += ["--mixed_precision", "no", "--main_process_port", str(free_port())]
    cpu = str(request.param == "fsdp2").lower()  # otherwise accelerate ignores DeepSpeed
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": cpu, "DS_ACCELERATOR": "cpu"}
    command = [*launch, "-m", "tests.ppo.sharded", tiny_base, str(output)]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)
    assert found.returncode == 0, found.stdout + found.stderr
    return request.param, output


@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize("run", RUNS)
def test_the_first_update_is_that_of_one_process(one, two, run, process):
    launcher, output = two
    expected, found = (read_json(path) for path in (one / f"{run}-0.json", output / f"{run}-{process}.json"))
    assert found["metrics"] == pytest.approx(expected["metrics"], abs=1e-4, rel=0)
    assert expected["metrics"]["policy/grad_norm"] > 0
    assert expected["shards"] == 0 and (found["shards"] > 40) == (launcher != "zero2")  # ZeRO-2 shards no weights
    same = load_file(one / f"{run}-0.safetensors")
    weights = load_file(output / f"{run}-{process}.safetensors")
    assert set(weights) == set(same) and same
    for name, value in same.items():
        torch.testing.assert_close(weights[name], value, atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_an_interrupted_training_continues_exactly(two):
    _, output = two
    folders = [output / run for run in ("whole", "interrupted")]
    whole, interrupted = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in folders)
    assert set(whole) == set(interrupted) and whole
    assert all(torch.equal(whole[name], value) for name, value in interrupted.items())
    reports = [read_json(folder / "guard.json") for folder in folders]
    assert reports[0] == reports[1] and reports[0]["decision"] is not None


def test_one_process_continues_a_sharded_training(tiny_base, two, tmp_path):
    """Checkpoints hold whole tensors. The next update has the same metrics whatever reads them."""
    _, output = two
    trainer = trainer_of(tiny_base, tmp_path)
    trainer.guard = None
    trainer.train(output / "whole" / "checkpoints" / "checkpoint-1")
    sharded = read_json(output / "whole" / "log.json")[-2:]
    for expected, found in zip(sharded, trainer.state.log_history[-2:], strict=True):
        same = [name for name in found if name.split("/")[0] in ("objective", "loss", "policy", "val")]
        assert len(same) > 10
        assert {name: found[name] for name in same} == pytest.approx({name: expected[name] for name in same}, abs=1e-3)


def test_saved_adapters_have_the_evaluations_of_sharded_training(two):
    _, output = two
    decisions = Decisions.from_decisions(SFT_DECISIONS, max_history=3)
    best = max(read_json(output / "sft" / "validation.json"), key=lambda entry: entry[NDCG])
    policy = RecPolicy.from_pretrained(output / "sft" / "adapter")
    assert mean_policy_ndcg(policy, decisions) == pytest.approx(best[NDCG], abs=1e-6)


def test_plain_peft_loads_the_adapter(tiny_base, two):
    _, output = two
    folder = output / "whole" / "adapter"
    policy = RecPolicy.from_pretrained(folder).eval()
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    base.resize_token_embeddings(len(policy.tokenizer), mean_resizing=False)
    plain = PeftModel.from_pretrained(base, folder).eval()
    batch = pack(policy, [Decision("20", [], [0, 1])])
    items = policy.vocabulary.trie.tokens
    with torch.no_grad():
        expected = policy.logits(policy(*batch.inputs())[0], items)
        found = plain(batch.tokens).logits[0][:, items]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)

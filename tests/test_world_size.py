"""Runs do not depend on the number of processes: batches, updates, losses and adapters, also across a resumption."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file

from llmrec.errors import ConfigError, RunError
from llmrec.files import newest_checkpoint, read_json, write_json
from llmrec.ppo.checkpoint import PROGRESS
from llmrec.ppo.trainer import RecPPOTrainer
from llmrec.run import Run, run_stage
from llmrec.sft.trainer import ValidationCallback
from tests.conftest import make_config, make_data
from tests.ppo.test_failing_reward import ready_for_ppo
from tests.processes import free_port, run_processes

SFT = {"num_train_epochs": 6.0, "learning_rate": 5e-3, "per_device_train_batch_size": 2, "batch_size": 4,
       "save_steps": 4, "eval_steps": 4.0, "profile_dropout": 0.5}  # fmt: skip
PPO = {"total_episodes": 64, "per_device_train_batch_size": 2, "batch_size": 16, "num_mini_batches": 4,
       "num_generations": 1, "save_steps": 1, "eval_steps": 2, "response_length": 12, "sample_steps": 1,
       "learning_rate": 1e-3, "ema_decay": 0.5, "text": "auto"}  # fmt: skip
KILLED_AT = 4, 2  # step of SFT, update of PPO


@pytest.fixture(scope="module")
def prepared(tiny_base, tmp_path_factory) -> Run:
    """A run whose data and reward are ready."""
    folder = tmp_path_factory.mktemp("runs")
    config = make_config(
        tiny_base, name="prepared", output_dir=str(folder), sft=SFT, ppo=PPO, reward={"num_train_epochs": 1}
    )
    run = ready_for_ppo(config, make_data())
    shutil.rmtree(run.path("sft"))
    return run


def copied(prepared: Run, name: str) -> Run:
    return Run.open(shutil.copytree(prepared.directory, prepared.directory.parent / name))


def train(directory: Path, killed_in: str | None = None) -> None:
    """Trains SFT and PPO as the commands do. With `killed_in`, the stage of that name ends by SIGKILL."""
    run = Run.open(directory)
    if killed_in == "sft":
        kill_after(ValidationCallback, "on_step_end", lambda callback: callback.trainer.state.global_step, KILLED_AT[0])
    if killed_in == "ppo":
        kill_after(RecPPOTrainer, "_end_update", lambda trainer: trainer.state.global_step + 1, KILLED_AT[1])
    for stage in ("sft", "ppo"):
        if not run.finished(stage):
            run_stage(run, stage)
        PartialState().wait_for_everyone()  # the other processes must see that the stage has finished


def kill_after(owner: type, name: str, last_step, step: int) -> None:
    """Makes the process die by SIGKILL when a method begins after a step whose checkpoint exists."""
    method = getattr(owner, name)

    def dying(self, *arguments, **named):
        if last_step(self) > step:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(self, *arguments, **named)

    setattr(owner, name, dying)


@pytest.fixture(scope="module")
def whole(prepared) -> Run:
    run = copied(prepared, "whole")
    assert run_processes(1, train, run.directory) == [0]
    return run


@pytest.fixture(scope="module")
def on_two(prepared) -> Run:
    run = copied(prepared, "on-two")
    assert run_processes(2, train, run.directory) == [0, 0]
    return run


def test_two_processes_train_like_one(whole, on_two):
    same_results(whole, on_two)
    close(on_two.metrics("sft")["log"], whole.metrics("sft")["log"])


@pytest.mark.parametrize(("first", "second"), [(1, 2), pytest.param(2, 1, marks=pytest.mark.slow)])
def test_a_run_goes_on_with_another_number_of_processes(prepared, whole, first, second):
    """SFT is killed on `first` processes and resumed on `second`; PPO is killed there and resumed on `first`."""
    run = copied(prepared, f"{first}-{second}")
    assert 0 not in run_processes(first, train, run.directory, "sft")
    assert 0 not in run_processes(second, train, run.directory, "ppo")
    assert run.finished("sft") and not run.finished("ppo")
    assert run_processes(first, train, run.directory) == [0] * first
    same_results(whole, run)
    notices = [entry for stage in ("sft", "ppo") for entry in events(run, stage) if "resumed by" in entry["event"]]
    assert [notice["step"] for notice in notices] == list(KILLED_AT)
    assert notices[0]["event"].startswith(f"resumed by {second} processes from a checkpoint of {first};")


def events(run: Run, stage: str) -> list[dict]:
    return [json.loads(line) for line in run.path(stage, "events.jsonl").read_text().splitlines()]


def same_results(one: Run, other: Run) -> None:
    """Metrics within 1e-4, adapters within 1e-5, and the same steps, evaluations and learning rates."""
    for stage in ("sft", "ppo"):
        expected, found = one.metrics(stage), other.metrics(stage)
        assert found.get("steps", found.get("updates")) == expected.get("steps", expected.get("updates")) > 3
        if stage == "ppo":
            close(found["log"], expected["log"])
        close(found.get("validation", []), expected.get("validation", []))
        # The adapter of the last checkpoint, because an earlier one may have been the best.
        weights, trained = (
            load_file(max(run.path(stage, "checkpoints").glob("*/adapter/adapter_model.safetensors"), key=step_of))
            for run in (one, other)
        )
        for name, value in trained.items():
            torch.testing.assert_close(value, weights[name], atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


SPEEDS = ("eps", "train_runtime", "train_samples_per_second", "train_steps_per_second")
OWN = (*SPEEDS, "train_loss")  # of the main process alone: transformers adds the losses since its last log


def step_of(weights: Path) -> int:
    return int(weights.parents[1].name.removeprefix("checkpoint-"))


def close(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected)
    for entry, other in zip(found, expected, strict=True):
        assert entry == pytest.approx(other | {name: entry[name] for name in OWN if name in entry}, abs=1e-4)


# --- two nodes -----------------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]
NODES = 2


def launch_nodes(run: Run, stage: str) -> list[str]:
    """Runs the command of the guide for a stage on each node; returns their output."""
    port = str(free_port())
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    nodes = []
    for rank in range(NODES):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(NODES), "--node_rank", str(rank)]
        launcher += ["--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", port]
        command = [*launcher, f"scripts/train_{stage}.py", "--config", str(run.directory)]
        nodes.append(
            subprocess.Popen(
                command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        )
    outputs = [node.communicate()[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0] * NODES, "\n".join(outputs)
    return outputs


@pytest.mark.slow
def test_two_nodes_train_like_two_processes(prepared, on_two):
    two_nodes = copied(prepared, "two-nodes")
    for stage in ("sft", "ppo"):
        main, other = launch_nodes(two_nodes, stage)
        assert f"{stage}: done" in main and f"{stage}:" not in other  # the main process alone reports
    same_results(on_two, two_nodes)
    assert files(two_nodes) == files(on_two)


def files(run: Run) -> list[str]:
    """Files and folders, without the time in the names of TensorBoard's files."""
    paths = [path.relative_to(run.directory).as_posix() for path in run.directory.rglob("*")]
    return sorted(re.sub(r"(tfevents)\..*", r"\1", path) for path in paths)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_number_of_processes_that_cannot_share_the_batch_is_refused_before_training(
    prepared, whole, monkeypatch, stage
):
    run = copied(prepared if stage == "sft" else whole, f"three-{stage}")
    shutil.rmtree(run.path(stage), ignore_errors=True)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(
        ConfigError, match=f"`{stage}.batch_size`: 3 processes.* Numbers of processes that can: 1, 2, 4"
    ):
        run_stage(run, stage)
    assert not run.path(stage, "checkpoints").exists() and not run.path(stage, "events.jsonl").exists()


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_checkpoint_of_another_batch_is_refused(whole, stage, recorded):
    """Without a record, as in checkpoints of earlier versions, the batch follows from the numbers of steps."""
    run = copied(whole, f"another-{stage}-{recorded}")
    run.path(stage, "metrics.json").unlink()
    if stage == "sft":
        state_file = newest_checkpoint(run.path("sft", "checkpoints"), "trainer_state.json") / "trainer_state.json"
        state = read_json(state_file)
        state["stateful_callbacks"]["batch"]["batch_size"] = 8
        if not recorded:
            del state["stateful_callbacks"]["batch"]
            state["max_steps"] //= 2
    else:
        state_file = newest_checkpoint(run.path("ppo", "checkpoints"), PROGRESS) / PROGRESS
        state = read_json(state_file)
        state["batch"]["batch_size"] = 32
        if not recorded:
            del state["batch"]
            state["state"]["episode"] *= 2
    write_json(state_file, state)
    size = 32 if stage == "ppo" else 8 if recorded else 9  # 36 windows in 4 steps
    with pytest.raises(RunError, match=f"with batches of {size}, but `{stage}.batch_size` is"):
        run_stage(run, stage)


def test_a_short_training_says_so(whole):
    first = next(entry for entry in events(whole, "ppo") if "few updates" in entry["event"])
    assert first["step"] == 0 and first["event"].startswith(
        "few updates: 4 in the whole training, expected at least 20"
    )
    assert "Raise `ppo.total_episodes`" in first["event"]
    assert (
        not any("few updates" in entry["event"] for entry in events(whole, "sft")) or whole.metrics("sft")["steps"] < 20
    )

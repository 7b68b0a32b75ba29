"""A run that is killed (SIGKILL) at any moment and restarted ends with the same bits as an uninterrupted run."""

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from llmrec.data.decision import Decision, Decisions
from llmrec.files import read_json, write_json
from llmrec.ppo.checkpoint import PROGRESS, load_checkpoint, newest_checkpoint, save_checkpoint
from llmrec.ppo.stage import train_ppo
from llmrec.ppo.trainer import RecPPOTrainer
from llmrec.progress import TrainingLog
from llmrec.progress.records import RecordFiles
from llmrec.reward.protocol import RewardBatch
from llmrec.run import Run
from llmrec.selection.guard import MIN_DECIDING_USERS, Guard, ValidationSet
from tests.conftest import make_config, make_data
from tests.ppo.test_failing_reward import ready_for_ppo
from tests.ppo.test_trainer import PreferItem, make_trainer, weights

UPDATES = 12
KILLS = 12
RUNS = {
    "exact": {"save_steps": 1, "ptx_coef": 0.5, "adaptive_kl_target": 0.02, "adaptive_kl_horizon": 100,
              "eval_steps": 1, "sample_steps": 1, "learning_rate": 3e-3, "ema_decay": 0.5},
    "gae": {"save_steps": 2, "advantage": "gae", "num_generations": 2, "num_mini_batches": 2, "target_kl": 1e-3,
            "num_ppo_epochs": 2,
            "adaptive_kl_target": 0.02, "adaptive_kl_horizon": 100, "eval_steps": 2, "save_total_limit": 1},
}  # fmt: skip


class Noisy(PreferItem):
    """A reward that uses every global random generator. Resuming must restore their states too."""

    def __call__(self, recommendations, rows) -> RewardBatch:
        scored = super().__call__(recommendations, rows)
        noise = random.random() + np.random.rand() + torch.rand(len(rows))
        return RewardBatch(scored.item, scored.text + 0.1 * noise, scored.parts)


class Steps(TrainerCallback):
    """Writes the progress of a process to a file: one line at the start and one after each update."""

    def __init__(self, file: Path):
        self.file = file

    def on_train_begin(self, args, state, control, **kwargs):
        with open(self.file, "a") as file:
            file.write(f"{state.global_step}\n")

    on_step_end = on_train_begin


def build(base: str, folder: Path, options: dict) -> RecPPOTrainer:
    """A tiny trainer whose guard keeps several adapters during training and decides between two at the end."""
    asked = [
        Decision("20", [], [0, 1], target=2),
        Decision("31", [2], [3, 4, 5], target=1),
        Decision("", [], [8], target=6),
    ]
    rows = [replace(asked[user % 3], user=user) for user in range(3 + MIN_DECIDING_USERS)]
    liked = torch.eye(10)[9].expand(len(rows), 10)
    choosing, deciding = (
        ValidationSet(Decisions.from_decisions(rows[part], max_history=3), liked[part], liked[part])
        for part in (slice(3), slice(3, None))
    )
    guard = Guard(choosing, deciding, folder / "best")
    options = {"total_episodes": 8 * UPDATES, "response_length": 12} | options
    trainer = make_trainer(base, make_data(), folder / "checkpoints", guard=guard, **options)
    trainer.reward = Noisy()
    return trainer


def train(base: str, folder: Path, options: dict) -> None:
    """Trains as the command does: resumes from the newest checkpoint and writes the final adapter."""
    torch.set_num_threads(1)
    trainer = build(base, folder, options)
    records = RecordFiles(folder)
    trainer.record = TrainingLog([records])
    trainer.add_callback(records)
    trainer.add_callback(Steps(folder / "steps"))
    trainer.train(resume_from_checkpoint=newest_checkpoint(folder / "checkpoints"))
    trainer.policy.save_pretrained(folder / "adapter")
    write_json(folder / "log.json", trainer.state.log_history)
    write_json(folder / "rest.json", {"events": trainer.events, "guard": trainer.guard.report()})


@pytest.fixture(scope="module")
def processes():
    """A context whose processes start with all imports done and no other state."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def start(processes, folder: Path, target: Callable, *arguments) -> multiprocessing.Process:
    (folder / "steps").unlink(missing_ok=True)
    process = processes.Process(target=target, args=arguments)
    process.start()
    return process


def finish(process: multiprocessing.Process) -> None:
    process.join()
    assert process.exitcode == 0


def kill(process: multiprocessing.Process) -> bool:
    """Sends SIGKILL to a process; returns whether it was still running."""
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def wait(process, condition: Callable[[], bool]) -> None:
    """Waits until a condition holds or the process has ended."""
    while process.is_alive() and not condition():
        time.sleep(0.0005)


def step_of(folder: Path) -> int:
    """The last update that the process has finished; -1 before training."""
    file = folder / "steps"
    lines = file.read_text().split() if file.exists() else []
    return int(lines[-1]) if lines else -1


def half_written(checkpoints: Path) -> list[Path]:
    return list(checkpoints.glob(".checkpoint-*"))


@pytest.mark.parametrize("name", ["exact", pytest.param("gae", marks=pytest.mark.slow)])
def test_a_run_killed_many_times_ends_bit_identical(processes, tiny_base, tmp_path, name):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    finish(start(processes, whole, train, tiny_base, whole, RUNS[name]))
    log = timeless(read_json(whole / "log.json"))
    seconds = 8 / np.median([entry["eps"] for entry in read_json(whole / "log.json")])  # duration of an update

    draw = random.Random(0)
    kills = while_writing = 0
    for number, target in enumerate(np.linspace(-1, UPDATES - 3, KILLS)):
        process = start(processes, killed, train, tiny_base, killed, RUNS[name])
        wait(process, lambda target=target: step_of(killed) >= int(target))
        if number % 2:  # the moment when writing of a checkpoint begins
            wait(process, lambda: bool(half_written(killed / "checkpoints")))
        time.sleep(draw.random() * (0.01 if number % 2 else 1.5 * seconds))
        kills += kill(process)
        while_writing += bool(half_written(killed / "checkpoints"))
    finish(start(processes, killed, train, tiny_base, killed, RUNS[name]))
    assert kills >= 10 and while_writing

    assert timeless(read_json(killed / "log.json")) == log and len(log) == UPDATES
    guard = read_json(whole / "rest.json")["guard"]
    assert len([entry for entry in guard["history"] if entry["kept"]]) > 1 and guard["decision"]["users"] == 30
    files = ["rest.json", "samples.jsonl", "events.jsonl", "adapter/adapter_model.safetensors"]
    last = f"checkpoints/{newest_checkpoint(whole / 'checkpoints').name}"
    for file in [*files, f"{last}/adapter/adapter_model.safetensors", f"{last}/critic.safetensors"]:
        assert (whole / file).read_bytes() == (killed / file).read_bytes(), file
    assert names(killed / "checkpoints") == names(whole / "checkpoints")
    assert len(names(killed / "checkpoints")) == RUNS[name].get("save_total_limit", 2)


def timeless(log: list[dict]) -> list[dict]:
    """Metrics without the speed, which may differ between runs."""
    return [{name: value for name, value in entry.items() if name != "eps"} for entry in log]


def command(directory: Path) -> None:
    """Runs `llmrec ppo`."""
    torch.set_num_threads(1)
    train_ppo(Run.open(directory))


def test_the_stage_killed_twice_ends_bit_identical(processes, tiny_base, data, tmp_path):
    ppo = {"total_episodes": 24, "per_device_train_batch_size": 4, "batch_size": 4, "save_steps": 1,
           "eval_steps": 1, "response_length": 24, "sample_steps": 1, "learning_rate": 1e-3}  # fmt: skip
    reward = {"num_train_epochs": 1}
    whole = ready_for_ppo(make_config(tiny_base, output_dir=str(tmp_path), reward=reward, ppo=ppo), data)
    killed = Run.open(shutil.copytree(whole.directory, tmp_path / "killed"))
    finish(start(processes, tmp_path, command, whole.directory))
    checkpoints = killed.path("ppo", "checkpoints")
    for moment in ((checkpoints / "checkpoint-2").exists, lambda: bool(half_written(checkpoints))):
        process = start(processes, tmp_path, command, killed.directory)
        wait(process, moment)
        assert kill(process) and not killed.finished("ppo")
    finish(start(processes, tmp_path, command, killed.directory))
    one, other = whole.metrics("ppo"), killed.metrics("ppo")
    assert timeless(one.pop("log")) == timeless(other.pop("log"))
    for metrics in (one, other):
        assert metrics["text"].pop("rollout_seconds") > 0  # differs from run to run
    assert one == other and one["updates"] == 6
    for file in ("samples.jsonl", "events.jsonl", "adapter/adapter_model.safetensors"):
        assert whole.path("ppo", file).read_bytes() == killed.path("ppo", file).read_bytes(), file


def save_and_die(trainer: RecPPOTrainer, moment: int) -> bool:
    """Saves in a child process that is killed before file operation number `moment`; returns whether it finished."""
    pid = os.fork()
    if pid == 0:
        left = moment

        def counted(operation):
            def count(*arguments, **named):
                nonlocal left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return operation(*arguments, **named)

            return count

        for name in ("replace", "rename", "unlink", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        failed = 1
        try:
            save_checkpoint(trainer)
            failed = 0
        finally:
            os._exit(failed)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL), code
    return code == 0


def sweep(base: str, folder: Path) -> None:
    """Kills the saving of step 2, over a damaged checkpoint, at every rename and removal. A checkpoint always loads."""
    torch.set_num_threads(1)
    trainer = build(base, folder, {"save_total_limit": 1})
    trainer._begin()
    root = folder / "checkpoints"
    for step in (2, 1):
        trainer.state.global_step = step
        save_checkpoint(trainer)
    cut(root / "checkpoint-2" / "optimizer.pt")
    trainer.state.global_step = 2
    found = set()
    for moment in range(10_000):
        copy = folder / f"copy-{moment}"
        shutil.copytree(root, copy)
        trainer.args.output_dir = str(copy)
        lived = save_and_die(trainer, moment)
        newest = newest_checkpoint(copy)
        load_checkpoint(trainer, newest)
        found.add(trainer.state.global_step)
        assert newest.name == f"checkpoint-{trainer.state.global_step}"
        assert not list(copy.glob(".checkpoint-*"))
        shutil.rmtree(copy)
        trainer.state.global_step = 2
        if lived:
            break
    write_json(folder / "sweep.json", {"moments": moment, "found": sorted(found)})


def test_a_save_killed_at_any_file_operation_leaves_a_checkpoint(processes, tiny_base, tmp_path):
    finish(start(processes, tmp_path, sweep, tiny_base, tmp_path))
    swept = read_json(tmp_path / "sweep.json")
    assert swept["found"] == [1, 2] and swept["moments"] > 20


@pytest.fixture
def trainer(tiny_base, data, tmp_path) -> RecPPOTrainer:
    """A trainer that has saved at steps 1, 2 and 3 and keeps two checkpoints."""
    trainer = make_trainer(tiny_base, data, tmp_path)
    trainer._begin()
    for step in (1, 2, 3):
        trainer.state.global_step = step
        save_checkpoint(trainer)
    return trainer


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_the_newest_checkpoints_are_kept(trainer, tmp_path):
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3"]
    assert newest_checkpoint(tmp_path).name == "checkpoint-3"


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


DAMAGES = {
    "a truncated optimizer": lambda folder: cut(folder / "optimizer.pt"),
    "a truncated adapter": lambda folder: cut(folder / "adapter" / "adapter_model.safetensors"),
    "no critic": lambda folder: (folder / "critic.safetensors").unlink(),
    "no progress": lambda folder: (folder / PROGRESS).unlink(),
    "a truncated progress": lambda folder: os.truncate(folder / PROGRESS, 100),
    "an empty progress": lambda folder: os.truncate(folder / PROGRESS, 0),
    "another progress": lambda folder: (folder / PROGRESS).write_text("[]"),
    "nothing": lambda folder: [shutil.rmtree(folder), folder.mkdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_skipped(trainer, tmp_path, damage):
    DAMAGES[damage](tmp_path / "checkpoint-3")
    with pytest.warns(UserWarning, match="checkpoint-3 is incomplete and is ignored"):
        assert newest_checkpoint(tmp_path).name == "checkpoint-2"


def test_damaged_checkpoints_do_not_count_toward_the_limit(trainer, tmp_path):
    """A checkpoint saved after resuming from an older one is kept beside newer damaged ones."""
    for step in (2, 3):
        cut(tmp_path / f"checkpoint-{step}" / "optimizer.pt")
    trainer.state.global_step = 1
    save_checkpoint(trainer)
    with pytest.warns(UserWarning, match="incomplete"):
        assert newest_checkpoint(tmp_path).name == "checkpoint-1"


def test_an_unfinished_checkpoint_is_removed_with_a_warning(trainer, tmp_path):
    shutil.copytree(tmp_path / "checkpoint-3", tmp_path / ".checkpoint-4.abc.tmp")
    with pytest.warns(UserWarning, match="was being written when a run ended"):
        assert newest_checkpoint(tmp_path).name == "checkpoint-3"
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3"]


def test_a_checkpoint_restores_the_whole_state(tiny_base, tmp_path):
    options = RUNS["exact"] | {"total_episodes": 16}
    trainer = build(tiny_base, tmp_path, options)
    trainer.train()
    again = build(tiny_base, tmp_path, options)
    load_checkpoint(again, newest_checkpoint(tmp_path / "checkpoints"))
    assert again.state.global_step == 1 and len(again.state.log_history) == 1
    assert again.kl_scale != 1.0 and again.guard.history == trainer.guard.history[:2]
    assert again.optimizer.state_dict()["state"] and again.lr_scheduler.last_epoch == 1
    start = weights(build(tiny_base, tmp_path, options))
    assert any(not torch.equal(value, start[name]) for name, value in weights(again).items())

"""Every stage as a process that is stopped by a signal: nothing is half-written, and the same command finishes it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from llmrec.config import load_config
from llmrec.run import STAGES, VERBS, Run, run_all
from llmrec.run.lock import locked
from tests.cli.test_app import ROOT
from tests.configs import write_config
from tests.conftest import make_base
from tests.processes import free_port

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGKILL: -9}
PATIENCE = 600  # seconds that a stage of the tiny run may take on a busy machine


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def config(tmp_path: Path, base: str) -> Path:
    return tiny_config(tmp_path, base)


def tiny_config(folder: Path, base: str) -> Path:
    """Writes a log of 40 users and 16 items and its config; returns the path of the config."""
    clicks = [(user, step, (user * 5 + step * (1 + user % 4)) % 16) for user in range(40) for step in range(9)]
    rows = [f"u{user},i{item},{step},{1 + step % 5}" for user, step, item in clicks]
    (folder / "log.csv").write_text("user_id,item_id,timestamp,rating\n" + "\n".join(rows) + "\n")
    items = [f"i{item},Film {item},{('Drama', 'Comedy', 'War')[item % 3]},{1980 + item}" for item in range(16)]
    (folder / "items.csv").write_text("item_id,title,categories,year\n" + "\n".join(items) + "\n")
    return write_config(
        folder,
        model={"base": base, "lora_r": 4},
        catalogue={"max_history": 6},
        sft={"num_train_epochs": 4, "save_steps": 2, "per_device_train_batch_size": 4, "eval_users": 5},
        reward={"num_train_epochs": 4},
        ppo={"total_episodes": 256, "eval_users": 5, "eval_steps": 1, "save_steps": 1, "response_length": 16},
        evaluation={"bootstrap": 100, "sasrec": None},
    )


def start(stage: str, config: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "llmrec", VERBS[stage], str(config)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for_work(run: Path, stage: str) -> None:
    """Waits until the stage has written something besides `started.json`, and a moment longer."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        written = [path for path in run.glob(f"{stage}/**/[!.]*") if path.name != "started.json"]
        if written or (run / stage / "metrics.json").exists():
            return
        time.sleep(0.005)
    pytest.fail(f"{stage} has written nothing in {PATIENCE} s")


def unfinished_files(run: Path) -> list[Path]:
    return [path for path in run.rglob(".*") if path.suffix in (".tmp", ".old") or path.name == ".lock.json"]


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_in_any_stage(config: Path, number: signal.Signals) -> None:
    run = config.parent / "runs" / "tiny"
    stopped = []
    for stage in STAGES:
        process = start(stage, config)
        wait_for_work(run, stage)
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode in (CODES[number], 0), err
        if process.returncode:
            stopped.append(stage)
            assert not (run / stage / "metrics.json").exists()
        if number != signal.SIGKILL:
            assert unfinished_files(run) == [] and "Traceback" not in err
        for file in run.rglob("[!.]*.json"):
            if ".tmp" not in str(file):
                json.loads(file.read_text(encoding="utf-8"))
        again = start(stage, config)
        _, err = again.communicate(timeout=PATIENCE)
        assert again.returncode == 0, err
        assert (run / stage / "metrics.json").exists() and unfinished_files(run) == []
    assert len(stopped) >= 3  # a stage of a second may end before the signal arrives


# --- two processes --------------------------------------------------------------------------------


# What makes each stage long enough to be stopped. The stages before it are finished under shorter values.
LONG = {
    "sft": {"num_train_epochs": 400},
    "reward": {"text": {"num_train_epochs": 400, "pairs": 100}},
    "ppo": {"total_episodes": 256_000},
    "evaluate": {},
}


@pytest.fixture(scope="module")
def finished(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run whose stages before the evaluation have finished, soon."""
    file = tiny_config(tmp_path_factory.mktemp("finished"), base)
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    values["sft"]["num_train_epochs"] = values["reward"]["num_train_epochs"] = 1
    values["ppo"]["total_episodes"] = 32
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    run_all(Run.create(load_config(file)), *STAGES[:-1], say=lambda line: None)
    return file


def before_stage(stage: str, finished: Path, folder: Path) -> Path:
    """The config of a copy of the finished run in which a stage and all behind it have not begun."""
    values = yaml.safe_load(finished.read_text(encoding="utf-8"))
    section = "evaluation" if stage == "evaluate" else stage
    values |= {"output_dir": str(folder / "runs"), section: values[section] | LONG[stage]}
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    for name in STAGES[: STAGES.index(stage)]:
        shutil.copytree(finished.parent / "runs" / "tiny" / name, folder / "runs" / "tiny" / name)
    return config


def launch(stage: str, config: Path) -> "subprocess.Popen[str]":
    """Starts a stage in two processes, in a process group of its own as a terminal does."""
    script = "evaluate.py" if stage == "evaluate" else f"train_{stage}.py"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu.yaml"]
    command += ["--main_process_port", str(free_port()), f"scripts/{script}", "--config", str(config)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_until_connected(launcher: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Waits until the two processes are connected with each other; returns both.

    A process that waits for the other to connect hears no signal: torch waits outside of Python.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and launcher.poll() is None:
        processes = psutil.Process(launcher.pid).children()
        if len(processes) == 2:
            ends = [{(one.laddr, one.raddr) for one in process.net_connections("tcp")} for process in processes]
            if any((remote, local) in ends[1] for local, remote in ends[0]):
                return processes
        time.sleep(0.05)
    pytest.fail(f"the two processes did not connect; exit code of the launcher: {launcher.poll()}")


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["launcher", "group", "second process"])
@pytest.mark.parametrize("stage", LONG)
def test_a_signal_under_accelerate(finished: Path, tmp_path: Path, stage: str, whom: str) -> None:
    """The end of one process ends all. Only the launcher, which is no part of llmrec, prints a traceback."""
    config = before_stage(stage, finished, tmp_path)
    run = tmp_path / "runs" / "tiny"
    launcher = launch(stage, config)
    processes = wait_until_connected(launcher)
    if whom == "launcher":
        launcher.terminate()
    elif whom == "group":
        os.killpg(launcher.pid, signal.SIGINT)
    else:
        processes[-1].terminate()
    out, _ = launcher.communicate(timeout=PATIENCE)
    _, living = psutil.wait_procs(processes, timeout=PATIENCE)
    assert launcher.returncode != 0 and living == []
    assert "bug in llmrec" not in out and out.count("Run the same command again") <= 1
    if whom == "second process":
        assert "exitcode: 143" in out  # the launcher names the code of the first process that ended
    assert unfinished_files(run) == [] and not (run / stage / "metrics.json").exists()
    with locked(run):  # the lock is free
        pass

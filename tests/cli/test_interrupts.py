"""Every stage as a process that is stopped by a signal: nothing is half-written, and the same command finishes it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from llmrec.run import STAGES, VERBS
from llmrec.run.lock import locked
from tests.cli.test_app import ROOT
from tests.conftest import make_base

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGKILL: -9}
PATIENCE = 300  # seconds that a stage of the tiny run may take on a busy machine


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def config(tmp_path: Path, base: str) -> Path:
    """A config of 14 users and 16 items."""
    clicks = [(user, step, (user * 5 + step * (1 + user % 4)) % 16) for user in range(14) for step in range(9)]
    rows = [f"u{user},i{item},{step},{1 + step % 5}" for user, step, item in clicks]
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp,rating\n" + "\n".join(rows) + "\n")
    items = [f"i{item},Film {item},{('Drama', 'Comedy', 'War')[item % 3]},{1980 + item}" for item in range(16)]
    (tmp_path / "items.csv").write_text("item_id,title,categories,year\n" + "\n".join(items) + "\n")
    values = {
        "name": "tiny",
        "output_dir": str(tmp_path / "runs"),
        "data": {"format": "table", "path": str(tmp_path / "log.csv"), "items": str(tmp_path / "items.csv"),
                 "splits": ["leave_one_out"]},
        "model": {"base": base, "lora_r": 4},
        "catalogue": {"max_history": 6},
        "sft": {"num_train_epochs": 4, "save_steps": 2, "per_device_train_batch_size": 4, "eval_users": 5},
        "reward": {"num_train_epochs": 4},
        "ppo": {"total_episodes": 256, "eval_users": 5, "eval_steps": 1, "save_steps": 1, "response_length": 16},
        "evaluation": {"bootstrap": 100, "sasrec": None},
        "report_to": [],
    }  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def start(stage: str, config: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "llmrec", VERBS[stage], str(config)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for_work(run: Path, stage: str) -> None:
    """Waits until the stage has written something besides `started.json`, and a moment longer."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        written = [path for path in run.glob(f"{stage}/**/*") if path.name != "started.json"]
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


def launch(stage: str, config: Path) -> "subprocess.Popen[str]":
    """Starts a stage in two processes, in a process group of its own as a terminal does."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu.yaml"]
    command += ["--main_process_port", port, f"scripts/train_{stage}.py", "--config", str(config)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["launcher", "group", "second process"])
def test_a_signal_under_accelerate(config: Path, whom: str) -> None:
    """The end of one process ends all. Only the launcher, which is no part of llmrec, prints a traceback."""
    run = config.parent / "runs" / "tiny"
    text = config.read_text(encoding="utf-8").replace("num_train_epochs: 4", "num_train_epochs: 400")
    config.write_text(text, encoding="utf-8")
    assert start("data", config).wait(PATIENCE) == 0
    launcher = launch("sft", config)
    wait_for_work(run, "sft")
    processes = psutil.Process(launcher.pid).children(recursive=True)
    if whom == "launcher":
        launcher.terminate()
    elif whom == "group":
        os.killpg(launcher.pid, signal.SIGINT)
    else:
        processes[-1].terminate()
    out, _ = launcher.communicate(timeout=PATIENCE)
    _, living = psutil.wait_procs(processes, timeout=PATIENCE)
    assert launcher.returncode != 0 and living == [] and len(processes) == 2
    assert "bug in llmrec" not in out and out.count("Run the same command again") <= 1
    assert unfinished_files(run) == [] and not (run / "sft" / "metrics.json").exists()
    with locked(run):  # the lock is free
        pass

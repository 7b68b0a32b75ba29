"""The scripts that `accelerate launch` starts: arguments, exit codes and output."""

import json
from pathlib import Path

import pytest

from llmrec.cli import launch
from llmrec.run import Run
from tests.cli.test_app import ROOT, python


@pytest.mark.parametrize(
    ("script", "arguments", "code", "shown"),
    [
        ("train_sft.py", ["--config", "none.yaml"], 2, "There is no config file none.yaml"),
        ("train_ppo.py", [], 2, "--config"),
        ("train_reward.py", ["--help"], 0, "--config"),
    ],
)
def test_scripts(tmp_path: Path, script: str, arguments: list[str], code: int, shown: str) -> None:
    done = python(str(ROOT / "scripts" / script), *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert shown in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", ["data", "sft", "ppo"])
def test_only_the_ppo_script_pushes(monkeypatch, capsys, config: Path, stub_stage, stage: str) -> None:
    pushed: list[Run] = []
    monkeypatch.setattr(launch, "exit_with", lambda action: action())
    monkeypatch.setattr(launch, "push_if_configured", lambda run, console: pushed.append(run))
    monkeypatch.setattr("sys.argv", ["train.py", "--config", str(config), "--json"])
    for name in ("data", "sft", "reward", "ppo"):
        stub_stage(name, lambda run, name=name: run.finish(name, {"stage": name}))
        monkeypatch.setattr(Run, "require", lambda self, *stages: None)
    launch.stage_main(stage)
    assert json.loads(capsys.readouterr().out) == {"stage": stage}
    assert len(pushed) == (stage == "ppo")


@pytest.mark.parametrize("launched", [True, False])
def test_cpu_processes_are_joined_only_under_a_launcher(monkeypatch, launched: bool) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "")  # restored after the test
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    if launched:
        monkeypatch.setenv("LOCAL_RANK", "0")
    launch.join_cpu_processes()
    assert (launch.os.environ.get("ACCELERATE_USE_CPU") == "true") == launched

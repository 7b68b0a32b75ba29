"""The `llmrec` command as a process: help, version, exit codes and start-up time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmrec.cli.app import COMMANDS

ROOT = Path(__file__).parents[2]
LISTED = {
    *("run", "prepare", "sft", "reward", "ppo", "evaluate", "report", "recommend"),
    *("estimate", "off-policy", "export", "push", "list", "diff"),
}


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=variables, capture_output=True, text=True, timeout=60
    )


def test_all_commands_are_registered() -> None:
    assert set(COMMANDS) >= LISTED


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_describes_the_command_and_every_option(llmrec, capsys, monkeypatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert llmrec(command, "--help") == 0
    out, err = capsys.readouterr()
    assert "Usage:" in out and err == ""
    summary = (COMMANDS[command].__doc__ or "").splitlines()[0]
    assert summary.endswith(".") and summary in " ".join(out.split())


def test_every_command_offers_json(llmrec, capsys) -> None:
    for command in LISTED:
        llmrec(command, "--help")
        assert "--json" in capsys.readouterr().out, command


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        (["--version"], 0, "llmrec 0."),
        (["--help"], 0, "recommend"),
        (["sft"], 2, "Missing argument"),
        (["stf", "x.yaml"], 2, "No such command"),
        (["sft", "none.yaml"], 2, "There is no config file none.yaml"),
        (["push", "--run", ".", "--repo", "a/b"], 2, "is not a run directory"),
    ],
)
def test_exit_codes_of_processes(tmp_path: Path, arguments: list[str], code: int, shown: str) -> None:
    done = python("-m", "llmrec", *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert shown in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_and_config_errors_do_not_import_torch(tmp_path: Path) -> None:
    code = "import sys, llmrec.cli.app; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert python("-c", code, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--run", "x", "--sampled-share", "nan"],
        ["serve", "--run", "x", "--rate", "nan"],
        ["learn", "x", "--every", "nan"],
    ],
)
def test_nan_is_outside_of_all_limits(llmrec, capsys, arguments: list[str]) -> None:
    assert llmrec(*arguments) == 2
    assert "Input should be" in capsys.readouterr().err

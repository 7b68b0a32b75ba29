"""Exit codes and error messages without tracebacks."""

import errno
from pathlib import Path

import pytest

from llmrec.errors import UserError
from llmrec.run import Run


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (UserError("set the key"), 2, "error: set the key"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "Free some space"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 2, "Free some space"),
        (KeyboardInterrupt(), 130, "Run the same command again to continue"),
    ],
)
def test_user_errors_have_no_traceback(llmrec, stub_stage, capsys, config: Path, error, code: int, shown: str) -> None:
    def fail(run: Run) -> None:
        raise error

    stub_stage("data", fail)
    assert llmrec("prepare", str(config), "--json") == code
    out, err = capsys.readouterr()
    assert out == "" and shown in err and "Traceback" not in err


def test_bugs_have_a_traceback(llmrec, stub_stage, capsys, config: Path) -> None:
    def fail(run: Run) -> None:
        raise ZeroDivisionError("by zero")

    stub_stage("data", fail)
    assert llmrec("prepare", str(config)) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and err.strip().splitlines()[-1].endswith("ZeroDivisionError: by zero")


def test_traceback_on_request(llmrec, monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMREC_TRACEBACK", "1")
    assert llmrec("sft", str(tmp_path / "none.yaml")) == 2
    assert "Traceback" in capsys.readouterr().err

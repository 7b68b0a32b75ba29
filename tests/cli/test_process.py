"""Exit codes and error messages without tracebacks: whose fault it is, and what the user can do."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from llmrec.cli.output import print_json
from llmrec.cli.process import explain
from llmrec.config import explain as explain_key
from llmrec.errors import TrainingError, UserError
from llmrec.files import atomic_directory
from llmrec.progress.console import console_for
from llmrec.run import Run
from tests.cli.test_app import ROOT


def os_error(number: int, *path: str) -> OSError:
    return OSError(number, os.strerror(number), *path)


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (UserError("set the key"), 2, "error: set the key"),
        (TrainingError("the loss is NaN"), 1, "error: the loss is NaN"),
        (os_error(errno.ENOSPC), 2, "Free some space"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 2, "Free some space"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 39811 vs 39764"), 2, "Free some"),
        (os_error(errno.EACCES, "log.csv"), 2, "Permission denied (log.csv). Change the permissions"),
        (os_error(errno.EROFS, "runs"), 2, "a writable `output_dir`"),
        (os_error(errno.ENOTDIR, "a/b"), 2, "Not a directory (a/b). Move or rename what is in the way"),
        (os_error(errno.EISDIR, "a"), 2, "Is a directory (a)"),
        (os_error(errno.ENOENT, "sft/adapter"), 2, "(sft/adapter). Check the path"),
        (os_error(errno.ENAMETOOLONG, "aaa"), 2, "Choose a shorter path"),
        (os_error(errno.ELOOP, "a"), 2, "Correct the symbolic link"),
        (os_error(errno.EMFILE), 2, "ulimit -n"),
        (os_error(errno.EIO), 2, "check the disk and its limits"),
        (os_error(errno.ESTALE), 2, "run the same command again"),
        (os_error(errno.EFBIG), 2, "check the disk and its limits"),
        (os_error(errno.EINTR), 2, "run the same command again"),
        (os_error(errno.ECONNREFUSED), 2, "Check the network"),
        (os_error(errno.ETIMEDOUT), 2, "Check the network"),
        (MemoryError(), 2, "Not enough memory (MemoryError). `llmrec estimate CONFIG`"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 2, "Tried to allocate 2 GiB"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory"),
            2,
            "Not enough",
        ),
        (RuntimeError("CUDA error: out of memory"), 2, "Not enough memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), 2, "Not enough memory"),
        (UnicodeEncodeError("utf-8", "a\ud800", 1, 2, "surrogates not allowed"), 2, r"holds '\ud800'"),
        (KeyboardInterrupt(), 130, "Interrupted. Run the same command again to continue"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_user_errors_have_no_traceback(llmrec, stub_stage, capsys, config: Path, error, code: int, shown: str) -> None:
    def fail(run: Run) -> None:
        raise error

    stub_stage("data", fail)
    assert llmrec("prepare", str(config), "--json") == code
    out, err = capsys.readouterr()
    assert out == "" and shown in err and "Traceback" not in err and "bug" not in err


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("by zero"),
        EOFError("Ran out of input"),  # typer would end with `Aborted!`
        os_error(errno.ECHILD),
        OSError("without a number"),
        RuntimeError("CUDA error: device-side assert triggered"),
        UnicodeEncodeError("cp1252", "Ж", 0, 1, "undefined"),
    ],
    ids=repr,
)
def test_bugs_have_a_traceback(llmrec, stub_stage, capsys, config: Path, error: Exception) -> None:
    def fail(run: Run) -> None:
        raise error

    stub_stage("data", fail)
    assert llmrec("prepare", str(config)) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and f"error: This is a bug in llmrec, please report it: {type(error).__name__}" in err


def test_traceback_on_request(llmrec, monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMREC_TRACEBACK", "1")
    assert llmrec("sft", str(tmp_path / "none.yaml")) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_error_that_is_its_own_cause_ends(llmrec, stub_stage, config: Path) -> None:
    def fail(run: Run) -> None:
        error = os_error(errno.ECHILD)
        error.__cause__ = error
        raise error

    stub_stage("data", fail)
    assert llmrec("prepare", str(config)) == 1


def test_the_keys_in_the_advice_on_memory_exist() -> None:
    keys = re.findall(r"`([a-z_]+\.[a-z_]+)", explain(MemoryError()) or "")
    assert len(keys) == 5
    for key in keys:
        assert key in explain_key(key)


@pytest.mark.parametrize("rank", ["0", None])
def test_the_end_of_another_process_is_no_bug(monkeypatch, rank: str | None) -> None:
    """Messages of gloo and NCCL when a process of the same training was stopped."""
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    for message in (
        "[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:11649.",
        "NCCL error: remote process exited or there was a network error\nncclRemoteError",
    ):
        explanation = explain(RuntimeError(message))
        assert (explanation is None) == (rank is None)
        assert explanation is None or ("Another process" in explanation and "\n" not in explanation)


@pytest.mark.parametrize(("rank", "messages"), [("0", 1), ("1", 0)])
def test_only_the_main_process_says_that_it_was_stopped(
    llmrec, stub_stage, capsys, monkeypatch, config: Path, rank: str, messages: int
) -> None:
    def stop(run: Run) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    stub_stage("data", stop)
    monkeypatch.setenv("RANK", rank)
    assert llmrec("prepare", str(config)) == 143
    assert capsys.readouterr().err.count("Terminated.") == messages


def test_a_file_name_that_the_locale_cannot_spell(monkeypatch) -> None:
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")  # LC_ALL=C without Python's UTF-8 mode
    assert "Set LC_ALL=C.UTF-8" in (explain(UnicodeEncodeError("ascii", "Ж.csv", 0, 1, "not in range")) or "")


# --- paths of the user ----------------------------------------------------------------------------


def test_an_output_directory_below_a_file(llmrec, stub_stage, capsys, config: Path, tmp_path: Path) -> None:
    stub_stage("data", lambda run: run.finish("data", {}))
    (tmp_path / "runs").write_text("in the way")
    assert llmrec("prepare", str(config)) == 2
    assert "Move or rename what is in the way" in capsys.readouterr().err
    (tmp_path / "runs").rename(tmp_path / "moved")  # the advice
    assert llmrec("prepare", str(config)) == 0


def test_a_name_that_is_too_long(llmrec, stub_stage, capsys, config: Path) -> None:
    stub_stage("data", lambda run: run.finish("data", {}))
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("name: a", f"name: {'a' * 300}"), encoding="utf-8")
    assert llmrec("prepare", str(config)) == 2
    assert "shorter" in capsys.readouterr().err
    config.write_text(text, encoding="utf-8")  # the advice
    assert llmrec("prepare", str(config)) == 0


@pytest.mark.parametrize("arguments", [["sft", "a" * 5000], ["report", "a" * 5000], ["sft", "x\0y"], ["list", "none"]])
def test_impossible_paths(llmrec, capsys, monkeypatch, tmp_path: Path, arguments: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert llmrec(*arguments) == 2
    assert "bug" not in capsys.readouterr().err


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code", "shown"),
    [
        (signal.SIGINT, 130, "Interrupted"),
        (signal.SIGTERM, 143, "Terminated"),
        (signal.SIGHUP, 129, "The terminal was closed"),
    ],
)
def test_a_signal_ends_a_stage_and_leaves_nothing_half_written(
    llmrec, stub_stage, capsys, config: Path, tmp_path: Path, number: signal.Signals, code: int, shown: str
) -> None:
    def write(run: Run) -> None:
        with atomic_directory(run.path("data", "tables")) as folder:
            (folder / "half").touch()
            os.kill(os.getpid(), number)
            (folder / "whole").touch()

    # A parent that runs in the background may have left the signal ignored, and then a stage ignores it too.
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    before = signal.getsignal(number)
    stub_stage("data", write)
    assert llmrec("prepare", str(config)) == code
    assert f"{shown}. Run the same command again to continue." in capsys.readouterr().err
    assert signal.getsignal(number) == before
    folder = tmp_path / "runs" / "a"
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "data", ".lock"}
    assert [path.name for path in (folder / "data").iterdir()] == ["started.json"]
    stub_stage("data", lambda run: run.finish("data", {}))
    assert llmrec("prepare", str(config)) == 0  # the advice


def test_a_signal_that_the_parent_ignores_stays_ignored(llmrec, stub_stage, config: Path) -> None:
    def finish(run: Run) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        run.finish("data", {})

    stub_stage("data", finish)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert llmrec("prepare", str(config)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


# --- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_narrow_encoding_prints_escapes(llmrec, stub_stage, monkeypatch, config: Path, encoding: str) -> None:
    titles = ["Андрей Рублёв", "Amélie", "😀", "\ud800"]
    stub_stage("data", lambda run: run.finish("data", {"titles": titles[:3]}))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert llmrec("prepare", str(config), "--json") == 0
    written = sys.stdout.buffer.getvalue().decode(encoding)
    assert json.loads(written) == {"titles": titles[:3]}
    print_json(titles)
    console_for().print(titles[0])
    sys.stdout.flush()
    assert json.loads(sys.stdout.buffer.getvalue().decode(encoding)[len(written) :].partition("]")[0] + "]") == titles


def llmrec_process(
    *arguments: str, cwd: Path, stdout: int, stderr: int = subprocess.PIPE, variables: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(variables or {})}
    command = [sys.executable, "-m", "llmrec", *arguments]
    return subprocess.run(command, env=environment, stdout=stdout, stderr=stderr, cwd=cwd, text=True, timeout=60)


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    """The descriptor of a pipe whose reader has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


CLOSED_PIPES = [
    # arguments of the command, exit code if stdout is closed, exit code if stdout and stderr are
    (["--help"], 141, 141),
    (["--version"], 141, 141),
    (["recommend", "--help"], 141, 141),
    (["list", "."], 141, 141),
    (["list", ".", "--json"], 141, 141),
    (["config"], 141, 141),
    (["stf"], 2, 141),
    (["sft", "none.yaml"], 2, 2),
]


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize(("arguments", "of_stdout", "of_both"), CLOSED_PIPES, ids=str)
def test_a_closed_pipe_in_every_kind_of_output(
    llmrec, monkeypatch, run_directory: Path, closed_pipe: int, arguments: list[str], of_stdout, of_both, buffered: bool
) -> None:
    monkeypatch.chdir(run_directory.parent)
    monkeypatch.setattr("llmrec.cli.process._discard_output", lambda: None)  # pytest needs its own descriptors

    def closed() -> io.TextIOWrapper:
        raw = io.FileIO(closed_pipe, "w", closefd=False)
        return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", write_through=not buffered)

    error_output = ""
    for stderr, code in ((io.StringIO(), of_stdout), (closed(), of_both)):
        monkeypatch.setattr(sys, "stdout", closed())
        monkeypatch.setattr(sys, "stderr", stderr)
        assert llmrec(*arguments) == code
        error_output += stderr.getvalue() if isinstance(stderr, io.StringIO) else ""
        for stream in (sys.stdout, sys.stderr):
            with suppress(BrokenPipeError):
                stream.close()
    monkeypatch.undo()
    assert "Traceback" not in error_output and (error_output == "") == (of_stdout == 141)


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 141), (["config"], 141), (["sft", "none.yaml"], 2)])
def test_processes_with_a_closed_pipe_keep_their_exit_code(
    tmp_path: Path, closed_pipe: int, arguments: list[str], code: int
) -> None:
    """Python would end with 120 if it could not flush a stream."""
    buffered = {"PYTHONUNBUFFERED": ""}
    done = llmrec_process(*arguments, cwd=tmp_path, stdout=closed_pipe, stderr=closed_pipe, variables=buffered)
    assert done.returncode == code


def test_a_closed_stdout_is_no_error(tmp_path: Path) -> None:
    command = 'exec "$0" -m llmrec config --explain name >&- <&-'
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command, sys.executable], env=variables, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_device_as_stdout(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = llmrec_process("config", cwd=tmp_path, stdout=full.fileno())
    assert done.returncode == 2 and "No space is left" in done.stderr


def test_a_dumb_ascii_terminal(tmp_path: Path) -> None:
    """No escape codes and no characters outside of ASCII."""
    (tmp_path / "runs" / "Ж").mkdir(parents=True)
    (tmp_path / "runs" / "Ж" / "config.yaml").write_text("name: a\ndata: {format: movielens, path: x}\n")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TERM": "dumb", "COLUMNS": "40"}
    done = llmrec_process("list", "runs", cwd=tmp_path, stdout=subprocess.PIPE, variables=plain)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and "\x1b" not in done.stdout and "NDCG@10" in done.stdout

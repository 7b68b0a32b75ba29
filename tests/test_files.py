"""Atomic writes, reads with clear errors, and the choice of the newest complete checkpoint."""

import errno
import json
import math
import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from llmrec import files
from llmrec.errors import CatalogueError, DataError, ModelError, UserError
from llmrec.files import (
    atomic_directory,
    atomic_path,
    newest_checkpoint,
    plain,
    read_json,
    read_versioned,
    remove_leftovers,
    write_json,
    write_text,
    write_with,
)


def _write_half(path: Path) -> None:
    path.write_text("half")
    raise ZeroDivisionError


def _names(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}


def test_file_is_replaced_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "a.json", {"é": 1})
    write_json(tmp_path / "deep" / "a.json", {"é": 2})
    assert read_json(tmp_path / "deep" / "a.json") == {"é": 2}
    assert _names(tmp_path / "deep") == {"a.json"}


def test_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ZeroDivisionError):
        write_with(tmp_path / "a.json", _write_half)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert read_json(tmp_path / "a.json") == 1
    assert _names(tmp_path) == {"a.json"}


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff"])
def test_a_damaged_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a.json is not readable .*Copy it again, or write it again"):
        read_json(tmp_path / "a.json")


def test_directory_is_swapped_whole(tmp_path: Path) -> None:
    for content in ("one", "two"):
        with atomic_directory(tmp_path / "d") as temporary:
            (temporary / content).write_text(content)
    assert _names(tmp_path / "d") == {"two"}
    with pytest.raises(ZeroDivisionError), atomic_directory(tmp_path / "d") as temporary:
        _write_half(temporary / "three")
    assert _names(tmp_path / "d") == {"two"} and _names(tmp_path) == {"d"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_says_what_to_do(tmp_path: Path, code: int) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(UserError, match="free some space.*run the same command again"):  # noqa: SIM117
        with atomic_path(tmp_path / "a.json"):
            raise OSError(code, "No space left on device")
    assert read_json(tmp_path / "a.json") == 1 and _names(tmp_path) == {"a.json"}


def test_full_disk_while_making_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "touch", full)
    with pytest.raises(UserError, match="No space left"):
        write_json(tmp_path / "a.json", 1)


def test_unwritable_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments, **named):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "touch", refused)
    with pytest.raises(UserError, match="writable `output_dir`"):
        write_json(tmp_path / "a.json", 1)


def test_a_missing_file_passes_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.json"):
        (tmp_path / "absent").read_text()


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EFBIG, errno.EINTR, errno.EBUSY])
def test_disk_fault_is_explained(tmp_path: Path, code: int) -> None:
    with pytest.raises(UserError, match="check the disk") as caught, atomic_path(tmp_path / "a.json"):
        raise OSError(code, "disk fault")
    assert isinstance(caught.value.__cause__, OSError)
    assert _names(tmp_path) == set()


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EFBIG, errno.EROFS, errno.ENOTDIR, errno.EINTR])
@pytest.mark.parametrize(
    ("write", "step"),
    [
        *((atomic_path, step) for step in ("pathlib.Path.mkdir", "pathlib.Path.touch", "os.chmod", "os.replace")),
        *((atomic_directory, step) for step in ("pathlib.Path.mkdir", "os.chmod", "os.replace")),
    ],
)
def test_every_step_of_a_write_may_fail(tmp_path: Path, monkeypatch, write, step: str, code: int) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise OSError(code, os.strerror(code))

    target = tmp_path / "target"
    if write is atomic_directory:
        target.mkdir()
    else:
        target.touch()
    monkeypatch.setattr(step, fail)
    with pytest.raises(UserError, match=f"^Cannot write {target}: {os.strerror(code)}. "), write(target):
        pass
    assert _names(tmp_path) == {"target"} and target.is_dir() == (write is atomic_directory)


@pytest.mark.parametrize("call", [1, 2])
def test_an_interrupt_between_the_renames_keeps_the_old_directory(tmp_path: Path, monkeypatch, call: int) -> None:
    calls = []

    def interrupted(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == call:
            raise KeyboardInterrupt
        rename(source, target)

    write_text(tmp_path / "d" / "old", "")
    rename = os.replace
    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_directory(tmp_path / "d"):
        pass
    assert _names(tmp_path) == {"d"} and _names(tmp_path / "d") == {"old"}


@pytest.mark.parametrize("function", ["_put_back", "_remove"])
def test_an_interrupt_during_the_clean_up_leaves_nothing(tmp_path: Path, monkeypatch, function: str) -> None:
    """A second Ctrl-C, or one that arrives just after the renames."""
    calls = []

    def interrupted(*paths: Path) -> None:
        calls.append(paths)
        if len(calls) == 1:
            raise KeyboardInterrupt
        clean(*paths)

    (tmp_path / "d").mkdir()
    clean = getattr(files, function)
    monkeypatch.setattr(files, function, interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_directory(tmp_path / "d") as temporary:
        (temporary / "new").touch()
    assert _names(tmp_path) == {"d"} and _names(tmp_path / "d") == {"new"}


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    for name in ("sft/.adapter.0123abcd.tmp/half", "sft/.adapter.0123abcd.old/whole", "sft/.config.json.89abcdef.tmp"):
        write_text(tmp_path / name, "")
    for name in ("sft/.hidden", "sft/notes.tmp", "ppo/adapter/whole", "ppo/.adapter.0123abcd.old/former"):
        write_text(tmp_path / name, "")
    remove_leftovers(tmp_path)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"sft/adapter/whole", "sft/.hidden", "sft/notes.tmp", "ppo/adapter/whole"}
    remove_leftovers(tmp_path / "absent")


def test_a_file_where_a_directory_should_be_is_explained(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "")
    with pytest.raises(UserError, match="Move or rename what is in the way"):
        write_json(tmp_path / "a" / "b.json", 1)


@pytest.mark.parametrize("error", [OSError(errno.ECHILD, "no child"), ModelError("a damaged adapter")])
@pytest.mark.parametrize("write", [atomic_path, atomic_directory])
def test_other_os_errors_pass_through(tmp_path: Path, write, error: OSError) -> None:
    """The error is not its own cause: code that follows causes would never end."""
    with pytest.raises(type(error)) as caught, write(tmp_path / "a"):
        raise error
    assert caught.value is error and error.__cause__ is None
    assert _names(tmp_path) == set()


def test_plain_makes_json_values() -> None:
    value = {
        1: np.float32(0.5),
        "array": np.array([[1, 2]]),
        "tensor": torch.tensor([1.0, math.nan]),
        "tuple": (np.int64(3), math.inf),
        "path": Path("a/b"),
        "none": None,
    }
    expected = {"1": 0.5, "array": [[1, 2]], "tensor": [1.0, None], "tuple": [3, None], "path": "a/b", "none": None}
    assert plain(value) == expected
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == expected


def test_read_versioned_builds_the_value(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"format": 1, "items": [1, 2]})
    assert read_versioned(tmp_path / "a.json", 1, lambda values: sum(values["items"])) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "a.json is missing: .* is not an adapter written by llmrec"),
        ("{", "a.json is not readable"),
        ("[]", "a.json is not readable"),
        ('{"format": 3}', "a.json has format 3; this llmrec reads up to 2"),
        ('{"format": 2}', "a.json is not readable .*items"),
    ],
)
def test_read_versioned_explains_what_is_wrong(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        write_text(tmp_path / "a.json", text)
    with pytest.raises(ModelError, match=message):
        read_versioned(tmp_path / "a.json", 2, lambda values: values["items"])


def test_read_versioned_keeps_errors_that_already_explain(tmp_path: Path) -> None:
    def refuse(values: dict) -> None:
        raise CatalogueError("no such item")  # also a KeyError

    write_json(tmp_path / "a.json", {"format": 1})
    with pytest.raises(CatalogueError):
        read_versioned(tmp_path / "a.json", 1, refuse)


def _checkpoint(root: Path, step: int, **state: object) -> Path:
    folder = root / f"checkpoint-{step}"
    write_text(folder / "weights", "12345")
    write_json(folder / "state.json", state)
    return folder


def test_the_newest_checkpoint_is_the_one_with_the_highest_step(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path, "state.json") is None
    for step in (9, 10):
        _checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    assert newest_checkpoint(tmp_path, "state.json") == tmp_path / "checkpoint-10"


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: write_text(folder / "weights", "1234"),
        lambda folder: (folder / "weights").unlink(),
        lambda folder: (folder / "state.json").unlink(),
        lambda folder: write_text(folder / "state.json", '{"fi'),
        lambda folder: write_text(folder / "state.json", "[]"),
    ],
)
def test_an_incomplete_checkpoint_is_ignored_with_a_warning(tmp_path: Path, damage) -> None:
    for step in (1, 2):
        _checkpoint(tmp_path, step, files={"weights": 5})
    damage(tmp_path / "checkpoint-2")
    with pytest.warns(UserWarning, match="checkpoint-2 is incomplete"):
        assert newest_checkpoint(tmp_path, "state.json") == tmp_path / "checkpoint-1"


@pytest.mark.parametrize(("rank", "removed"), [("0", True), ("1", False)])
def test_only_the_main_process_removes_unfinished_checkpoints(tmp_path: Path, monkeypatch, rank, removed) -> None:
    monkeypatch.setenv("RANK", rank)
    leftover = tmp_path / ".checkpoint-3.abc.tmp"
    leftover.mkdir()
    with pytest.warns(UserWarning, match="was being written") if removed else nullcontext():
        newest_checkpoint(tmp_path, "state.json")
    assert leftover.exists() != removed

"""Nothing is ever half-written."""

import errno
from pathlib import Path

import pytest

from llmrec.errors import UserError
from llmrec.files import atomic_directory, atomic_path, read_json, write_json


def _names(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}


def test_file_is_replaced_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "a.json", {"é": 1})
    write_json(tmp_path / "deep" / "a.json", {"é": 2})
    assert read_json(tmp_path / "deep" / "a.json") == {"é": 2}
    assert _names(tmp_path / "deep") == {"a.json"}


def test_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", float("nan"))
    assert read_json(tmp_path / "a.json") == 1
    assert _names(tmp_path) == {"a.json"}


def test_directory_is_swapped_whole(tmp_path: Path) -> None:
    for content in ("one", "two"):
        with atomic_directory(tmp_path / "d") as temporary:
            (temporary / content).write_text(content)
    assert _names(tmp_path / "d") == {"two"}
    with pytest.raises(ZeroDivisionError), atomic_directory(tmp_path / "d") as temporary:
        (temporary / "three").write_text("half")
        raise ZeroDivisionError
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

    monkeypatch.setattr("tempfile.mkstemp", full)
    with pytest.raises(UserError, match="No space left"):
        write_json(tmp_path / "a.json", 1)


def test_unwritable_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments, **named):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refused)
    with pytest.raises(UserError, match="writable `output_dir`"):
        write_json(tmp_path / "a.json", 1)


def test_other_os_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.json"):
        (tmp_path / "absent").read_text()

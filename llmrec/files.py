"""Reads and writes files. Every write is atomic: the file or directory is complete, or it is not there.

A write goes to a temporary name in the same directory, which is renamed at the end.
"""

import json
import math
import os
import re
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from llmrec.distributed import is_main_process
from llmrec.errors import DataError, LlmrecError, ModelError, UserError, explain_os_error

Built = TypeVar("Built")
FileState = tuple[int, int]  # size in bytes, and time of the last change in nanoseconds

_TEMPORARY = ".tmp"
_REPLACED = ".old"
_LEFTOVER = re.compile(r"\.(?P<target>.+)\.[0-9a-z_]{8}(?P<suffix>\.tmp|\.old)")


def file_state(path: Path) -> FileState:
    """The present state of a file.

    Raises:
        OSError: there is no such file.
    """
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


# --- atomic writes --------------------------------------------------------------------------------


def atomic_path(target: str | os.PathLike[str]) -> AbstractContextManager[Path]:
    """Yields the path of a temporary file beside `target` and renames it to `target` on success.

    On failure the temporary file is removed and `target` stays as it was.

    Raises:
        UserError: the disk is full or faulty, or the directory is not writable.
    """
    return _replacing(Path(target), directory=False)


def atomic_directory(target: str | os.PathLike[str]) -> AbstractContextManager[Path]:
    """Yields a temporary directory beside `target` and swaps it in on success.

    On failure the temporary directory is removed and `target` stays as it was.

    Raises:
        UserError: the disk is full or faulty, or the directory is not writable.
    """
    return _replacing(Path(target), directory=True)


@contextmanager
def _replacing(target: Path, directory: bool) -> Iterator[Path]:
    """What `atomic_path` and `atomic_directory` share."""
    # The names are chosen before anything exists, so a signal at any moment finds what has to be removed.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{_TEMPORARY}")
    old = temporary.with_suffix(_REPLACED)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if directory:
            temporary.mkdir()
        else:
            temporary.touch(exist_ok=False)
        yield temporary
        os.chmod(temporary, 0o755 if directory else 0o644)
        if directory and target.exists():
            os.replace(target, old)
        os.replace(temporary, target)
    except OSError as error:
        explanation = explain_os_error(error) if _concerns(error, target, temporary) else None
        if explanation is None:
            raise  # not `raise error from error`: a loop over the causes of such an error never ends
        raise UserError(f"Cannot write {target}: {explanation}") from error
    finally:
        try:
            _clean_up(target, temporary, old)
        except BaseException:  # a signal arrived meanwhile
            _clean_up(target, temporary, old)
            raise


def _concerns(error: OSError, target: Path, temporary: Path) -> bool:
    """Whether an error comes from writing `target`, and not from another file that was read meanwhile."""
    named = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    written = {target, *target.parents}
    return not named or any(name in written or temporary in (name, *name.parents) for name in named)


def _clean_up(target: Path, temporary: Path, old: Path) -> None:
    _put_back(old, target)
    _remove(temporary)


def _put_back(old: Path, target: Path) -> None:
    """Removes the replaced directory, or gives it its name again if nothing has taken its place."""
    if old.exists() and not target.exists():
        os.replace(old, target)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):  # this runs after a failure, whose error must be the one that is seen
        path.unlink(missing_ok=True)


def remove_leftovers(directory: Path) -> None:
    """Removes what writes of a killed process have left in a directory and the folders inside it.

    A directory that was about to be replaced gets its name again. Nobody may be writing there meanwhile.
    """
    for path in list(directory.rglob(".*")):
        if match := _LEFTOVER.fullmatch(path.name):
            if match["suffix"] == _REPLACED:
                _put_back(path, path.with_name(match["target"]))
            else:
                _remove(path)


def write_with(target: str | os.PathLike[str], write: Callable[[Path], Any]) -> None:
    """Writes `target` atomically with any function that takes a path, e.g. `frame.to_parquet`."""
    with atomic_path(target) as temporary:
        write(temporary)


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_with(target, lambda path: path.write_text(text, encoding="utf-8"))


def write_json(target: str | os.PathLike[str], value: Any) -> None:
    """Writes JSON atomically, indented and in UTF-8.

    Raises:
        ValueError: a number is NaN or infinite; see `plain`.
    """
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


# --- reads ----------------------------------------------------------------------------------------


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file.

    Raises:
        DataError: the file is not JSON in UTF-8.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # json and codecs raise subclasses of it
        raise DataError(f"{path} is not readable ({error}). Copy it again, or write it again.") from None


def read_json_lines(
    path: str | os.PathLike[str], is_expected: Callable[[Any], bool], expected: str
) -> list[tuple[int, Any]]:
    """The lines of a file of JSON Lines that are not blank, each with its number from 1.

    Args:
        path: the file.
        is_expected: whether the value of a line can be used.
        expected: what a line should be, for messages.

    Raises:
        UserError: the file cannot be read, or a line cannot be used.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")  # a text may hold U+2028, another line end
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}. Name a file of JSON Lines, each {expected}.") from None
    rows: list[tuple[int, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not is_expected(row):
            raise UserError(f"{path}, line {number}: found {line[:60]!r}, expected {expected}.")
        rows.append((number, row))
    return rows


def read_versioned(
    path: str | os.PathLike[str],
    newest: int,
    build: Callable[[dict[str, Any]], Built],
    kind: str = "an adapter",
) -> Built:
    """Reads a JSON object that has a `format` number, and builds a value from it.

    Args:
        path: the file.
        newest: the newest format that this version can read.
        build: makes the value. A KeyError, TypeError, ValueError or IndexError in it means that the file is malformed.
        kind: what a directory with this file is, for the message when the file is missing.

    Raises:
        ModelError: the file is missing, malformed or of a newer format.
    """
    path = Path(path)
    try:
        values = read_json(path)
    except DataError as error:
        raise ModelError(str(error)) from None
    except FileNotFoundError:
        raise ModelError(f"{path} is missing: {path.parent} is not {kind} written by llmrec.") from None
    try:
        if values["format"] > newest:
            raise ModelError(f"{path} has format {values['format']}; this llmrec reads up to {newest}: update it.")
        return build(values)
    except LlmrecError:  # some are also a ValueError or a KeyError
        raise
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(f"{path} is not readable ({error}). Copy it again, or write it again.") from None


def plain(value: Any) -> Any:
    """Converts a value to what JSON can hold.

    NumPy and torch scalars and arrays become Python numbers and lists, tuples become lists, paths become strings, keys
    become strings, and NaN and infinities become None.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


# --- checkpoints ----------------------------------------------------------------------------------


def newest_checkpoint(root: Path, state_file: str) -> Path | None:
    """Finds the complete `checkpoint-<step>` directory with the highest step.

    A checkpoint is complete if its state file, which is written last, is readable. If that file has a key `files`
    (path to size in bytes, see `file_sizes`), every file must have its recorded size as well.

    Warns about each newer checkpoint that is incomplete. The main process also removes directories that
    `atomic_directory` was still writing when an earlier process was killed.

    Args:
        root: the directory that holds the checkpoints.
        state_file: name of the JSON file in a checkpoint that is written last.
    """
    for leftover in sorted(root.glob(".checkpoint-*")) if is_main_process() else ():
        warnings.warn(f"{leftover} was being written when a run ended; it is removed.", stacklevel=2)
        shutil.rmtree(leftover, ignore_errors=True)
    for _, folder in reversed(checkpoints_by_step(root)):
        if _is_complete(folder, state_file):
            return folder
        warnings.warn(f"{folder} is incomplete and is ignored; training goes on from an older one.", stacklevel=2)
    return None


def checkpoints_by_step(root: Path) -> list[tuple[int, Path]]:
    """Steps and directories of all checkpoints in `root`, complete or not, lowest step first."""
    found = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in root.glob("checkpoint-*"))
    return sorted((int(match.group(1)), path) for match, path in found if match)


def file_sizes(folder: Path, without: str) -> dict[str, int]:
    """Bytes of every file below a directory, by relative path; files named `without` are left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != without)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _is_complete(folder: Path, state_file: str) -> bool:
    try:
        state = read_json(folder / state_file)
    except (OSError, ValueError):
        return False
    if not isinstance(state, dict):
        return False
    return "files" not in state or state["files"] == file_sizes(folder, without=state_file)

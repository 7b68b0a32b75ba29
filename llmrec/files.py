"""Writing files so that nothing is ever half-written: a temporary name in the same directory, then a rename."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmrec.errors import UserError


def _explain_disk(error: OSError, target: Path) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"No space left on the disk while writing {target}. Earlier results are untouched: free some space, "
            "or choose another place with `output_dir`, and run the same command again."
        )
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return UserError(f"Cannot write {target}: {error.strerror}. Choose a writable `output_dir`.")
    return error


@contextmanager
def atomic_path(target: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `target`; renames it to `target` on success, removes it on failure.

    Raises:
        UserError: the disk is full or the place is not writable.
    """
    target = Path(target)
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except OSError as error:
        raise _explain_disk(error, target) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(target: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary directory beside `target` and swaps it in on success; on failure `target` is untouched.

    Raises:
        UserError: the disk is full or the place is not writable.
    """
    target = Path(target)
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        yield temporary
        os.chmod(temporary, 0o755)
        if target.exists():
            old = temporary.with_suffix(".old")
            os.replace(target, old)
            os.replace(temporary, target)
            shutil.rmtree(old)
        else:
            os.replace(temporary, target)
    except OSError as error:
        raise _explain_disk(error, target) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def write_with(target: str | os.PathLike, write: Callable[[Path], Any]) -> None:
    """Writes `target` atomically with any function that takes a path, e.g. `frame.to_parquet`."""
    with atomic_path(target) as temporary:
        write(temporary)


def write_text(target: str | os.PathLike, text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_with(target, lambda path: path.write_text(text, encoding="utf-8"))


def write_json(target: str | os.PathLike, value: Any) -> None:
    """Writes JSON atomically: indented, UTF-8, NaN refused."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))

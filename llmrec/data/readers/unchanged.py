"""Refuses files that something writes to while a log is read, also between two passes over them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from llmrec.errors import DataError

State = tuple[int, int]
_states: ContextVar[dict[Path, State] | None] = ContextVar("_states", default=None)


@contextmanager
def unchanged_files() -> Iterator[None]:
    """All files that are opened in the `with` block must stay as they are from their first opening to its end.

    Raises:
        DataError: one of them changed. This replaces an error about its content, which the change may have caused.
    """
    token = _states.set({})
    try:
        try:
            yield
        except DataError as error:
            _refuse_changes(error)
            raise
        _refuse_changes()
    finally:
        _states.reset(token)


def watch(path: Path) -> None:
    """Notes the state of a file that is about to be opened.

    Raises:
        OSError: there is no such file.
        DataError: it is another one than at its first opening in `unchanged_files`.
    """
    states = _states.get()
    if states is not None and states.setdefault(path, state_of(path)) != state_of(path):
        raise changed(path)


def state_of(path: Path) -> State:
    """Size and time of change of a file.

    Raises:
        OSError: there is no such file.
    """
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def changed(path: Path) -> DataError:
    """The error for a file that changed."""
    return DataError(
        f"{path}: the file changed while it was read; expected a file that nothing writes to. Wait until it is "
        "complete, or read a copy."
    )


def _refuse_changes(cause: DataError | None = None) -> None:
    for path, state in (_states.get() or {}).items():
        if not path.exists() or state_of(path) != state:
            raise changed(path) from cause

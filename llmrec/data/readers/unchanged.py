"""Refuses files that something writes to while a log is read, also between two passes over them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from llmrec.errors import DataError
from llmrec.files import FileState, file_state

_states: ContextVar[dict[Path, FileState] | None] = ContextVar("_states", default=None)


@contextmanager
def unchanged_files() -> Iterator[dict[Path, FileState]]:
    """All files that are opened in the `with` block must stay as they are from their first opening to its end.

    Yields:
        the state of each file at its first opening.

    Raises:
        DataError: one of them changed. This replaces an error about its content, which the change may have caused.
    """
    states: dict[Path, FileState] = {}
    token = _states.set(states)
    try:
        try:
            yield states
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
    if states is not None and states.setdefault(path, file_state(path)) != file_state(path):
        raise changed(path)


def changed(path: Path) -> DataError:
    """The error for a file that changed."""
    return DataError(
        f"{path}: the file changed while it was read; expected a file that nothing writes to. Wait until it is "
        "complete, or read a copy."
    )


def _refuse_changes(cause: DataError | None = None) -> None:
    for path, state in (_states.get() or {}).items():
        if not path.exists() or file_state(path) != state:
            raise changed(path) from cause

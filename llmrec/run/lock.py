"""The lock of a run directory: one process at a time runs stages there.

The lock is a lock of the operating system on `.lock`, so it vanishes with its process, however that ends. `.lock.json`
says who holds it. On file systems that are shared between hosts such a lock may hold on one host only. There the time
of `.lock.json`, which its owner renews every few seconds, shows whether the owner is alive.
"""

import errno
import os
import shlex
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from llmrec.distributed import is_main_process
from llmrec.errors import RunError, UserError, explain_os_error
from llmrec.files import read_json, remove_leftovers, write_json

LOCK_FILE = ".lock"
OWNER_FILE = ".lock.json"
RENEWAL_SECONDS = 15
SILENT_SECONDS = 120  # an owner on another host that has not renewed its file for this long has ended

_held: set[Path] = set()  # run directories that this process has locked
_LOCKS_UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock.

    Attributes:
        pid: its process id.
        host: name of its machine.
        command: its command line.
        started: when it took the lock, in ISO format with time zone.
    """

    pid: int
    host: str
    command: str
    started: str

    @classmethod
    def this_process(cls) -> "Owner":
        """This process, from now on."""
        program = Path(sys.argv[0]).name.replace("__main__.py", "llmrec")  # the former stands for `python -m llmrec`
        command = shlex.join([program, *sys.argv[1:]])
        return cls(os.getpid(), socket.gethostname(), command, datetime.now(UTC).isoformat(timespec="seconds"))

    def is_here(self) -> bool:
        """Whether the process runs, or ran, on this machine."""
        return self.host == socket.gethostname()

    def __str__(self) -> str:
        started = datetime.fromisoformat(self.started)
        minutes = (datetime.now(UTC) - started).total_seconds() / 60
        since = f"{started.astimezone():%Y-%m-%d %H:%M} ({minutes:.0f} minutes ago)"
        return f"`{self.command}`, process {self.pid} on {self.host}, since {since}"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the lock of a run directory while the `with` block runs. The block may take the lock again.

    What a killed process has left half-written is removed. Only the main process locks.

    Args:
        directory: the run directory. It is made if it does not exist.

    Raises:
        RunError: another process holds the lock.
        UserError: the directory is not writable.
    """
    if not is_main_process():
        yield
        return
    if directory.resolve() in _held:
        yield
        return
    lock = FileLock(directory / LOCK_FILE, timeout=0)
    reliable = _acquire(lock, directory)
    try:
        _refuse_living_owner(directory, reliable)
        remove_leftovers(directory)
        with _owned(directory):
            yield
    finally:
        lock.release()


@contextmanager
def _owned(directory: Path) -> Iterator[None]:
    """Records this process as the owner while the `with` block runs."""
    file = directory / OWNER_FILE
    held = directory.resolve()
    _held.add(held)
    try:
        write_json(file, asdict(Owner.this_process()))
        with _renewed(file):
            yield
    finally:
        _held.remove(held)
        file.unlink(missing_ok=True)


def _acquire(lock: FileLock, directory: Path) -> bool:
    """Takes the lock of the operating system; returns whether the file system supports it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise _in_use(directory, _owner_of(directory)) from None
    except OSError as error:
        if error.errno in _LOCKS_UNSUPPORTED:
            return False
        explanation = explain_os_error(error)
        if explanation is None:
            raise
        raise UserError(f"Cannot write {directory}: {explanation}") from error
    return True


def _refuse_living_owner(directory: Path, reliable: bool) -> None:
    """Raises RunError if the recorded owner may be alive although the lock was free."""
    owner = _owner_of(directory)
    if owner is None or (owner.is_here() and (reliable or not _is_running(owner.pid))):
        return
    silent = _silent_seconds(directory)
    if silent < SILENT_SECONDS:
        raise _in_use(directory, owner, silent)


def _in_use(directory: Path, owner: Owner | None, silent: float | None = None) -> RunError:
    """The error for the second process.

    Args:
        directory: the run directory.
        owner: the process that holds the lock; None if it is not known.
        silent: seconds since the owner has renewed its record, if only the record says that it is alive.
    """
    who = "another process"
    end = "end it"
    if owner is not None:
        who = str(owner)
        end = f"end it (`kill {owner.pid}`{'' if owner.is_here() else f' on {owner.host}'})"
    crashed = ""
    if silent is not None:
        crashed = (
            f" Its last sign of life is {silent:.0f} s old. If it was killed, wait until that is {SILENT_SECONDS} s "
            f"old, or delete {directory / OWNER_FILE}."
        )
    return RunError(
        f"{directory} is in use by {who}. Wait for it or {end}, then run the same command again. To run both, give "
        f"this config another `name`.{crashed}"
    )


def _owner_of(directory: Path) -> Owner | None:
    """The recorded owner; None if there is no readable record."""
    try:
        owner = Owner(**read_json(directory / OWNER_FILE))
        datetime.fromisoformat(owner.started)
    except (OSError, ValueError, TypeError):
        return None
    return owner


def _silent_seconds(directory: Path) -> float:
    """Seconds since the owner has renewed its record, by the clock of the file system: hosts' clocks may differ."""
    os.utime(directory / LOCK_FILE)
    return (directory / LOCK_FILE).stat().st_mtime - (directory / OWNER_FILE).stat().st_mtime


def _is_running(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid)


@contextmanager
def _renewed(file: Path) -> Iterator[None]:
    """Sets the time of a file to now every `RENEWAL_SECONDS` while the `with` block runs."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEWAL_SECONDS):
            with suppress(OSError):
                os.utime(file)

    thread = threading.Thread(target=renew, name="lock of the run directory", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

"""The error classes of llmrec.

Every message says what was found, what was expected and how to fix it. The command line prints only the message and
exits with `exit_code`. The exit code is 2 for a wrong input and 1 for a bug in llmrec. Each class also derives from the
standard exception that a library user would expect.
"""

import difflib
import errno
import os
from collections.abc import Iterable


class LlmrecError(Exception):
    """Base class of all errors that llmrec raises."""

    exit_code = 1


class UserError(LlmrecError):
    """Input from the user cannot be used. The message names it and says how to fix it."""

    exit_code = 2


class ConfigError(UserError, ValueError):
    """A config has an unknown key, a wrong type or an impossible value."""


class DataError(UserError, ValueError):
    """An input file has a missing column, an unreadable value, a duplicate or an unknown id."""


class CatalogueError(UserError, KeyError):
    """An item is not in the catalogue, or no item is left to recommend."""

    def __str__(self) -> str:  # a KeyError would show the message in quotes
        return str(self.args[0]) if self.args else ""


class ModelError(UserError, OSError):
    """A model, adapter or reward model is missing, unreadable or belongs to another base or catalogue."""


class RewardError(UserError, ValueError):
    """A part of the reward failed, or did not return one finite number for every recommendation."""


class RunError(UserError, RuntimeError):
    """A run directory belongs to another config, or a required stage has not run."""


class TrainingError(LlmrecError, RuntimeError):
    """Training has found an error in its own numbers. Everything that was saved before is kept."""


_ADVICE = {
    (errno.ENOSPC, errno.EDQUOT): (
        "Earlier results are untouched: free some space, or choose another place with `output_dir`, and run the same "
        "command again."
    ),
    (errno.EACCES, errno.EPERM, errno.EROFS): "Change the permissions, or choose a writable `output_dir`.",
    (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY): (
        "Move or rename what is in the way, or choose another path."
    ),
    (errno.ENOENT,): "Check the path. If a file of a run was moved or deleted, run its stage again.",
    (errno.ENAMETOOLONG,): "Choose a shorter path or `name`.",
    (errno.ELOOP,): "Correct the symbolic link.",
    (errno.EMFILE, errno.ENFILE): "Raise the limit of open files (`ulimit -n`).",
    (errno.ENOMEM,): "Close other programs, or use a machine with more memory.",
    (errno.EIO, errno.EFBIG, errno.ESTALE, errno.EBUSY, errno.EINTR, errno.ETXTBSY, errno.ENXIO, errno.ENODEV): (
        "Earlier results are untouched: check the disk and its limits, or choose another path, and run the same "
        "command again."
    ),
}
_ADVICE_BY_NUMBER = {number: advice for numbers, advice in _ADVICE.items() for number in numbers}


def explain_os_error(error: OSError) -> str | None:
    """Says what the operating system found and what the user can do about it.

    Args:
        error: an error with an error number.

    Returns:
        The system's message with the path, if it is known, and an advice. None if the error has no number, or one that
        neither a path nor the machine explains.
    """
    advice = _ADVICE_BY_NUMBER.get(error.errno or 0)
    if advice is None:
        return None
    paths = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return f"{error.strerror or error}{f' ({paths[0]})' if paths else ''}. {advice}"


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that is spelled most like `name`, for "Did you mean ...?" in an error message.

    Args:
        name: what the user gave.
        choices: what would have been accepted.

    Returns:
        The nearest choice, or None if no choice is similar.
    """
    matches = difflib.get_close_matches(name, list(choices), n=1)
    return matches[0] if matches else None

"""The error classes of llmrec.

Every message says what was found, what was expected and how to fix it. The command line prints only the message and
exits with `exit_code`. The exit code is 2 for a wrong input and 1 for a bug in llmrec. Each class also derives from the
standard exception that a library user would expect.
"""

import difflib
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

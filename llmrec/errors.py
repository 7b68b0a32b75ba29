"""Errors that a person can act on.

Every error says what was found, what was expected and how to mend it. The CLI prints the message alone and exits
with `exit_code`: 2 for a mistake in what the user gave, 1 for a fault of ours. Each class is also the standard
exception that a library caller would expect.
"""

import difflib
from collections.abc import Iterable


class LlmrecError(Exception):
    """Base of all errors that llmrec raises on purpose."""

    exit_code = 1


class UserError(LlmrecError):
    """Something the user gave cannot be used; the message names it and says how to mend it."""

    exit_code = 2


class ConfigError(UserError, ValueError):
    """A config has an unknown key, a wrong type or an impossible value."""


class DataError(UserError, ValueError):
    """An input file has a missing column, an unreadable value, a duplicate or an unknown id."""


class CatalogueError(UserError, KeyError):
    """An item is not in the catalogue, or no item is left to recommend."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class ModelError(UserError, OSError):
    """A model, adapter or reward model is missing, unreadable or belongs to another base or catalogue."""


class RewardError(UserError, ValueError):
    """A part of the reward failed, or did not give one finite number for every recommendation."""


class RunError(UserError, RuntimeError):
    """A run directory belongs to another config, or a stage that this one needs has not run."""


class TrainingError(LlmrecError, RuntimeError):
    """Training found that its own numbers cannot be right; nothing that was saved before is lost."""


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

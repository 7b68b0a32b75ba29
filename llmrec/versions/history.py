"""The history of a run's versions: one line for each change of a state, from which the states follow."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from llmrec.errors import RunError
from llmrec.files import write_text

State = Literal["candidate", "canary", "current", "retired", "rejected", "rolled back"]


@dataclass(frozen=True)
class Change:
    """A line of the history.

    Attributes:
        at: when the state changed, in ISO format with time zone.
        version: number of the version.
        state: its new state.
        why: one sentence.
        share: share of users that a canary is served to.
        metrics: numbers that the change rests on.
    """

    at: str
    version: int
    state: State
    why: str
    share: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)


def read_history(file: Path) -> list[Change]:
    """All changes, oldest first; empty without a file.

    Raises:
        RunError: the file was not written by llmrec.
    """
    if not file.is_file():
        return []
    try:
        lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise RunError(f"{file} is not UTF-8 text ({error}). Restore the file.") from None
    changes: list[Change] = []
    for number, line in enumerate(lines, start=1):
        try:
            changes.append(_read_change(line))
        except (ValueError, TypeError) as error:
            raise RunError(
                f"{file}, line {number}: {error}; expected a change of a version as llmrec writes it. Restore the file."
            ) from None
    current = [number for number, state in states_after(changes).items() if state == "current"]
    if len(current) != 1:
        raise RunError(f"{file}: {len(current)} versions are current; expected one. Restore the file.")
    return changes


def write_history(file: Path, changes: Sequence[Change]) -> None:
    """Writes all changes at once."""
    lines = [json.dumps(_without_defaults(one), ensure_ascii=False, allow_nan=False) for one in changes]
    write_text(file, "".join(f"{line}\n" for line in lines))


def states_after(changes: Sequence[Change]) -> dict[int, State]:
    """The present state of each version."""
    states: dict[int, State] = {0: "current"}
    for change in changes:
        states[change.version] = change.state
    return states


def _read_change(line: str) -> Change:
    """A line of the history.

    Raises:
        ValueError, TypeError: it is none.
    """
    change = Change(**json.loads(line))
    if type(change.version) is not int or change.version < 0:
        raise ValueError(f"{change.version!r} is no number of a version")
    if change.state not in get_args(State):
        raise ValueError(f"unknown state {change.state}")
    return change


def _without_defaults(change: Change) -> dict[str, Any]:
    """A change as JSON values, without keys that say nothing."""
    values = asdict(change)
    return {key: value for key, value in values.items() if value not in (None, {})}

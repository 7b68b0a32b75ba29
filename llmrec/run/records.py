"""The files that a stage leaves in its folder: `started.json` when it begins, `metrics.json` when it has finished."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec.errors import RunError
from llmrec.files import FileState, file_state, read_json

STARTED_FILE = "started.json"
METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class StageRecord:
    """What a stage was run under.

    Attributes:
        fingerprint: the config values that the result depends on; see `config_fingerprint`.
        built_on: required stage to the mark of the result that was used; see `result_mark`.
    """

    fingerprint: dict[str, Any]
    built_on: dict[str, str | None]


def read_record(folder: Path) -> StageRecord | None:
    """The record of a stage that has finished, or has left something to resume; None if it has done neither.

    A stage that failed before it wrote any file but `started.json` has left nothing to resume.

    Args:
        folder: the stage's folder.

    Raises:
        RunError: a file there is not a record of a stage.
    """
    for name in (METRICS_FILE, STARTED_FILE):
        file = folder / name
        try:
            values = read_json(file)
            record = StageRecord(dict(values["fingerprint"]), dict(values.get("built_on", {})))
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RunError(f"{file} was not written by llmrec. Delete {folder} to run the stage again.") from None
        if name == METRICS_FILE or _holds_other_files(folder):
            return record
    return None


def result_mark(folder: Path) -> str | None:
    """A mark of a stage's result, which changes when the stage is run again; None if the stage has not finished."""
    file = folder / METRICS_FILE
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else None


def changed_inputs(inputs: Mapping[str, FileState]) -> list[str]:
    """Files that were written to since a stage read them. A file that is gone is none of them.

    Args:
        inputs: path of each file to its state at that time.
    """
    return [path for path, state in inputs.items() if os.path.exists(path) and file_state(Path(path)) != tuple(state)]


def _holds_other_files(folder: Path) -> bool:
    return any(entry.name != STARTED_FILE and not entry.name.startswith(".") for entry in folder.iterdir())

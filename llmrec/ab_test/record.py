"""The directory of a test, and the record of what was fixed before its first user.

Arms, salt and the statistical plan must not change in flight: users would move between arms, or the intervals would be
chosen after looking. The first command that assigns or analyzes writes the record, and all compare with it first.
"""

import hashlib
from pathlib import Path
from typing import Any

from llmrec.config import ABTestConfig
from llmrec.errors import RunError
from llmrec.files import read_json, write_json

_FIXED = ("salt", "arms", "start", "planned_users", "alpha", "covariate_days", "metrics")


def directory_of(config: ABTestConfig) -> Path:
    """The directory of a test."""
    return Path(config.output_dir) / config.name


def write_record(config: ABTestConfig) -> None:
    """Writes the record of a test."""
    write_json(directory_of(config) / "experiment.json", _fixed_values(config))


def check_record(config: ABTestConfig) -> None:
    """Compares a test with its record, if there is one.

    Raises:
        RunError: a key that must not change in flight has changed.
    """
    path = directory_of(config) / "experiment.json"
    values = _fixed_values(config)
    if not path.is_file():
        return
    recorded = read_json(path)
    changed = [key for key in _FIXED if recorded.get(key) != values[key]]
    if changed:
        key = changed[0]
        found = "another one" if key == "salt" else f"{values[key]}, and the record has {recorded.get(key)}"
        others = f" Also changed: {', '.join(changed[1:])}." if changed[1:] else ""
        raise RunError(
            f"{path}: `{key}` of the test {config.name} is {found}; expected no change in flight.{others} Restore it, "
            "or give the test another `name`, which assigns users anew."
        )


def _fixed_values(config: ABTestConfig) -> dict[str, Any]:
    """The order of the arms decides who is in which, so it is kept. The salt is secret, so it is hashed."""
    values = config.model_dump(mode="json")
    values["arms"] = [[name, share] for name, share in config.arms.items()]
    values["salt"] = None if config.salt is None else hashlib.sha256(config.salt.encode()).hexdigest()
    return {key: values[key] for key in _FIXED}

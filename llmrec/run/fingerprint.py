"""Config fingerprints: the config values that the result of a stage depends on, and how two of them differ."""

from typing import Any

from llmrec.config import Config, default_of
from llmrec.config.former import FORMER_DEFAULTS, upgraded_record
from llmrec.files import plain
from llmrec.run.stages import STAGE_TABLE

NOT_SET = "(not set)"


def config_fingerprint(config: Config, stage: str) -> dict[str, Any]:
    """The config values that the result of a stage depends on.

    Returns:
        Dotted key to JSON value.
    """
    entry = STAGE_TABLE[stage]
    values = config.model_dump(mode="json")
    # The text reward model is an adapter of the policy's base model and reads the same user profiles.
    of_text_reward = ("model", "catalogue") if stage == "reward" and config.reward.text else ()
    flat = flatten({section: values[section] for section in (*entry.config_keys, *of_text_reward)})
    return {key: value for key, value in flat.items() if key not in entry.ignored_keys}


def differences(recorded: dict[str, Any], current: dict[str, Any]) -> dict[str, str]:
    """Compares the fingerprint that a stage was run under with the present one.

    Returns:
        Dotted key to `old -> new`, for every value that differs.
    """
    recorded = upgraded_record(recorded)
    keys = [*current, *(key for key in recorded if key not in current)]
    pairs = {key: (_recorded_value(recorded, key), current.get(key, NOT_SET)) for key in keys}
    return {key: f"{old} -> {new}" for key, (old, new) in pairs.items() if old != new}


def _recorded_value(recorded: dict[str, Any], key: str) -> Any:
    """The value of a key in a recorded fingerprint.

    A key that was added to the config later had its former default, unless its section was off (`reward.text: null`).
    """
    if key in recorded:
        return recorded[key]
    parts = key.split(".")
    section_was_off = any(".".join(parts[:depth]) in recorded for depth in range(1, len(parts)))
    return NOT_SET if section_was_off else plain(FORMER_DEFAULTS.get(key, default_of(key)))


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turns nested mappings into one mapping with dotted keys."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat

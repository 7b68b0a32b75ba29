"""Keys and defaults of earlier versions, so that the configs and records of old run directories can still be read.

A run directory holds every key that existed when the run was made. A key that is missing there is newer than the run.
"""

from typing import Any

# What held before the key existed, where that is not today's default.
FORMER_DEFAULTS: dict[str, Any] = {
    "sft.learning_rate": 5e-4,
    "sft.per_device_train_batch_size": 16,
    "sft.dropout": 0.0,
    "sft.profile_dropout": 0.0,
    "reward.linear": False,
    "reward.conversion_weight": 1.0,
    "reward.popularity_weight": 1.0,
    "ppo.text": "on",
    "ppo.learning_rate": 1e-4,
    "ppo.num_mini_batches": 1,
    "ppo.num_ppo_epochs": 2,
    "ppo.kl_coef": 0.1,
    "ppo.item_kl_coef": 0.6,
    "ppo.item_entropy_coef": 0.0,
    "ppo.ptx_coef": 0.5,
    "ppo.cliprange": 0.2,
    "ppo.ema_decay": 0.0,
    "ppo.eval_steps": 10,
    "ppo.save_steps": 10,
    "evaluation.baselines": ["popularity", "markov", "itemknn", "ease", "sasrec"],
}

# Former dotted key -> today's.
RENAMED = {
    "reward.penalties.had": "reward.penalties.seen",
    "reward.per_device_train_batch_size": "reward.batch_size",
    "reward.text.per_device_train_batch_size": "reward.text.batch_size",
}

# Former dotted key -> what to do instead, for keys that have no successor of the same meaning.
REMOVED = {
    f"{section}.gradient_accumulation_steps": "the number of processes determines it. Set "
    f"`{section}.batch_size`, the batch of all processes, to its product with `per_device_train_batch_size`."
    for section in ("sft", "ppo")
}

# Columns of `data.columns` that were read under their own names where the config had null. Since there is `data.drop`,
# null leaves them unread.
READ_WHERE_NULL = ("event_type", "rating", "session_id", "ranking_id", "position", "propensity", "split")

PASS = "per_device_train_batch_size"


def upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a config.yaml that an earlier version wrote, with today's keys.

    Args:
        values: nested mappings; they are not changed. A section that is missing stays so.
    """
    values = _copy(values)
    for former, key in RENAMED.items():
        section, name = _find(values, former)
        if section is not None and name in section:
            section[key.rpartition(".")[2]] = section.pop(name)
    for key, value in FORMER_DEFAULTS.items():
        section, name = _find(values, key)
        if section is not None:
            section.setdefault(name, value)
    columns, _ = _find(values, "data.columns.event_type")
    if columns is not None and "drop" not in values["data"]:
        columns |= {name: name for name in READ_WHERE_NULL if name in columns and columns[name] is None}
    for key in REMOVED:
        section, name = _find(values, key)
        if section is not None and name in section:
            section["batch_size"] = section.get(PASS, 8) * section.pop(name)
    return values


def upgraded_record(record: dict[str, Any]) -> dict[str, Any]:
    """A stage's record of config values, dotted key to value, with today's keys."""
    record = {RENAMED.get(key, key): value for key, value in record.items()}
    if "data.drop" not in record:
        named = {f"data.columns.{name}": name for name in READ_WHERE_NULL}
        record |= {key: name for key, name in named.items() if key in record and record[key] is None}
    for key in REMOVED:
        section = key.partition(".")[0]
        if key in record:
            record[f"{section}.batch_size"] = record[f"{section}.{PASS}"] * record.pop(key)
    return record


def _copy(value: Any) -> Any:
    return {key: _copy(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _find(values: dict[str, Any], key: str) -> tuple[dict[str, Any] | None, str]:
    """The section that a dotted key lies in, None if it is not there, and the key's name in it."""
    *path, name = key.split(".")
    section: Any = values
    for part in path:
        section = section.get(part) if isinstance(section, dict) else None
    return (section if isinstance(section, dict) else None), name

"""Which events are clicks and which are purchases, by the rules of the config."""

import difflib
import operator
import re

import numpy as np
import pandas as pd

from llmrec.errors import ConfigError

_OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_COMPARISON = re.compile(r"^\s*([^<>=!]+?)\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*$")
# Ids and times have no use in a rule, even where they look like numbers.
_NOT_FOR_RULES = ("user_id", "item_id", "event_type", "session_id", "ranking_id")


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean `{near[0]}`?" if near else ""


def _match_rule(events: pd.DataFrame, rule: str, key: str) -> np.ndarray:
    """Events for which one rule holds, bool [E]."""
    types = sorted(events["event_type"].unique())
    if rule.strip() in types:
        return (events["event_type"] == rule.strip()).to_numpy()
    columns = [c for c in events.columns if c not in _NOT_FOR_RULES]
    parts = _COMPARISON.match(rule)
    if parts is None and not re.search(r"[<>=!]", rule) and rule.strip():
        raise ConfigError(
            f"`{key}`: the rule `{rule}` names an event type that the log lacks. Its event types: "
            f"{', '.join(types[:20])}.{_nearest(rule.strip(), types)}"
        )
    if parts is None:
        raise ConfigError(
            f"`{key}`: cannot read the rule `{rule}`; expected an event type, such as `view`, or COLUMN "
            f"OPERATOR NUMBER, such as `rating>=4`, with an operator of {' '.join(_OPERATORS)}."
        )
    column, sign, text = parts.groups()
    if column not in columns:
        bare = f" For an event type write the bare word: `{text}`." if column == "event_type" else ""
        raise ConfigError(
            f"`{key}`: the rule `{rule}` needs a column `{column}` that can be compared. The log has "
            f"{', '.join(columns)}; its event types are {', '.join(types[:20])}."
            f"{bare}{_nearest(column, columns)}"
        )
    try:
        number = float(text)
    except ValueError:
        raise ConfigError(f"`{key}`: the rule `{rule}` compares with {text!r}; expected a number.") from None
    values = pd.to_numeric(events[column], errors="coerce").astype("float64")
    if values.isna().all():
        raise ConfigError(f"`{key}`: the rule `{rule}` compares `{column}`, which holds no numbers in this log.")
    return (_OPERATORS[sign](values, number) & values.notna()).to_numpy()


def match_rules(events: pd.DataFrame, rules: list[str], key: str) -> np.ndarray:
    """Events for which at least one rule holds.

    A rule is an event type, or `COLUMN OPERATOR NUMBER` with `>= > <= < == !=`; a missing value matches no
    rule.

    Args:
        events: E rows as in `RawLog.events`.
        rules: the rules.
        key: the config key, for error messages.

    Returns:
        bool [E].

    Raises:
        ConfigError: a rule cannot be read, or names a column or event type that the log lacks.
    """
    matched = np.zeros(len(events), dtype=bool)
    for rule in rules:
        matched |= _match_rule(events, rule, key)
    return matched


def feedback(events: pd.DataFrame, click: list[str], purchase: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Clicks and purchases, each bool [E]; a purchase is also a click.

    Raises:
        ConfigError: see `match_rules`.
    """
    purchases = match_rules(events, purchase, "data.purchase")
    return match_rules(events, click, "data.click") | purchases, purchases

"""Feedback rules: which events are clicks and which are purchases, by the rules of the config."""

import operator
import re

import numpy as np
import pandas as pd

from llmrec.errors import ConfigError, nearest

_OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_COMPARISON = re.compile(r"^\s*([^<>=!]+?)\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*$")
# Ids are not quantities, even if they look like numbers.
_NOT_FOR_RULES = ("user_id", "item_id", "event_type", "session_id", "ranking_id")


def feedback(events: pd.DataFrame, click: list[str], purchase: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Clicks and purchases, each bool [E]; a purchase is also a click.

    Args:
        events: E rows as in `RawLog.events`.
        click: rules of `data.click`.
        purchase: rules of `data.purchase`.

    Raises:
        ConfigError: see `match_rules`.
    """
    purchases = match_rules(events, purchase, "data.purchase")
    return match_rules(events, click, "data.click") | purchases, purchases


def match_rules(events: pd.DataFrame, rules: list[str], key: str) -> np.ndarray:
    """Events that match at least one rule.

    A rule is an event type, or `COLUMN OPERATOR NUMBER` with `>= > <= < == !=`. A missing value matches no rule.

    Args:
        events: E rows as in `RawLog.events`.
        rules: the rules.
        key: the config key, for error messages.

    Returns:
        bool [E].

    Raises:
        ConfigError: a rule cannot be read, or names a column or an event type that the log lacks.
    """
    matched = np.zeros(len(events), dtype=bool)
    for rule in rules:
        matched |= _match_rule(events, rule, key)
    return matched


def _match_rule(events: pd.DataFrame, rule: str, key: str) -> np.ndarray:
    """Events that match one rule, bool [E]."""
    types = sorted(events["event_type"].unique())
    if rule.strip() in types:
        return (events["event_type"] == rule.strip()).to_numpy()
    column, sign, text = _parse_comparison(rule, key, types)
    columns = [name for name in events.columns if name not in _NOT_FOR_RULES]
    if column not in columns:
        bare = f" For an event type write the bare word: `{text}`." if column == "event_type" else ""
        raise ConfigError(
            f"`{key}`: the rule `{rule}` needs a column `{column}` that can be compared. The log has "
            f"{', '.join(columns)}; its event types are {', '.join(types[:20])}."
            f"{bare}{_did_you_mean(column, columns)}"
        )
    try:
        number = float(text)
    except ValueError:
        raise ConfigError(
            f"`{key}`: the rule `{rule}` compares with {text!r}; expected a number. Correct the rule."
        ) from None
    values = pd.to_numeric(events[column], errors="coerce").astype("float64")
    if values.isna().all():
        raise ConfigError(
            f"`{key}`: the rule `{rule}` compares `{column}`, which holds no numbers in this log; expected a column "
            "of numbers. Compare another column."
        )
    return (_OPERATORS[sign](values, number) & values.notna()).to_numpy()


def _parse_comparison(rule: str, key: str, types: list[str]) -> tuple[str, str, str]:
    """Column, operator and number of a rule that is not an event type."""
    match = _COMPARISON.match(rule)
    if match is not None:
        column, sign, text = match.groups()
        return column, sign, text
    if rule.strip() and not re.search(r"[<>=!]", rule):
        raise ConfigError(
            f"`{key}`: the rule `{rule}` names an event type that the log lacks. Its event types: "
            f"{', '.join(types[:20])}.{_did_you_mean(rule.strip(), types)}"
        )
    raise ConfigError(
        f"`{key}`: cannot read the rule `{rule}`; expected an event type, such as `view`, or COLUMN "
        f"OPERATOR NUMBER, such as `rating>=4`, with an operator of {' '.join(_OPERATORS)}."
    )


def _did_you_mean(word: str, known: list[str]) -> str:
    near = nearest(word, known)
    return f" Did you mean `{near}`?" if near else ""

"""Feedback rules: which events are clicks and which are purchases, by the rules of the config."""

import math
import operator
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from llmrec.errors import ConfigError, nearest

OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_COMPARISON = re.compile(r"^\s*([^<>=!]+?)\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*$")
# Ids are not quantities, even if they look like numbers.
NOT_FOR_RULES = ("user_id", "item_id", "event_type", "session_id", "ranking_id")


@dataclass(frozen=True)
class Rule:
    """A rule of `data.click` or `data.purchase`: an event type, or a comparison of a column with a number.

    Attributes:
        text: the rule as written.
        event_type: the event type; None for a comparison.
        column: the column that is compared.
        sign: the operator, such as `>=`.
        number: the number.
    """

    text: str
    event_type: str | None = None
    column: str = ""
    sign: str = ""
    number: float = 0.0

    def without_numbers(self, key: str) -> ConfigError:
        """The error for a column without numbers."""
        return ConfigError(
            f"`{key}`: the rule `{self.text}` compares `{self.column}`, which holds no numbers in this log; expected a "
            "column of numbers. Compare another column."
        )


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
    types = events["event_type"].unique().tolist()
    columns = [name for name in events.columns if name not in NOT_FOR_RULES]
    for text in rules:
        rule = resolve(text, key, columns, types)
        if rule.event_type is not None:
            matched |= (events["event_type"] == rule.event_type).to_numpy()
            continue
        values = pd.to_numeric(events[rule.column], errors="coerce").astype("float64")
        if values.isna().all():
            raise rule.without_numbers(key)
        matched |= (OPERATORS[rule.sign](values, rule.number) & values.notna()).to_numpy()
    return matched


def compared_column(rule: str) -> str:
    """The column that a rule compares if it is a comparison, else ""."""
    match = _COMPARISON.match(rule)
    return match[1] if match else ""


def resolve(rule: str, key: str, columns: list[str], types: list[str]) -> Rule:
    """Finds out what a rule means for a log.

    Args:
        rule: the rule as written.
        key: its config key, for error messages.
        columns: names of the columns that can be compared.
        types: event types of the log.

    Raises:
        ConfigError: the rule cannot be read, or names a column or an event type that the log lacks.
    """
    types = sorted(types)
    if rule.strip() in types:
        return Rule(rule, event_type=rule.strip())
    column, sign, text = _parse_comparison(rule, key, types)
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
        number = math.nan
    if math.isnan(number):
        raise ConfigError(f"`{key}`: the rule `{rule}` compares with {text!r}; expected a number. Correct the rule.")
    return Rule(rule, None, column, sign, number)


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
        f"OPERATOR NUMBER, such as `rating>=4`, with an operator of {' '.join(OPERATORS)}."
    )


def _did_you_mean(word: str, known: list[str]) -> str:
    near = nearest(word, known)
    return f" Did you mean `{near}`?" if near else ""

"""Rows that the rules of `data.drop` leave out of a log, such as cancelled orders, before anything else is read."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import pandas as pd

from llmrec.data.feedback import OPERATORS
from llmrec.data.readers.raw import RuleValues, Source, TableStream, as_text, is_id
from llmrec.data.readers.values import as_numbers
from llmrec.errors import ConfigError, nearest

MOST_VALUES = 20  # values of a column that are counted
DROPPED = "dropped by "  # beginning of the reason that counts such rows
_RULE = re.compile(r"\s*([^<>=!]+?)\s*(?:(>=|<=|==|!=|>|<)\s*([^<>=!]+?)\s*)?")


@dataclass(frozen=True)
class DropRule:
    """A rule of `data.drop`.

    Attributes:
        text: the rule as written.
        column: the column that it looks at.
        sign: the operator; "" if every row with a value is dropped.
        value: what the column is compared with.
        number: the same as a number; None if it is text.
    """

    text: str
    column: str
    sign: str
    value: str
    number: float | None

    def matches(self, values: pd.Series) -> pd.Series:
        """Which values the rule drops, bool. A missing value matches no rule."""
        known = is_id(values)
        if not self.sign:
            return known
        if self.number is not None:
            numbers = as_numbers(values)
            return numbers.notna() & OPERATORS[self.sign](numbers, self.number)
        text = as_text(values).str.casefold()
        return known & OPERATORS[self.sign](text, self.value.casefold())


def read_drop_rule(text: str) -> DropRule:
    """Reads a rule of `data.drop`.

    Raises:
        ConfigError: it is none.
    """
    match = _RULE.fullmatch(text)
    column, sign, value = match.groups(default="") if match else ("", "", "")
    number = None
    with suppress(ValueError):
        number = float(value) if math.isfinite(float(value)) else None
    if not column or (sign not in ("", "==", "!=") and number is None):
        raise ConfigError(
            f"`data.drop`: cannot read the rule `{text}`; expected COLUMN OPERATOR NUMBER, such as `quantity<0`, "
            "COLUMN==TEXT or COLUMN!=TEXT, such as `status==refunded`, or a column of which any value "
            "drops a row."
        )
    return DropRule(text, column, sign, value, number)


def drop_rows(stream: TableStream, rules: list[str], columns: Mapping[str, str]) -> TableStream:
    """The same log without the rows that a rule drops. The source counts them by rule.

    Args:
        stream: the log.
        rules: `data.drop`.
        columns: the column's name in the log, by llmrec's name.

    Raises:
        ConfigError: a rule cannot be read, or names a column that the log lacks.
    """
    found = [(rule, columns.get(rule.column, rule.column)) for rule in map(read_drop_rule, rules)]
    for rule, column in found:
        if column not in stream.columns:
            near = nearest(column, stream.columns)
            hint = f" Did you mean `{near}`?" if near else ""
            raise ConfigError(
                f"`data.drop`: the rule `{rule.text}` needs a column `{column}`; the log has "
                f"{', '.join(stream.columns)}.{hint}"
            )

    def read(source: Source) -> Iterator[pd.DataFrame]:
        for frame in stream.read(source):
            kept = frame
            for rule, column in found:
                dropped = rule.matches(kept[column])
                _count(source.drop_rules.setdefault(rule.text, RuleValues()), rule, kept[column], int(dropped.sum()))
                if dropped.any():
                    source.note(kept[column][dropped], f"{DROPPED}`{rule.text}`")
                    kept = kept[~dropped]
            yield kept

    return TableStream(stream.columns, stream.source, read, stream.fractions) if found else stream


def _count(found: RuleValues, rule: DropRule, values: pd.Series, dropped: int) -> None:
    """Adds the values of one part of a log."""
    found.dropped += dropped
    known = as_text(values[is_id(values)])
    for value, rows in known.value_counts().items():
        if value in found.values or len(found.values) < MOST_VALUES:
            found.values[str(value)] = found.values.get(str(value), 0) + int(rows)
    if rule.number is not None:
        texts = known[as_numbers(values).loc[known.index].isna()]
        found.texts += len(texts)
        found.text = found.text or (str(texts.iloc[0]) if len(texts) else "")

"""Columns: the place for quirks of names and values.

`require_columns` reports a missing column. The `to_...` functions convert a column as found to the type that `RawLog`
describes. An unusable value is a `DataError` that names its file, line and column. With `data.bad_rows: skip`, the row
is left out and counted.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.readers.raw import NO_IDS, Table, TableStream, as_text
from llmrec.data.readers.times import holds_dates, to_seconds
from llmrec.data.readers.values import as_numbers, is_nested
from llmrec.errors import DataError, nearest

_REQUIRED = ("user_id", "item_id", "timestamp")  # unless `data.columns.timestamp` is null
# Names of columns that no rule compares unless `data.columns` has them.
OWN_COLUMNS = (*_REQUIRED, "event_type", "rating", "session_id", "ranking_id", "position", "propensity", "split")
_LIST_AS_TEXT = r"\[[^\[\]]*[,\s][^\[\]]*\]"  # as `to_categories` reads it
_NO_CATEGORY = {"", "unknown", "(no genres listed)"}


def require_columns(table: Table | TableStream, columns: Mapping[str, str], key: str | None = None) -> None:
    """Checks that a table has all columns.

    Args:
        table: the table.
        columns: the column's name in the file, by llmrec's name.
        key: the config section that maps names, such as `data.columns`; None if the names are fixed.

    Raises:
        DataError: a column is missing. The message names it, the columns found and the most similar one.
    """
    found = table.columns
    for own, column in columns.items():
        if column in found:
            continue
        by_lower_case = {name.lower(): name for name in found}
        near = nearest(column.lower(), by_lower_case)
        hint = f" Did you mean `{by_lower_case[near]}`?" if near else ""
        fix = f"Rename the column, or set `{key}.{own}`." if key else "Rename or add the column."
        if len(found) == 1:
            fix += " If another separator stands between the fields, set `data.separator`."
        if key and own == "timestamp":
            fix += f" If the log has no times and its lines are in the order of time, set `{key}.timestamp: null`."
        raise DataError(
            f"{table.source.path}: there is no column `{column}`; found {', '.join(found) or 'none'}.{hint} {fix}"
        )


# --- events -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NumberRange:
    """The numbers that a column may hold.

    Attributes:
        low: smallest number allowed.
        high: largest number allowed.
        expected: what a value should be, for error messages.
        fix: a sentence that says what to change, for error messages.
        without_low: whether `low` itself is refused.
        whole: whether numbers with a fraction are refused.
    """

    low: float
    high: float
    expected: str
    fix: str
    without_low: bool = False
    whole: bool = False


_POSITIONS = NumberRange(
    low=0,
    high=1e9,
    expected="a rank, a whole number from 0 on",
    fix="Correct it, or leave it empty. If the column holds no rank of a list that users were shown, set "
    "`data.columns.position: null`.",
    whole=True,
)
_PROPENSITIES = NumberRange(
    0,
    1,
    "a probability above 0 and at most 1",
    "An event that was logged had a chance of being shown: correct it, or leave it empty.",
    without_low=True,
)


def event_columns(table: Table | TableStream, config: DataConfig) -> dict[str, str]:
    """The columns of an event log: those that `data.columns` names, of which some may be missing under llmrec's names.

    Returns:
        the column's name in the table, by llmrec's name, for every column that the table has.

    Raises:
        DataError: a column is missing that is required, or that `data.columns` names otherwise than llmrec.
    """
    columns = {own: column for own, column in config.columns.model_dump().items() if column is not None}
    found = {own: name for own, name in columns.items() if name in table.columns or own != name or own in _REQUIRED}
    require_columns(table, found, "data.columns")
    return found


def stream_events(
    stream: TableStream,
    columns: Mapping[str, str],
    rating_range: tuple[float, float] | None,
    timestamp_format: str | None = None,
) -> Iterator[pd.DataFrame]:
    """Typed events in parts. Arguments, results and errors are those of `to_events`.

    Whether a column holds dates such as 20200131 depends on all its values. So a file that begins with such dates is
    read ahead.
    """
    time = columns.get("timestamp")
    dates: bool | None = None
    first_row = 0
    for part in stream:
        if dates is None and time is not None and timestamp_format is None and len(part.frame):
            dates = holds_dates(part, time) and all(holds_dates(other, time) for other in stream.scan())
        yield to_events(part, columns, rating_range, timestamp_format, dates, first_row)
        first_row += len(part.frame)


def to_events(
    table: Table,
    columns: Mapping[str, str],
    rating_range: tuple[float, float] | None,
    timestamp_format: str | None = None,
    dates: bool | None = None,
    first_row: int = 0,
) -> pd.DataFrame:
    """Typed events, as a part of `RawLog.events`.

    Args:
        table: the event log; columns that `columns` does not name are kept as they are.
        columns: the column's name in the table, by llmrec's name, for every column that the table has. Without
            `timestamp` the order of the rows takes its place.
        rating_range: lowest and highest rating allowed; None allows any number.
        timestamp_format: see `to_seconds`.
        dates: see `to_seconds`.
        first_row: number of rows of the log before this table.

    Raises:
        DataError: a value cannot be used, and bad rows are errors.
    """
    default_type = "rating" if "rating" in columns else "interaction"
    order = pd.Series(np.arange(first_row, first_row + len(table.frame)), index=table.frame.index)
    time = columns.get("timestamp")
    events: dict[str, Any] = {
        "user_id": to_ids(table, columns["user_id"]),
        "item_id": to_ids(table, columns["item_id"]),
        "event_type": to_ids(table, columns["event_type"]) if "event_type" in columns else default_type,
        "timestamp": order if time is None else to_seconds(table, time, timestamp_format, dates),
    }
    if "rating" in columns:
        events["rating"] = to_numbers(table, columns["rating"], _ratings(rating_range))
    for name in ("session_id", "ranking_id", "split"):
        if name in columns:
            text = table.text(columns[name])
            events[name] = text.mask(text.isin(NO_IDS))
    if "position" in columns:
        events["position"] = to_numbers(table, columns["position"], _POSITIONS).astype("Int64")
    if "propensity" in columns:
        events["propensity"] = to_numbers(table, columns["propensity"], _PROPENSITIES)
    others = [name for name in table.frame.columns if name not in {*columns.values(), *OWN_COLUMNS}]
    return pd.DataFrame({**events, **{str(name): table.frame[name] for name in others}}, index=table.frame.index)


def _ratings(rating_range: tuple[float, float] | None) -> NumberRange:
    low, high = rating_range or (-np.inf, np.inf)
    expected = "a number" if rating_range is None else f"a number from {low:g} to {high:g}"
    return NumberRange(low, high, expected, "Correct it, or set `data.rating_range`.")


def to_ids(table: Table, column: str) -> pd.Series:
    """Ids as text.

    Raises:
        DataError: an id is one of `NO_IDS`, a list, nested or longer than a line, and bad rows are errors.
    """
    text = table.text(column)
    bracketed = text.str.startswith("[", na=False)
    if bracketed.any():
        lists = bracketed & (is_nested(table.frame[column]) | text.str.fullmatch(_LIST_AS_TEXT, na=False))
        table.source.refuse(table.frame[column], lists, "an id, not a list", "Write a row for each id of the list.")
    bad = text.isna() | text.isin(NO_IDS) | is_nested(table.frame[column])
    table.source.refuse(table.frame[column], bad, "an id", "Fill it in, or delete the row.")
    # A stray quotation mark makes several lines one field, up to the next quotation mark.
    long = text.str.contains("\n", regex=False, na=False)
    table.source.refuse(table.frame[column], long, "an id on one line", "Check the quotation marks from there on.")
    return text


def to_numbers(table: Table, column: str, allowed: NumberRange) -> pd.Series:
    """Numbers as float64; an empty field is NaN.

    Raises:
        DataError: a value is not a number or is outside the range, and bad rows are errors.
    """
    values = table.frame[column]
    numbers = as_numbers(values)
    inside = numbers.between(allowed.low, allowed.high, inclusive="right" if allowed.without_low else "both")
    if allowed.whole:
        inside &= numbers % 1 == 0
    bad = values.notna() & ~inside
    table.source.refuse(values, bad, allowed.expected, allowed.fix)
    return numbers.where(~bad)


# --- items and users ----------------------------------------------------------------------------------


def to_years(values: pd.Series) -> pd.Series:
    """Years as Int64; a value that is no year from 1800 to 2100 is NA."""
    years = as_numbers(values)
    return years.where(years.between(1800, 2100) & (years % 1 == 0)).astype("Int64")


def no_years(index: pd.Index) -> pd.Series:
    """Years of items whose format has none: NA, Int64."""
    return pd.Series(pd.NA, index=index, dtype="Int64")


def clean_categories(values: Iterable[Any]) -> list[str]:
    """Stripped category names, each once, without names that mean "no category"."""
    stripped = (str(value).strip() for value in values)
    return list(dict.fromkeys(value for value in stripped if value.lower() not in _NO_CATEGORY))


# Names in a list that Python, JSON or numpy wrote as text.
_QUOTED = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""")


def to_categories(values: pd.Series, separator: str | None) -> pd.Series:
    """Lists of category names, from lists or from text.

    Args:
        values: lists, arrays or text; anything else is an empty list. Text in brackets is a list that a program wrote
            as text, such as `['Drama', "Children's"]`, with or without commas.
        separator: text between two categories; None means white space.
    """

    def split(value: Any) -> list[str]:
        if isinstance(value, str):
            inner = value.strip()
            if not (inner.startswith("[") and inner.endswith("]")):
                return clean_categories(value.split(separator))
            inner = inner[1:-1]
            quoted = [single or double for single, double in _QUOTED.findall(inner)]
            return clean_categories(re.sub(r"\\(.)", r"\1", one) for one in quoted or inner.split(","))
        return clean_categories(value) if isinstance(value, (list, tuple, np.ndarray)) else []

    return pd.Series([split(value) for value in values], index=values.index, dtype=object)


def to_attribute(values: pd.Series) -> pd.Series:
    """Any other column in a type that Parquet can hold.

    Numbers stay numbers. Everything else becomes text; lists and objects become JSON.
    """
    if values.dtype != object:
        return values.astype("str") if isinstance(values.dtype, pd.CategoricalDtype) else values
    kinds = {type(value) for value in values[values.notna()]}
    if kinds and kinds <= {int, float}:
        return pd.to_numeric(values).astype("float64")

    def text(value: Any) -> str | None:
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if isinstance(value, (list, dict)):
            return json.dumps(value, ensure_ascii=False, default=str)
        return None if pd.isna(value) else str(value)

    return pd.Series([text(value) for value in values], index=values.index, dtype="str")


def to_users(table: Table, id_column: str) -> pd.DataFrame:
    """Typed users: `user_id`, and every other column as text, "" where it is missing."""
    users = {"user_id": to_ids(table, id_column)}
    for column in table.frame.columns:
        if column != id_column:
            users[str(column)] = as_text(table.frame[column]).fillna("")
    return pd.DataFrame(users, index=table.frame.index)

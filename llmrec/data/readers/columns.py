"""Columns: the place for quirks of names and values.

`require_columns` reports a missing column. The `to_...` functions convert a column as found to the type that `RawLog`
describes; an unusable value is a `DataError` that names its file, line and column.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from llmrec.data.readers.raw import Table
from llmrec.errors import DataError, nearest

# Larger numbers are milliseconds. As seconds, this one is in the year 5138; as milliseconds, it is in 1973.
MILLISECONDS_ABOVE = 1e11
OPTIONAL_COLUMNS = ("event_type", "rating", "session_id", "ranking_id", "position", "propensity", "split")
_NO_CATEGORY = {"", "unknown", "(no genres listed)"}


def require_columns(table: Table, columns: Mapping[str, str], key: str | None = None) -> None:
    """Checks that a table has all columns.

    Args:
        table: the table.
        columns: the column's name in the file, by llmrec's name.
        key: the config section that maps names, such as `data.columns`; None if the names are fixed.

    Raises:
        DataError: a column is missing. The message names it, the columns found and the most similar one.
    """
    found = [str(column) for column in table.frame.columns]
    for own, column in columns.items():
        if column in found:
            continue
        by_lower_case = {name.lower(): name for name in found}
        near = nearest(column.lower(), by_lower_case)
        hint = f" Did you mean `{by_lower_case[near]}`?" if near else ""
        fix = f"Rename the column, or set `{key}.{own}`." if key else "Rename or add the column."
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
    """

    low: float
    high: float
    expected: str
    fix: str
    without_low: bool = False


_POSITIONS = NumberRange(0, 1e9, "a rank, 0 or more", "Correct it, or leave it empty.")
_PROPENSITIES = NumberRange(
    0,
    1,
    "a probability above 0 and at most 1",
    "An event that was logged had a chance of being shown: correct it, or leave it empty.",
    without_low=True,
)


def to_events(table: Table, columns: Mapping[str, str], rating_range: tuple[float, float] | None) -> pd.DataFrame:
    """Typed events, as `RawLog.events` describes them.

    Args:
        table: the event log; columns that `columns` does not name are kept as they are.
        columns: the column's name in the table, by llmrec's name, for every column that the table has.
        rating_range: lowest and highest rating allowed; None allows any number.

    Raises:
        DataError: a value cannot be used.
    """
    default_type = "rating" if "rating" in columns else "interaction"
    events: dict[str, Any] = {
        "user_id": to_ids(table, columns["user_id"]),
        "item_id": to_ids(table, columns["item_id"]),
        "event_type": to_ids(table, columns["event_type"]) if "event_type" in columns else default_type,
        "timestamp": to_seconds(table, columns["timestamp"]),
    }
    if "rating" in columns:
        events["rating"] = to_numbers(table, columns["rating"], _ratings(rating_range))
    for name in ("session_id", "ranking_id", "split"):
        if name in columns:
            events[name] = as_text(table.frame[columns[name]])
    if "position" in columns:
        events["position"] = _floor(to_numbers(table, columns["position"], _POSITIONS)).astype("Int64")
    if "propensity" in columns:
        events["propensity"] = to_numbers(table, columns["propensity"], _PROPENSITIES)
    others = [name for name in table.frame.columns if name not in set(columns.values()) and name not in events]
    return pd.DataFrame({**events, **{str(name): table.frame[name] for name in others}}, index=table.frame.index)


def _ratings(rating_range: tuple[float, float] | None) -> NumberRange:
    low, high = rating_range or (-np.inf, np.inf)
    expected = "a number" if rating_range is None else f"a number from {low:g} to {high:g}"
    return NumberRange(low, high, expected, "Correct it, or set `data.rating_range`.")


def as_text(values: pd.Series) -> pd.Series:
    """Values as stripped text, dtype str; whole floats (`5.0`, from a column with gaps) lose their `.0`."""
    if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")
    return values.astype("str").str.strip()


def to_ids(table: Table, column: str) -> pd.Series:
    """Ids as text.

    Raises:
        DataError: an id is empty or NaN.
    """
    text = as_text(table.frame[column])
    bad = text.isna() | text.isin(["", "nan", "NaN"])
    if bad.any():
        raise table.source.error(table.frame[column], bad, "an id", "Fill it in, or delete the row.")
    return text


def to_seconds(table: Table, column: str) -> pd.Series:
    """Timestamps as int64 seconds since 1970, rounded down.

    Accepts seconds, milliseconds (numbers above 1e11), ISO 8601 text (UTC if it names no zone) and datetime columns.

    Raises:
        DataError: a value is none of these, or before 1970.
    """
    values = table.frame[column]
    if pd.api.types.is_datetime64_any_dtype(values):
        numbers = pd.Series(np.nan, index=values.index)
    else:
        numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    numbers = numbers.mask(numbers > MILLISECONDS_ABOVE, numbers / 1000)
    is_text = numbers.isna()
    if is_text.any():
        dates = pd.to_datetime(values[is_text], utc=True, format="ISO8601", errors="coerce")
        epoch = pd.Timestamp(0, tz="UTC").as_unit("s")  # In nanoseconds the year 2300 would overflow.
        numbers[is_text] = (dates - epoch) / pd.Timedelta(seconds=1)
    bad = ~numbers.between(0, MILLISECONDS_ABOVE)
    if bad.any():
        expected = "seconds or milliseconds since 1970 (numbers above 1e11 are milliseconds), or an ISO-8601 date"
        raise table.source.error(values, bad, expected, "Convert the column, or delete the row.")
    return _floor(numbers).astype("int64")


def to_numbers(table: Table, column: str, allowed: NumberRange) -> pd.Series:
    """Numbers as float64; an empty field is NaN.

    Raises:
        DataError: a value is not a number or is outside the range.
    """
    values = table.frame[column]
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    inside = numbers.between(allowed.low, allowed.high, inclusive="right" if allowed.without_low else "both")
    bad = values.notna() & ~inside
    if bad.any():
        raise table.source.error(values, bad, allowed.expected, allowed.fix)
    return numbers


def _floor(numbers: pd.Series) -> pd.Series:
    return pd.Series(np.floor(numbers.to_numpy()), index=numbers.index)


# --- items and users ----------------------------------------------------------------------------------


def to_years(values: pd.Series) -> pd.Series:
    """Years as Int64; a value that is no year from 1800 to 2100 is NA."""
    years = pd.to_numeric(values, errors="coerce").astype("float64")
    return years.where(years.between(1800, 2100) & (years % 1 == 0)).astype("Int64")


def no_years(index: pd.Index) -> pd.Series:
    """Years of items whose format has none: NA, Int64."""
    return pd.Series(pd.NA, index=index, dtype="Int64")


def clean_categories(values: Iterable[Any]) -> list[str]:
    """Stripped category names, each once, without names that mean "no category"."""
    stripped = (str(value).strip() for value in values)
    return list(dict.fromkeys(value for value in stripped if value.lower() not in _NO_CATEGORY))


def to_categories(values: pd.Series, separator: str | None) -> pd.Series:
    """Lists of category names, from lists or from text.

    Args:
        values: lists, arrays or text; anything else is an empty list.
        separator: text between two categories; None means white space.
    """

    def split(value: Any) -> list[str]:
        if isinstance(value, str):
            return clean_categories(value.split(separator))
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

"""Columns as found become typed columns; a value that cannot is a `DataError` with its line."""

import difflib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from llmrec.data.readers.raw import Table
from llmrec.errors import DataError

# Above this a number is milliseconds: as seconds it would be after the year 5138, as milliseconds it is 1973.
MILLISECONDS_ABOVE = 1e11
OPTIONAL_COLUMNS = ("event_type", "rating", "session_id", "ranking_id", "position", "propensity", "split")
_NO_CATEGORY = {"", "unknown", "(no genres listed)"}


def require_columns(table: Table, columns: Mapping[str, str], key: str | None = None) -> None:
    """Checks that the table has all columns.

    Args:
        table: the table.
        columns: llmrec's name -> the column's name in the file.
        key: config section that maps the names, e.g. `data.columns`; null: the name is fixed.

    Raises:
        DataError: names the missing column, those there are, and the nearest.
    """
    known = [str(c) for c in table.frame.columns]
    for own, column in columns.items():
        if column in known:
            continue
        folded = {name.lower(): name for name in known}
        near = difflib.get_close_matches(column.lower(), folded, n=1, cutoff=0.5)
        hint = f" Did you mean `{folded[near[0]]}`?" if near else ""
        mend = f" Rename the column, or set `{key}.{own}`." if key else " Rename or add the column."
        raise DataError(
            f"{table.source.path}: there is no column `{column}`; found {', '.join(known) or 'none'}.{hint}{mend}"
        )


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

    Accepts seconds, milliseconds (numbers above 1e11), ISO-8601 text (UTC if it names no zone) and datetime
    columns.

    Raises:
        DataError: a value is none of these, or before 1970.
    """
    values = table.frame[column]
    if pd.api.types.is_datetime64_any_dtype(values):
        numeric = pd.Series(np.nan, index=values.index)
    else:
        numeric = pd.to_numeric(values, errors="coerce").astype("float64")
    numeric = numeric.mask(numeric > MILLISECONDS_ABOVE, numeric / 1000)
    rest = numeric.isna()
    if rest.any():
        dates = pd.to_datetime(values[rest], utc=True, format="ISO8601", errors="coerce")
        epoch = pd.Timestamp(0, tz="UTC").as_unit("s")  # in nanoseconds the year 2300 would overflow
        numeric[rest] = (dates - epoch) / pd.Timedelta(seconds=1)
    bad = ~numeric.between(0, MILLISECONDS_ABOVE)
    if bad.any():
        expected = "seconds or milliseconds since 1970 (numbers above 1e11 are milliseconds), or an ISO-8601 date"
        raise table.source.error(values, bad, expected, "Convert the column, or delete the row.")
    return np.floor(numeric).astype("int64")


def to_numbers(
    table: Table, column: str, low: float, high: float, expected: str, mend: str, *, above: bool = False
) -> pd.Series:
    """Numbers as float64; an empty field is NaN.

    Args:
        table: the table.
        column: its column.
        low, high: smallest and greatest value allowed.
        expected, mend: for the error message.
        above: whether `low` itself is refused.

    Raises:
        DataError: a value is not a number or outside the range.
    """
    values = table.frame[column]
    numeric = pd.to_numeric(values, errors="coerce").astype("float64")
    inside = numeric.between(low, high, inclusive="right" if above else "both")
    bad = values.notna() & ~inside
    if bad.any():
        raise table.source.error(values, bad, expected, mend)
    return numeric


def to_events(table: Table, columns: Mapping[str, str], rating_range: tuple[float, float] | None) -> pd.DataFrame:
    """Typed events, as `RawLog.events` describes them; columns that are not named in `columns` are kept as
    they are.

    Args:
        table: the event log.
        columns: llmrec's name -> the column in the table, for every column the table has.
        rating_range: lowest and highest rating allowed; null: any.

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
        low, high = rating_range or (-np.inf, np.inf)
        expected = "a number" if rating_range is None else f"a number from {low:g} to {high:g}"
        mend = "Correct it, or set `data.rating_range`."
        events["rating"] = to_numbers(table, columns["rating"], low, high, expected, mend)
    for name in ("session_id", "ranking_id", "split"):
        if name in columns:
            events[name] = as_text(table.frame[columns[name]])
    if "position" in columns:
        position = to_numbers(table, columns["position"], 0, 1e9, "a rank, 0 or more", "Correct it, or leave it empty.")
        events["position"] = np.floor(position).astype("Int64")
    if "propensity" in columns:
        expected = "a probability above 0 and at most 1"
        mend = "An event that was logged had a chance of being shown: correct it, or leave it empty."
        events["propensity"] = to_numbers(table, columns["propensity"], 0, 1, expected, mend, above=True)
    rest = [c for c in table.frame.columns if c not in set(columns.values()) and c not in events]
    return pd.DataFrame({**events, **{str(c): table.frame[c] for c in rest}}, index=table.frame.index)


def to_years(values: pd.Series) -> pd.Series:
    """Years as Int64; what is no year from 1800 to 2100 is NA."""
    years = pd.to_numeric(values, errors="coerce").astype("float64")
    return years.where(years.between(1800, 2100) & (years % 1 == 0)).astype("Int64")


def clean_categories(values: list[str]) -> list[str]:
    """Stripped, each once, without the words that stand for no category."""
    stripped = (str(value).strip() for value in values)
    return list(dict.fromkeys(value for value in stripped if value.lower() not in _NO_CATEGORY))


def to_categories(values: pd.Series, separator: str | None) -> pd.Series:
    """Lists of categories, from lists or from text.

    Args:
        values: lists, arrays, or text.
        separator: between the categories of a text; null: white space.
    """

    def split(value: Any) -> list[str]:
        if isinstance(value, str):
            return clean_categories(value.split(separator))
        return clean_categories(value) if isinstance(value, (list, tuple, np.ndarray)) else []

    return pd.Series([split(value) for value in values], index=values.index, dtype=object)


def to_attribute(values: pd.Series) -> pd.Series:
    """Any other column, so that Parquet can hold it: numbers stay numbers, all else becomes text, nested as
    JSON."""
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
    """Typed users: `user_id` and every other column as text, "" where it is missing."""
    users = {"user_id": to_ids(table, id_column)}
    for column in table.frame.columns:
        if column != id_column:
            users[str(column)] = as_text(table.frame[column]).fillna("")
    return pd.DataFrame(users, index=table.frame.index)

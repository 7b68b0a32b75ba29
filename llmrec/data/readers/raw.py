"""What every reader returns, and the checks that need more than one table of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmrec.errors import DataError


def first_true(mask: pd.Series) -> Any:
    """Index label of the first true value."""
    return mask.index[int(np.argmax(mask.to_numpy()))]


@dataclass(frozen=True)
class Source:
    """Where a table came from, for error messages.

    Attributes:
        path: the file.
        unit: what the table's index counts from 1: `line` of a text file (the header counts), or `row`.
    """

    path: Path | str = "the log"
    unit: str = "row"

    def at(self, number: Any) -> str:
        """`FILE, line N`."""
        return f"{self.path}, {self.unit} {number}"

    def error(self, values: pd.Series, bad: pd.Series, expected: str, mend: str) -> DataError:
        """The error for the first bad value of a column.

        Args:
            values: the column as found, named, indexed by line.
            bad: which of its values cannot be used; same index, at least one is true.
            expected: what a value should be.
            mend: a sentence saying what to change.
        """
        line = first_true(bad)
        found = values.loc[line]
        found = found.item() if isinstance(found, np.generic) else found
        shown = "empty" if pd.isna(found) or found == "" else repr(found)
        others = int(bad.sum()) - 1
        more = f" ({others} more like it)" if others else ""
        return DataError(f"{self.at(line)}: `{values.name}` is {shown}{more}; expected {expected}. {mend}".rstrip())


@dataclass(frozen=True)
class Table:
    """One file as read, before its columns are converted.

    Attributes:
        frame: its rows, indexed by line (or row) number as `Source.unit` says.
        source: where it came from.
    """

    frame: pd.DataFrame
    source: Source


def empty_users() -> pd.DataFrame:
    """A user table without rows."""
    return pd.DataFrame({"user_id": pd.Series(dtype="str")})


def empty_facts() -> pd.DataFrame:
    """A fact table without rows."""
    text = pd.Series(dtype="str")
    return pd.DataFrame({"head": text, "relation": text, "tail": text, "named": pd.Series(dtype=bool)})


@dataclass(frozen=True)
class RawLog:
    """A data set as read: typed columns, the files' own ids. Every table is indexed by line (or row) number.

    Attributes:
        events: rows of `user_id (str), item_id (str), event_type (str), timestamp (int64, seconds since
            1970)`; optional `rating (float64), session_id (str), ranking_id (str), position (Int64),
            propensity (float64)` and whatever else the log has.
        items: rows of `item_id (str), title (str), categories (list of str), year (Int64)` and other columns.
        users: rows of `user_id (str)` and attributes as text.
        facts: rows of `head (item id), relation (str), tail (str), named (bool: the tail reads as a name)`.
        event_source, item_source, user_source, fact_source: where each table came from.
        timed: whether timestamps are times; if not, they only order the events of one user.
    """

    events: pd.DataFrame
    items: pd.DataFrame
    users: pd.DataFrame = field(default_factory=empty_users)
    facts: pd.DataFrame = field(default_factory=empty_facts)
    event_source: Source = Source("the event log")
    item_source: Source = Source("the item table")
    user_source: Source = Source("the user table")
    fact_source: Source = Source("the fact table")
    timed: bool = True


def _check_unique(ids: pd.Series, source: Source) -> None:
    repeated = ids.duplicated()
    if repeated.any():
        line = first_true(repeated)
        first = first_true(ids == ids.loc[line])
        raise source.error(
            ids,
            repeated,
            f"each {ids.name} once",
            f"It is also on {source.unit} {first}: delete one of the two.",
        )


def check_log(log: RawLog) -> None:
    """Checks what single columns cannot show.

    Raises:
        DataError: the log or the catalogue is empty, an item or user id is repeated, a title is empty, or an
            event or a fact is about an item that the item table lacks.
    """
    if log.events.empty:
        raise DataError(f"{log.event_source.path}: there are no events; expected at least one. Check `data.path`.")
    if log.items.empty:
        raise DataError(f"{log.item_source.path}: there are no items; expected one row an item.")
    _check_unique(log.items["item_id"], log.item_source)
    _check_unique(log.users["user_id"], log.user_source)
    titles = log.items["title"]
    untitled = titles.isna() | (titles.str.strip() == "")
    if untitled.any():
        mend = "Give the item a title, or delete the item together with its events."
        raise log.item_source.error(titles, untitled, "the text that names the item to the language model", mend)
    for values, source in ((log.events["item_id"], log.event_source), (log.facts["head"], log.fact_source)):
        unknown = ~values.isin(log.items["item_id"])
        if unknown.any():
            mend = f"Add the item to {log.item_source.path}, or delete the {source.unit}."
            raise source.error(values, unknown, f"an item of {log.item_source.path}", mend)

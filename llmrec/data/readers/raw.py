"""`RawLog`, the result of every reader, and the checks that compare its tables."""

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
    """The file of a table, for error messages.

    Attributes:
        path: the file.
        unit: what the index of the table counts from 1: `line` of a text file (the header counts), or `row`.
    """

    path: Path | str = "the log"
    unit: str = "row"

    def at(self, number: Any) -> str:
        """`FILE, line N`."""
        return f"{self.path}, {self.unit} {number}"

    def error(self, values: pd.Series, bad: pd.Series, expected: str, fix: str) -> DataError:
        """The error for the first bad value of a column.

        Args:
            values: the column as found, with its name, indexed by line.
            bad: which values cannot be used, bool, same index; at least one is true.
            expected: what a value should be.
            fix: a sentence that says what to change.
        """
        line = first_true(bad)
        found = values.loc[line]
        found = found.item() if isinstance(found, np.generic) else found
        shown = "empty" if pd.isna(found) or found == "" else repr(found)
        others = int(bad.sum()) - 1
        more = f" ({others} more like it)" if others else ""
        return DataError(f"{self.at(line)}: `{values.name}` is {shown}{more}; expected {expected}. {fix}".rstrip())


@dataclass(frozen=True)
class Table:
    """One file as read, before its columns are converted.

    Attributes:
        frame: the rows, indexed by the number that `source.unit` names.
        source: the file.
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
    """A data set as read: typed columns and the ids of the files. Every table is indexed by line or row number.

    Attributes:
        events: rows of `user_id (str), item_id (str), event_type (str), timestamp (int64, seconds since
            1970)`; optional `rating (float64), session_id (str), ranking_id (str), position (Int64),
            propensity (float64), split (str)`, and all other columns of the log.
        items: rows of `item_id (str), title (str), categories (list of str), year (Int64)` and other columns.
        users: rows of `user_id (str)` and attributes as text.
        facts: rows of `head (item id), relation (str), tail (str), named (bool)`. `named` says whether the tail reads
            as a name; otherwise it is an opaque id.
        event_source: file of the events.
        item_source: file of the items.
        user_source: file of the users.
        fact_source: file of the facts.
        timed: whether timestamps are times. If not, they only order the events of one user.
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


def check_log(log: RawLog) -> None:
    """Checks what needs a whole column or two tables.

    Raises:
        DataError: there are no events or no items, an item or user id is repeated, a title is empty, or an event or a
            fact names an item that the item table lacks.
    """
    if log.events.empty:
        raise DataError(f"{log.event_source.path}: there are no events; expected at least one. Check `data.path`.")
    if log.items.empty:
        raise DataError(f"{log.item_source.path}: there are no items; expected one row per item.")
    _check_unique(log.items["item_id"], log.item_source)
    _check_unique(log.users["user_id"], log.user_source)
    _check_titles(log.items["title"], log.item_source)
    _check_items_exist(log.events["item_id"], log.event_source, log)
    _check_items_exist(log.facts["head"], log.fact_source, log)


def _check_unique(ids: pd.Series, source: Source) -> None:
    repeated = ids.duplicated()
    if repeated.any():
        first = first_true(ids == ids.loc[first_true(repeated)])
        fix = f"It is also on {source.unit} {first}: delete one of the two."
        raise source.error(ids, repeated, f"each {ids.name} once", fix)


def _check_titles(titles: pd.Series, source: Source) -> None:
    untitled = titles.isna() | (titles.str.strip() == "")
    if untitled.any():
        expected = "the text that names the item to the language model"
        fix = "Give the item a title, or delete the item together with its events."
        raise source.error(titles, untitled, expected, fix)


def _check_items_exist(item_ids: pd.Series, source: Source, log: RawLog) -> None:
    unknown = ~item_ids.isin(log.items["item_id"])
    if unknown.any():
        fix = f"Add the item to {log.item_source.path}, or delete the {source.unit}."
        raise source.error(item_ids, unknown, f"an item of {log.item_source.path}", fix)

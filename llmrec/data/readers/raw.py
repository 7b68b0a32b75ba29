"""`RawLog`, the result of every reader, and the checks that compare its tables."""

import html
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmrec.errors import DataError

_ENTITY = re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]*);")
EXAMPLES = 3  # rows that a count shows at most
# Text that stands for a missing id: what pandas, R, Hive and MySQL write for a missing value.
NO_IDS = ("", "nan", "NaN", "NA", "<NA>", "\\N", "NULL", "null", "None")


def first_true(mask: pd.Series) -> Any:
    """Index label of the first true value."""
    return mask.index[int(np.argmax(mask.to_numpy()))]


@dataclass
class Loss:
    """Rows that were left out, or values that were replaced, for one reason.

    Attributes:
        count: number of rows.
        examples: the first of them, as `FILE, line N: value`; at most `EXAMPLES`.
    """

    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class RuleValues:
    """What a rule of `data.drop` found in its column.

    Attributes:
        dropped: number of rows that it left out.
        values: number of rows of each value, for the first `MOST_VALUES` values.
        texts: number of values that are no number, if the rule compares numbers.
        text: the first of them.
    """

    dropped: int = 0
    values: dict[str, int] = field(default_factory=dict)
    texts: int = 0
    text: str = ""


@dataclass(frozen=True)
class Source:
    """The file of a table: its name in error messages, and the rows of it that cannot be used.

    Attributes:
        path: the file.
        unit: what the index of the table counts from 1: `line` of a text file (the header counts), or `row`.
        skip: whether rows that cannot be used are left out and counted. If not, the first one is an error.
        losses: rows left out and values replaced, by reason.
        dropped: index labels of the rows left out.
        cut_ids: number of rows whose id `123.0` was read as `123`, by column.
        drop_rules: what each rule of `data.drop` found.
    """

    path: Path | str = "the log"
    unit: str = "row"
    skip: bool = False
    losses: dict[str, Loss] = field(default_factory=dict)
    dropped: set[Any] = field(default_factory=set)
    cut_ids: dict[str, int] = field(default_factory=dict)
    drop_rules: dict[str, RuleValues] = field(default_factory=dict)

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
        others = int(bad.sum()) - 1
        more = f" ({others} more like it)" if others else ""
        found = _shown(values.loc[line])
        return DataError(f"{self.at(line)}: `{values.name}` is {found}{more}; expected {expected}. {fix}".rstrip())

    def refuse(self, values: pd.Series, bad: pd.Series, expected: str, fix: str, reason: str = "") -> None:
        """Reports values that cannot be used: an error, or rows to leave out if `skip` is set.

        Args:
            values: the column as found, with its name, indexed by line.
            bad: which values cannot be used, bool, same index.
            expected: what a value should be.
            fix: a sentence that says what to change.
            reason: what the count of such rows is called; "" for `unusable COLUMN`.

        Raises:
            DataError: a value is bad and `skip` is not set.
        """
        if not bad.any():
            return
        if not self.skip:
            raise self.error(values, bad, expected, f"{fix} Or set `data.bad_rows: skip`.")
        self.drop(values, bad, reason or f"unusable {values.name}")

    def drop(self, values: pd.Series, bad: pd.Series, reason: str) -> None:
        """Leaves rows out and counts them; a row that was left out before does not count again.

        Args:
            values: the column that shows why, with its name, indexed by line.
            bad: which rows are left out, bool, same index.
            reason: what the count is called.
        """
        new = bad & ~bad.index.isin(self.dropped)
        if new.any():
            self.note(values[new], reason)
            self.dropped.update(values.index[new])

    def note(self, values: pd.Series, reason: str) -> None:
        """Counts values under a reason and keeps their rows.

        Args:
            values: the values as found, with the name of their column, indexed by line.
            reason: what the count is called.
        """
        examples = [f"{self.at(line)}: {_shown(value)}" for line, value in values.iloc[:EXAMPLES].items()]
        self.count(reason, len(values), examples)

    def count(self, reason: str, number: int, examples: list[str]) -> None:
        """Adds rows and their examples to the losses of a reason."""
        loss = self.losses.setdefault(reason, Loss())
        loss.count += number
        loss.examples += examples[: EXAMPLES - len(loss.examples)]

    def kept(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of a frame that are not left out."""
        return frame[~frame.index.isin(self.dropped)] if self.dropped else frame


def _shown(value: Any) -> str:
    value = value.item() if isinstance(value, np.generic) else value
    missing = value == "" if isinstance(value, str) else pd.api.types.is_scalar(value) and pd.isna(value)
    return "empty" if missing else repr(value)


def as_text(values: pd.Series, whole_numbers: bool = True) -> pd.Series:
    """Values as stripped text, dtype str; whole floats (`5.0`, from a column with gaps) lose their `.0`.

    Args:
        values: the values.
        whole_numbers: False if the column holds other floats elsewhere, so that `5.0` stays.
    """
    if whole_numbers and pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")
    return values.astype("str").str.strip()


def is_id(values: pd.Series) -> pd.Series:
    """Whether each value is there and does not stand for a missing id."""
    return values.notna() & ~as_text(values).isin(NO_IDS)


@dataclass(frozen=True)
class Table:
    """One file, or a part of it, as read, before its columns are converted.

    Attributes:
        frame: the rows, indexed by the number that `source.unit` names.
        source: the file.
        fractions: columns of the file that hold a number that is not whole.
    """

    frame: pd.DataFrame
    source: Source
    fractions: frozenset[str] = frozenset()

    def text(self, column: str) -> pd.Series:
        """A column as text, see `as_text`."""
        return as_text(self.frame[column], column not in self.fractions)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return [str(column) for column in self.frame.columns]


@dataclass(frozen=True)
class TableStream:
    """One file as read in parts, before its columns are converted. Each iteration reads the file again.

    Attributes:
        columns: names of the columns of every part.
        source: the file.
        read: reads the parts, indexed by the number that `source.unit` names, and counts bad lines in the source that
            it is given.
        fractions: columns that hold a number that is not whole.
    """

    columns: list[str]
    source: Source
    read: Callable[[Source], Iterator[pd.DataFrame]]
    fractions: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[Table]:
        return self._parts(self.source)

    def scan(self) -> Iterator[Table]:
        """The parts, without counting bad lines: for a look at the file before it is read."""
        return self._parts(Source(self.source.path, self.source.unit, skip=True))

    def _parts(self, source: Source) -> Iterator[Table]:
        return (Table(frame, source, self.fractions) for frame in self.read(source))

    def whole(self) -> Table:
        """The file as one table."""
        frames = [part.frame for part in self]
        return Table(pd.concat(frames) if len(frames) > 1 else frames[0], self.source)


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
        events: the events in parts, in the order of the log; every part has the same columns. They can be read once.
            Rows of `user_id (str), item_id (str), event_type (str), timestamp (int64, seconds since
            1970)`; optional `rating (float64), session_id (str), ranking_id (str), position (Int64), propensity
            (float64), split (str)`, and all other columns of the log.
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

    events: Iterable[pd.DataFrame]
    items: pd.DataFrame
    users: pd.DataFrame = field(default_factory=empty_users)
    facts: pd.DataFrame = field(default_factory=empty_facts)
    event_source: Source = field(default_factory=lambda: Source("the event log"))
    item_source: Source = field(default_factory=lambda: Source("the item table"))
    user_source: Source = field(default_factory=lambda: Source("the user table"))
    fact_source: Source = field(default_factory=lambda: Source("the fact table"))
    timed: bool = True


REPEATED = "repeated row"
CONTRADICTION = "second row of the same "  # id, which says something else
UNTITLED = "title missing, the id stands in"
_NO_TITLES = ("", "nan", "NaN", "<NA>", "\\N", "NULL")  # as programs write a missing one; `None` may be a name
ENTITIES = "title with HTML entities, decoded"
UNKNOWN_ITEM = "item that the item table lacks"


def check_log(log: RawLog) -> RawLog:
    """Checks what needs a whole column or two tables, and removes the rows that cannot be used.

    Rows that say the same twice count once. HTML entities in titles and categories, such as `&amp;`, become the
    characters that they stand for. An item without a title is titled by its id. The events are checked when
    they are read.

    Returns:
        the log without the rows that cannot be used. The sources count them.

    Raises:
        DataError: there are no events or no items; or, unless bad rows are skipped, an item or user id has two
            different rows, or an event or a fact names an item that the item table lacks.
    """
    log = _usable(log)
    if log.items.empty:
        raise DataError(f"{log.item_source.path}: there are no items; expected one row per item.")
    _check_unique(log.items, "item_id", log.item_source)
    _check_unique(log.users, "user_id", log.user_source)
    log = _usable(log)
    log = replace(log, items=_titled(_without_entities(log.items, log.item_source), log.item_source))
    _check_items_exist(log.facts["head"], log.fact_source, log, pd.Index(log.items["item_id"]))
    return replace(_usable(log), events=_checked_events(log))


def _usable(log: RawLog) -> RawLog:
    """The log with the rows of its tables that the sources keep."""
    return replace(
        log,
        items=log.item_source.kept(log.items),
        users=log.user_source.kept(log.users),
        facts=log.fact_source.kept(log.facts),
    )


def _checked_events(log: RawLog) -> Iterator[pd.DataFrame]:
    """The parts of the events that can be used.

    Raises:
        DataError: there is none; or, unless bad rows are skipped, an event names an item that the item table lacks.
    """
    source = log.event_source
    known = pd.Index(log.items["item_id"])
    empty = True
    for part in log.events:
        usable = source.kept(part)
        _check_items_exist(usable["item_id"], source, log, known)
        usable = source.kept(usable)
        source.dropped.clear()  # the rows of the next part have other numbers
        empty = empty and usable.empty
        yield usable
    if empty:
        raise no_events(source)


def no_events(source: Source) -> DataError:
    """The error for a log without usable events, with the reasons why its rows were left out."""
    reasons = ", ".join(f"{loss.count} for {reason}" for reason, loss in source.losses.items())
    found = f"all events were left out ({reasons})" if reasons else "there are no events"
    return DataError(f"{source.path}: {found}; expected at least one. Check `data.path`.")


def _check_unique(table: pd.DataFrame, column: str, source: Source) -> None:
    """Leaves out rows that say the same twice, and refuses a second row of an id that says something else."""
    ids = table[column]
    repeated = ids.duplicated()
    if not repeated.any():
        return
    groups = table[ids.duplicated(keep=False)].astype("str")  # lists cannot be compared
    same = groups.duplicated().reindex(table.index, fill_value=False)
    source.drop(ids, same, REPEATED)
    different = repeated & ~same
    if different.any():
        first = first_true(ids == ids.loc[first_true(different)])
        fix = f"It is also on {source.unit} {first}: delete one of the two."
        source.refuse(ids, different, f"each {column} once", fix, f"{CONTRADICTION}{column}")


def _without_entities(items: pd.DataFrame, source: Source) -> pd.DataFrame:
    """The items, with characters in place of the HTML entities of web pages."""
    titles = items["title"].str.replace(_ENTITY, _character, regex=True)
    changed = titles.notna() & (titles != items["title"])
    if changed.any():
        source.note(items["title"][changed], ENTITIES)
    lists = [[_ENTITY.sub(_character, one) for one in names] for names in items["categories"]]
    return items.assign(title=titles, categories=pd.Series(lists, index=items.index, dtype=object))


def _character(entity: re.Match[str]) -> str:
    return html.unescape(entity[0])


def _titled(items: pd.DataFrame, source: Source) -> pd.DataFrame:
    """The items, with the id in place of a missing title."""
    titles = items["title"].str.strip()
    untitled = titles.isna() | titles.isin(_NO_TITLES)
    if not untitled.any():
        return items
    source.note(items["item_id"][untitled], UNTITLED)
    return items.assign(title=items["title"].mask(untitled, items["item_id"]))


def places(values: pd.Series, index: pd.Index) -> np.ndarray:
    """The place of each value in an index without repeated values, int64 [E]; -1 for a value that it lacks."""
    codes, distinct = pd.factorize(values)  # a part has far fewer ids than rows
    return np.append(index.get_indexer(pd.Index(distinct)), -1)[codes]


def _check_items_exist(item_ids: pd.Series, source: Source, log: RawLog, known: pd.Index) -> None:
    unknown = pd.Series(places(item_ids, known) < 0, index=item_ids.index)
    fix = f"Add the item to {log.item_source.path}, or delete the {source.unit}."
    source.refuse(item_ids, unknown, f"an item of {log.item_source.path}", fix, UNKNOWN_ITEM)

"""What the rows of a whole log show: its kinds of events, the forms of its dates, and values that withdraw a row."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from llmrec.data.check import spread
from llmrec.data.check.files import Sample
from llmrec.data.readers.raw import as_text, is_id

MOST_KINDS = 50  # a column with more values in the whole file is named in a note
MOST_VALUES = 200  # different values of a column that are counted
_IDS = ("user_id", "item_id")
LATER = "`prepare` warns about kinds that no rule matches."


@dataclass(frozen=True)
class Kinds:
    """The kinds of events of a log.

    Attributes:
        counts: number of rows that name a user and an item, by kind, the most common one first.
        complete: whether no other kinds can be in the file.
        notes: which part of the file was read, if it is not all of it.
        without_item: number of rows of each other kind, none of which names an item.
    """

    counts: dict[str, int] = field(default_factory=dict)
    complete: bool = True
    notes: list[str] = field(default_factory=list)
    without_item: dict[str, int] = field(default_factory=dict)


@dataclass
class Values:
    """The values of a column.

    Attributes:
        counts: number of rows by value, as text; only of the first values if there are more than `MOST_VALUES`.
        rows: number of rows.
        filled: number of rows with a value.
        negative: number of rows with a number below 0.
        zero: number of rows with the number 0.
    """

    counts: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    filled: int = 0
    negative: int = 0
    zero: int = 0

    def add(self, values: pd.Series) -> None:
        """Counts the values of some rows."""
        text = as_text(values.dropna())
        text = text[text != ""]
        self.rows += len(values)
        self.filled += len(text)
        self.negative += int(text.str.fullmatch(r"-\s?[\d.,]*[1-9][\d.,]*").sum())
        self.zero += int(text.str.fullmatch(r"-?0+(?:[.,]0*)?").sum())
        counts = text.value_counts()
        room = MOST_VALUES - len(self.counts)
        known = counts.index.isin(list(self.counts))
        for value, count in [*counts[known].items(), *counts[~known].iloc[:room].items()]:
            self.counts[str(value)] += int(count)


@dataclass
class Rows:
    """What rows of a log show.

    Attributes:
        names: the column's name in the log, by llmrec's name.
        values: the values of some columns, by the name of the column.
        forms: by form of dates, number of different times in the log that it reads; without forms nothing is counted.
        kinds: number of rows that name a user and an item, by kind.
        without_item: number of rows without an item, by kind.
    """

    names: Mapping[str, str]
    values: dict[str, Values]
    forms: dict[str, int]
    kinds: Counter[str] = field(default_factory=Counter)
    without_item: Counter[str] = field(default_factory=Counter)

    @property
    def columns(self) -> list[str]:
        """The columns that it looks at."""
        own = ["event_type", *_IDS] if "event_type" in self.names else []
        own += ["timestamp"] if self.forms else []
        return list(dict.fromkeys([*(self.names[one] for one in own if one in self.names), *self.values]))

    def empty(self) -> "Rows":
        """The same without rows."""
        return Rows(self.names, {name: Values() for name in self.values}, dict.fromkeys(self.forms, 0))

    def add(self, frame: pd.DataFrame) -> None:
        """Counts some rows."""
        for name, values in self.values.items():
            values.add(frame[name])
        for form in self.forms:
            times = pd.Series(as_text(frame[self.names["timestamp"]].dropna()).unique())
            self.forms[form] += int(pd.to_datetime(times, format=form, errors="coerce", utc=True).notna().sum())
        if "event_type" in self.names:
            kinds = frame[self.names["event_type"]]
            named = [is_id(kinds), *(is_id(frame[self.names[own]]) for own in _IDS if own in self.names)]
            self.kinds.update(_counted(kinds[np.logical_and.reduce(named)]))
            if "item_id" in self.names:
                self.without_item.update(_counted(kinds[is_id(kinds) & ~is_id(frame[self.names["item_id"]])]))


def find_rows(sample: Sample, names: Mapping[str, str], columns: list[str], forms: list[str]) -> tuple[Rows, Kinds]:
    """What the rows of a log show, as far as they can be read, and its kinds of events.

    Args:
        sample: its first lines.
        names: the column's name in the log, by llmrec's name.
        columns: columns whose values are counted.
        forms: forms of dates to be compared.

    Raises:
        DataError: the file ends too early, or changes.
    """
    first = Rows(names, {name: Values() for name in columns}, dict.fromkeys(forms, 0))
    first.add(sample.table.frame)
    if sample.whole or not first.columns:
        return first, _kinds(first, first)
    rows = first.empty()
    try:
        for frame in spread.spread_rows(sample, first.columns):
            rows.add(frame)
    except spread.LargeFileError:
        note = (
            f"The kinds of events and other values are those of the first {len(sample.table.frame):,} rows, because "
            f"the file is large. Kinds further on are unknown. {LATER}"
        )
        return first, _kinds(first, first, [note])
    if spread.is_whole(sample.path):
        return rows, _kinds(rows, first)
    found = f"The kinds of events and other values are those in {spread.BLOCKS} blocks spread over the file"
    return rows, _kinds(rows, first, [f"{found}, which is large. {LATER}"])


def _kinds(rows: Rows, first: Rows, notes: list[str] | None = None) -> Kinds:
    """The kinds, or those of the first lines if the column has too many values for kinds of events."""
    if "event_type" not in rows.names:
        return Kinds(notes=notes or [])
    counts = rows.kinds | first.kinds
    if len(counts) > max(MOST_KINDS, len(first.kinds)):
        note = (
            f"`{rows.names['event_type']}` has {len(counts):,} different values in the file, so it may hold no kinds "
            "of events. The rules name those of the first rows. If they are wrong, set `data.columns.event_type: null`."
        )
        return Kinds(_sorted(first.kinds), False, [note])
    others = {kind: count for kind, count in (rows.without_item | first.without_item).items() if kind not in counts}
    return Kinds(_sorted(counts), not notes, notes or [], _sorted(Counter(others)))


def _counted(values: pd.Series) -> dict[str, int]:
    return {str(kind): int(count) for kind, count in as_text(values).value_counts().items()}


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(counts.most_common())

"""The kinds of events of a log: of the whole file, or of blocks spread over a large one.

The first lines cannot show them, because a log may be sorted by kind.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.data.check.files import Sample, find_separator_of
from llmrec.data.check.values import known_ids
from llmrec.data.readers.csv_and_json import stream_any_table
from llmrec.data.readers.text_files import encoding_of_file
from llmrec.errors import DataError

WHOLE = 64_000_000  # bytes of a text file that is read whole
WHOLE_COMPRESSED = 16_000_000
BLOCKS = 64  # blocks of a larger file, from its first to its last line
BLOCK = 1_000_000  # bytes
MOST_KINDS = 50  # a column with more values in the whole file is named in a note
UNIT_SEPARATOR = "\x1f"  # takes the place of separators of several characters
LATER = "`prepare` warns about kinds that no rule matches."


@dataclass(frozen=True)
class Kinds:
    """The kinds of events of a log.

    Attributes:
        counts: number of rows that were read, by kind, the most common one first.
        complete: whether no other kinds can be in the file.
        notes: which part of the file was read, if it is not all of it.
    """

    counts: dict[str, int] = field(default_factory=dict)
    complete: bool = True
    notes: list[str] = field(default_factory=list)


def find_kinds(sample: Sample, column: str | None) -> Kinds:
    """The kinds in a column of a log.

    Args:
        sample: its first lines.
        column: the column; None if there is none.
    """
    if column is None:
        return Kinds()
    first = _counted(sample.table.frame[column])
    if sample.whole:
        return _sorted(first)
    path = sample.path
    size = path.stat().st_size
    try:
        if path.suffix == ".parquet":
            return _checked(_of_parquet(path, column), first, column)
        if size <= (WHOLE_COMPRESSED if path.suffix == ".gz" else WHOLE):
            whole = Counter[str]()
            for table in stream_any_table(path, sample.text):
                whole.update(_counted(table.frame[column]))
            return _checked(whole, first, column)
        encoding = encoding_of_file(path, sample.text)
        if path.suffix != ".gz" and not encoding.lower().startswith(("utf-16", "utf-32", "utf_16", "utf_32")):
            blocks = _of_blocks(sample, encoding, column)
            note = f"The kinds of events are those in {BLOCKS} blocks spread over the file, which is large. {LATER}"
            return _checked(first | blocks, first, column, [note])
        reason = "the file is large"
    except (DataError, OSError, ValueError) as error:  # pyarrow raises subclasses of the last two
        reason = f"it cannot be read to its end: {error}"
    rows = len(sample.table.frame)
    note = f"The kinds of events are those of the first {rows:,} rows, because {reason}. Kinds further on are unknown."
    return _sorted(first, [f"{note} {LATER}"])


def _counted(values: pd.Series) -> Counter[str]:
    return Counter({str(kind): int(count) for kind, count in known_ids(values).value_counts().items()})


def _sorted(counts: Counter[str], notes: list[str] | None = None) -> Kinds:
    return Kinds(dict(counts.most_common()), not notes, notes or [])


def _checked(counts: Counter[str], first: Counter[str], column: str, notes: list[str] | None = None) -> Kinds:
    """The kinds, or those of the first lines if the column has too many values for kinds of events."""
    if len(counts) <= max(MOST_KINDS, len(first)):
        return _sorted(counts, notes)
    note = (
        f"`{column}` has {len(counts):,} different values in the file, so it may hold no kinds of events. The rules "
        f"name those of the first rows. If they are wrong, set `data.columns.event_type: null`."
    )
    return _sorted(first, [note])


def _of_parquet(path: Path, column: str) -> Counter[str]:
    """The values of a column of a Parquet file."""
    counts = Counter[str]()
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(500_000, columns=[column]):
            counts.update(_counted(pa.Table.from_batches([batch]).to_pandas()[column]))
    return counts


def _of_blocks(sample: Sample, encoding: str, column: str) -> Counter[str]:
    """The values of a column in blocks of a text file that has no compression.

    Args:
        sample: the first lines of the file.
        encoding: its encoding, in which a line ends with the byte of `\\n`.
        column: the column.
    """
    lines = _lines(sample.path, encoding)
    if sample.path.suffix == ".jsonl":
        values = [_value(line, column) for line in lines]
    else:
        separator = find_separator_of(sample.path, sample.text, encoding)
        next(lines)  # the header
        rows = (_fields(line, separator) for line in lines)
        columns = sample.table.columns
        place = columns.index(column)
        # Another number of fields has a line inside a quoted field.
        values = [row[place] for row in rows if len(row) == len(columns)]
    return _counted(pd.Series(values, dtype=object))


def _lines(path: Path, encoding: str) -> Iterator[str]:
    """The whole lines of blocks of a file, from its first to its last."""
    last = path.stat().st_size - BLOCK
    with path.open("rb") as file:
        for number in range(BLOCKS):
            start = number * last // (BLOCKS - 1)
            file.seek(start)
            lines = file.read(BLOCK).decode(encoding, errors="replace").split("\n")
            yield from lines[start > 0 : len(lines) if number == BLOCKS - 1 else -1]


def _fields(line: str, separator: str) -> list[str]:
    """The fields of one line; none if it cannot be cut."""
    mark = separator if len(separator) == 1 else UNIT_SEPARATOR
    try:
        return next(csv.reader([line.rstrip("\r").replace(separator, mark)], delimiter=mark), [])
    except csv.Error:
        return []


def _value(line: str, column: str) -> object | None:
    """The value of a key of an object on a line; None if there is none."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record.get(column) if isinstance(record, dict) else None

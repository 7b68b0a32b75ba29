"""Rows of the whole of an unknown log, or of blocks spread over a large one.

The first lines cannot show everything, because a log may be sorted by kind or by time.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.data.check.files import Sample, find_separator_of
from llmrec.data.readers.csv_and_json import stream_any_table
from llmrec.data.readers.text_files import encoding_of_file, unreadable

WHOLE = 64_000_000  # bytes of a text file that is read whole
WHOLE_COMPRESSED = 16_000_000
BLOCKS = 64  # blocks of a larger file, from its first to its last line
BLOCK = 1_000_000  # bytes
UNIT_SEPARATOR = "\x1f"  # takes the place of separators of several characters


class LargeFileError(Exception):
    """A file is too large to be read to its end, and of a form that cannot be read in places."""


def is_whole(path: Path) -> bool:
    """Whether `spread_rows` reads all rows of a file."""
    limit = WHOLE_COMPRESSED if path.suffix == ".gz" else WHOLE
    return path.suffix == ".parquet" or path.stat().st_size <= limit


def spread_rows(sample: Sample, columns: list[str]) -> Iterator[pd.DataFrame]:
    """Some columns of the rows of a log, in parts.

    Args:
        sample: its first lines.
        columns: the columns.

    Raises:
        DataError: while it is read: the file cannot be read to its end, as `prepare` could not either.
        LargeFileError: a large file cannot be read in blocks.
    """
    path = sample.path
    if path.suffix == ".parquet":
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(500_000, columns=columns):
                    yield pa.Table.from_batches([batch]).to_pandas()[columns]
        except (OSError, ValueError) as error:  # pyarrow raises subclasses of both
            raise unreadable(path, error) from None
        return
    if is_whole(path):
        for table in stream_any_table(path, sample.text):
            yield table.frame[columns]
        return
    encoding = encoding_of_file(path, sample.text)
    if path.suffix == ".gz" or encoding.lower().startswith(("utf-16", "utf-32", "utf_16", "utf_32")):
        raise LargeFileError
    rows = _objects(sample, encoding, columns) if path.suffix == ".jsonl" else _rows(sample, encoding, columns)
    yield pd.DataFrame(rows, columns=columns, dtype=object)


def _objects(sample: Sample, encoding: str, columns: list[str]) -> list[list[Any]]:
    """The values of some keys in blocks of a file of JSON lines."""
    found = (_object(line) for line in _lines(sample.path, encoding))
    return [[record.get(name) for name in columns] for record in found if record is not None]


def _rows(sample: Sample, encoding: str, columns: list[str]) -> list[list[str | None]]:
    """The values of some columns in blocks of a file of delimited text; an empty field is None."""
    separator = find_separator_of(sample.path, sample.text, encoding)
    lines = _lines(sample.path, encoding)
    next(lines)  # the header
    names = sample.table.columns
    places = [names.index(name) for name in columns]
    rows = (_fields(line, separator) for line in lines)
    # Another number of fields has a line inside a quoted field.
    return [[row[place] or None for place in places] for row in rows if len(row) == len(names)]


def _lines(path: Path, encoding: str) -> Iterator[str]:
    """The whole lines of blocks of a file, from its first to its last. `\\n` must be one byte of the encoding."""
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


def _object(line: str) -> dict[str, Any] | None:
    """The object on a line; None if there is none."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None

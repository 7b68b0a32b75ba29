"""Files of tables: JSON lines and Parquet, and the reader of any table by the suffix of its file.

This is the place for quirks of file syntax, with `delimited` and `text_files`. Quirks of values belong in `columns`.
Every failure is a `DataError` that names the file and, for text files, the line.
"""

import gzip
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.data.readers.delimited import NOT_PARSED, stream_delimited
from llmrec.data.readers.other_files import remedy
from llmrec.data.readers.raw import Source, Table, TableStream
from llmrec.data.readers.text_files import UTF_8, TextFormat, encoding_of_file, open_text
from llmrec.data.readers.unchanged import watch
from llmrec.errors import DataError

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
PART_ROWS = 500_000  # rows of a part
SAMPLED_BYTES = 1 << 20  # of a text file whose rows are estimated


def stream_jsonl(path: Path, fields: list[str] | None = None, text: TextFormat = UTF_8) -> TableStream:
    """Opens JSON lines: one object per line; empty lines are skipped.

    The columns are all keys of all lines, so the file is read ahead once.

    Args:
        path: the file; it may end in `.gz`.
        fields: keys to keep; None keeps all.
        text: the configured encoding, and what becomes of lines that cannot be read.

    Raises:
        DataError: the file is unreadable; or, unless bad rows are skipped, a line is not a JSON object.
    """
    encoding = encoding_of_file(path, text)
    columns: dict[str, None] = {}
    for _, record in _records(path, encoding, Source(path, "line", text.skip)):
        columns.update(dict.fromkeys(record))
        if fields is not None and len(columns) >= len(fields) and set(fields) <= set(columns):
            break
    names = list(columns) if fields is None else [name for name in fields if name in columns]

    def parts(source: Source) -> Iterator[pd.DataFrame]:
        rows: list[list[Any]] = []
        lines: list[int] = []
        for number, record in _records(path, encoding, source):
            rows.append([record.get(name, np.nan) for name in names])
            lines.append(number)
            if len(rows) == PART_ROWS:
                yield pd.DataFrame(rows, index=pd.Index(lines), columns=names, dtype=object)
                rows, lines = [], []
        yield pd.DataFrame(rows, index=pd.Index(lines), columns=names, dtype=object)

    return TableStream(names, Source(path, "line", text.skip), parts)


def _records(path: Path, encoding: str, source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and objects of a file of JSON lines."""
    with open_text(path, encoding) as lines:
        for number, line in enumerate(lines, start=1):
            record = _json_object(line, number, source) if line.strip() else None
            if record is not None:
                yield number, record


def _json_object(line: str, number: int, source: Source) -> dict[str, Any] | None:
    """The object on a line; None if there is none and bad rows are skipped.

    Raises:
        DataError: there is none, and bad rows are errors.
    """
    try:
        record = json.loads(line)
        if isinstance(record, dict):
            return record
        found = f"found {line.strip()[:40]!r}; expected a JSON object"
    except json.JSONDecodeError as error:
        found = f"not JSON ({error.msg} at character {error.colno}); expected one object per line"
    if not source.skip:
        raise DataError(f"{source.at(number)}: {found}. Correct or delete the line, or set `data.bad_rows: skip`.")
    source.count(NOT_PARSED, 1, [f"{source.at(number)}: {found}"])
    return None


def stream_any_table(path: Path, text: TextFormat = UTF_8) -> TableStream:
    """Opens `.csv`, `.tsv`, `.jsonl` (each also with `.gz`) or `.parquet`.

    Args:
        path: the file.
        text: configured encoding and separator, and what becomes of bad rows.

    Raises:
        DataError: the file has another suffix or is unreadable.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if path.is_dir() or suffix not in TABLE_SUFFIXES:
        expected = f"expected a file that ends in {', '.join(TABLE_SUFFIXES)} (or .gz of a text file)"
        raise DataError(f"{path}: {expected}. {remedy(path, TABLE_SUFFIXES)}".rstrip())
    if suffix == ".jsonl":
        return stream_jsonl(path, text=text)
    if suffix != ".parquet":
        return stream_delimited(path, "\t,;|" if suffix == ".tsv" else ",;\t|", text=text, quoted=True)
    return _stream_parquet(path, text)


def read_any_table(path: Path, text: TextFormat = UTF_8) -> Table:
    """Reads a file as one table; arguments and errors are those of `stream_any_table`."""
    return stream_any_table(path, text).whole()


def estimated_rows(path: Path) -> int:
    """About how many rows a file has: the exact number of a Parquet file, else by the length of its first lines.

    Raises:
        OSError: there is no such file.
        ValueError: it is no Parquet file.
    """
    if path.suffix == ".parquet":
        return pq.ParquetFile(path).metadata.num_rows
    with path.open("rb") as raw, gzip.open(raw) if path.suffix == ".gz" else raw as binary:
        lines = binary.read(SAMPLED_BYTES).count(b"\n")
        return int(lines * path.stat().st_size / max(1, raw.tell()))


def copy_first_rows(path: Path, target: Path, rows: int) -> None:
    """Writes the first rows of a Parquet file to another.

    Raises:
        DataError: the file is unreadable.
    """
    try:
        with pq.ParquetFile(path) as file:
            batches = list(islice(file.iter_batches(rows), 1))
            pq.write_table(pa.Table.from_batches(batches, file.schema_arrow), target)
    except (OSError, ValueError) as error:  # pyarrow raises subclasses of both
        raise _no_parquet(path, error) from None


def _no_parquet(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: not a readable Parquet file: {error}. Check the file, or write it again.")


def _stream_parquet(path: Path, text: TextFormat) -> TableStream:
    """Opens a Parquet file.

    Raises:
        DataError: the file is unreadable.
    """

    def batches(columns: list[str] | None = None) -> Iterator[pa.Table]:
        try:
            watch(path)
            with pq.ParquetFile(path) as file:
                empty = file.metadata.num_rows == 0
                if empty:
                    yield file.read(columns=columns)
                for batch in file.iter_batches(PART_ROWS, columns=columns) if not empty else ():
                    yield pa.Table.from_batches([batch])
        except (OSError, ValueError) as error:  # pyarrow raises subclasses of both
            raise _no_parquet(path, error) from None

    def parts(source: Source) -> Iterator[pd.DataFrame]:
        first = 1
        for batch in batches():
            frame = batch.to_pandas()
            frame.index = pd.RangeIndex(first, first + len(frame))
            first += len(frame)
            yield frame

    start = next(batches())
    floats = [field.name for field in start.schema if pa.types.is_floating(field.type)]
    fractions = {name for batch in (batches(floats) if floats else ()) for name in floats if _has_fraction(batch[name])}
    columns = [str(column) for column in start.slice(0, 1).to_pandas().columns]
    return TableStream(columns, Source(path, "row", text.skip), parts, frozenset(fractions))


def _has_fraction(values: pa.ChunkedArray) -> bool:
    """Whether a column of floats holds a number that is not whole."""
    numbers = values.cast("float64").to_numpy()
    return bool((numbers[~np.isnan(numbers)] % 1 != 0).any())

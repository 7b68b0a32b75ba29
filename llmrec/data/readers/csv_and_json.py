"""Parsing of files into tables: CSV, TSV and other delimited text, JSON lines and Parquet.

This is the place for quirks of file syntax, such as separators, quotes and encodings. Quirks of values belong in
`columns`. Every failure is a `DataError` that names the file and, for text files, the line.
"""

import csv
import gzip
import io
import json
import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmrec.data.readers.raw import Source, Table
from llmrec.errors import DataError

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
# Replaces separators of two characters, which pandas parses in Python and 20 times slower.
_UNIT_SEPARATOR = "\x1f"


def read_text(path: Path, encoding: str) -> str:
    """Reads a whole text file; a `.gz` file is decompressed.

    Raises:
        DataError: the file cannot be read, decompressed or decoded.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from None
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: not {encoding} text ({error.reason}). Convert the file, e.g. with iconv."
        ) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read: {error}. Check the file, or fetch it again.")


def read_delimited(
    path: Path,
    separator: str,
    *,
    names: list[str] | None = None,
    encoding: str = "utf-8-sig",
    quoted: bool = False,
) -> Table:
    """Reads delimited text; all values are text, and an empty field is missing.

    Args:
        path: the file; it may end in `.gz`.
        separator: text between two fields.
        names: column names of a file without a header.
        encoding: encoding of the file.
        quoted: whether fields may be quoted as in CSV.

    Raises:
        DataError: the file is unreadable or empty, or a line has another number of fields than the header.
    """
    text = read_text(path, encoding)
    if len(separator) > 1:
        text = text.replace(separator, _UNIT_SEPARATOR)
        separator = _UNIT_SEPARATOR
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                io.StringIO(text),
                sep=separator,
                names=names,
                header=None if names else 0,
                index_col=False,
                dtype=str,
                keep_default_na=False,
                na_values=[""],
                skip_blank_lines=False,
                quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            )
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: the file is empty; expected a header and one line per row.") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise DataError(_explain_field_count(path, str(error), separator)) from None
    first_line = 1 if names else 2
    frame.index = pd.RangeIndex(first_line, first_line + len(frame))
    return Table(frame[frame.notna().any(axis=1)], Source(path, "line"))


def _explain_field_count(path: Path, message: str, separator: str) -> str:
    """The error for a line with too many fields, from the message of pandas."""
    counts = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", message)
    shown = {_UNIT_SEPARATOR: "`::`", "\t": "a tab"}.get(separator, f"`{separator}`")
    if counts is None:
        return f"{path}: the lines cannot be cut into the header's fields, separated by {shown}: {message}"
    expected, line, found = counts.groups()
    return (
        f"{path}, line {line}: {found} fields, separated by {shown}; expected {expected}. Correct or delete the line."
    )


def read_jsonl(path: Path, fields: list[str] | None = None) -> Table:
    """Reads JSON lines: one object per line; empty lines are skipped.

    Args:
        path: the file; it may end in `.gz`.
        fields: keys to keep; None keeps all.

    Raises:
        DataError: the file is unreadable, or a line is not a JSON object.
    """
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise DataError(f"{path}, line {number}: found {line.strip()[:40]!r}; expected a JSON object.")
                records.append(record if fields is None else {f: record[f] for f in fields if f in record})
                lines.append(number)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {number}: not JSON ({error.msg} at character {error.colno}); "
            "expected one object per line. Correct or delete the line."
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, after line {len(lines)}: not UTF-8 text ({error.reason}). Convert the file, e.g. with iconv."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from None
    return Table(pd.DataFrame(records, index=lines, dtype=object), Source(path, "line"))


def read_any_table(path: Path) -> Table:
    """Reads `.csv`, `.tsv`, `.jsonl` (each also with `.gz`) or `.parquet`.

    Raises:
        DataError: the file has another suffix or is unreadable.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if path.is_dir() or suffix not in TABLE_SUFFIXES:
        raise DataError(f"{path}: expected a file that ends in {', '.join(TABLE_SUFFIXES)} (or .gz of a text file).")
    if suffix == ".jsonl":
        return read_jsonl(path)
    if suffix != ".parquet":
        return read_delimited(path, "\t" if suffix == ".tsv" else ",", quoted=True)
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow raises subclasses of both
        raise DataError(f"{path}: not a readable Parquet file: {error}. Check the file, or write it again.") from None
    frame.index = pd.Index(np.arange(1, len(frame) + 1))
    return Table(frame, Source(path, "row"))

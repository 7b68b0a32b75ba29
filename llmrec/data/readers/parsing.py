"""Finding and reading files. Every failure is a `DataError` that names the file and, where there is one, the
line."""

import csv
import gzip
import io
import json
import re
import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from llmrec.data.readers.raw import Source, Table
from llmrec.errors import DataError

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")


def read_text(path: Path, encoding: str) -> str:
    """A whole text file, unpacked if it ends in `.gz`.

    Raises:
        DataError: it cannot be read, unpacked or decoded.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: not {encoding} text ({error.reason}). Convert the file, e.g. with iconv."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}. Check the file, or fetch it again.") from None


def read_delimited(
    path: Path,
    separator: str,
    *,
    names: list[str] | None = None,
    encoding: str = "utf-8-sig",
    quoted: bool = False,
) -> Table:
    """Reads a delimited text file as text; an empty field is missing.

    Args:
        path: the file, possibly `.gz`.
        separator: between fields; may have two characters.
        names: column names of a file without a header.
        encoding: of the file.
        quoted: whether fields may be quoted as in CSV.

    Raises:
        DataError: unreadable, empty, or a line has another number of fields than the header.
    """
    text = read_text(path, encoding)
    if len(separator) > 1:  # pandas reads such separators with a parser in Python, 20 times slower
        text, separator = text.replace(separator, "\x1f"), "\x1f"
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
        raise DataError(f"{path}: the file is empty; expected a header and one line a row.") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise DataError(_explain_fields(path, str(error), separator)) from None
    first = 1 if names else 2
    frame.index = pd.RangeIndex(first, first + len(frame))
    return Table(frame[frame.notna().any(axis=1)], Source(path, "line"))


def _explain_fields(path: Path, message: str, separator: str) -> str:
    counts = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", message)
    shown = {"\x1f": "`::`", "\t": "a tab"}.get(separator, f"`{separator}`")
    if counts is None:
        return f"{path}: the lines cannot be cut into the header's fields, separated by {shown}: {message}"
    expected, line, found = counts.groups()
    mend = "Mend or delete the line."
    return f"{path}, line {line}: {found} fields, separated by {shown}; expected {expected}. {mend}"


def read_jsonl(path: Path, fields: list[str] | None = None) -> Table:
    """Reads a file of one JSON object a line, possibly `.gz`.

    Args:
        path: the file.
        fields: keep only these keys; null: all.

    Raises:
        DataError: unreadable, or a line is not a JSON object.
    """
    records, lines = [], []
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
            "expected one object a line. Mend or delete the line."
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, after line {len(lines)}: not UTF-8 text ({error.reason}).") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}. Check the file, or fetch it again.") from None
    return Table(pd.DataFrame(records, index=lines, dtype=object), Source(path, "line"))


def read_any_table(path: Path) -> Table:
    """Reads `.csv`, `.tsv`, `.jsonl` (each also `.gz`) or `.parquet`.

    Raises:
        DataError: another suffix, or unreadable.
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
    except (OSError, ValueError) as error:  # pyarrow's errors are both
        raise DataError(f"{path}: not a readable Parquet file: {error}") from None
    frame.index = pd.Index(np.arange(1, len(frame) + 1))
    return Table(frame, Source(path, "row"))

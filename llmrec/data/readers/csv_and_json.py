"""Parsing of files into tables: CSV, TSV and other delimited text, JSON lines and Parquet.

This is the place for quirks of file syntax, such as separators, quotes and encodings. Quirks of values belong in
`columns`. Every failure is a `DataError` that names the file and, for text files, the line.
"""

import codecs
import csv
import gzip
import io
import json
import re
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.readers.raw import Source, Table
from llmrec.errors import DataError

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
# Replaces separators of two characters, which pandas parses in Python and 20 times slower.
_UNIT_SEPARATOR = "\x1f"
# Byte order marks. That of UTF-32 begins with that of UTF-16, so it comes first.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
NOT_PARSED = "line that cannot be read"


@dataclass(frozen=True)
class TextFormat:
    """How text files are read: values of the config that hold for every file of a log.

    Attributes:
        encoding: encoding of the files; None for UTF-8, or what a byte order mark names.
        separator: text between two fields; None for the one that the header shows.
        skip: whether rows that cannot be used are left out and counted.
    """

    encoding: str | None = None
    separator: str | None = None
    skip: bool = False

    @classmethod
    def of(cls, config: DataConfig) -> "TextFormat":
        """The values of a `data` section."""
        return cls(config.encoding, config.separator, config.bad_rows == "skip")


UTF_8 = TextFormat()


def encoding_of(path: Path, start: bytes, text: TextFormat = UTF_8) -> str:
    """The encoding of a file: the configured one, else that of its byte order mark, else UTF-8.

    Args:
        path: the file.
        start: its first bytes, decompressed.
        text: the configured encoding.

    Raises:
        DataError: the file has zero bytes, as UTF-16 without a byte order mark has.
    """
    if text.encoding is not None:
        return text.encoding
    marked = next((encoding for mark, encoding in _MARKS.items() if start.startswith(mark)), None)
    if marked is None and b"\0" in start:
        raise DataError(
            f"{path}: not UTF-8 text (it holds zero bytes); expected UTF-8, or UTF-16 with a byte order mark. "
            "Set `data.encoding`, such as utf-16-le, or convert the file."
        )
    return marked or "utf-8"


def read_text(path: Path, text: TextFormat = UTF_8, fallback: str | None = None) -> str:
    """Reads a whole text file; a `.gz` file is decompressed.

    Args:
        path: the file.
        text: the configured encoding.
        fallback: encoding of a file that is not UTF-8, if none is configured.

    Raises:
        DataError: the file cannot be read, decompressed or decoded.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from None
    encoding = encoding_of(path, content[:1000], text)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        if fallback is not None and text.encoding is None:
            return content.decode(fallback)
        line = content[: error.start].count(b"\n") + 1
        raise _undecodable(f"{path}, line {line}", encoding, error) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read: {error}. Check the file, or fetch it again.")


def _undecodable(where: str, encoding: str, error: UnicodeDecodeError) -> DataError:
    return DataError(
        f"{where}: not {encoding} text ({error.reason}). Set `data.encoding`, such as cp1252 or latin-1, or convert "
        "the file, e.g. with iconv."
    )


def find_separator(header: str, candidates: str) -> str:
    """The separator that cuts a header into the most fields; the first of the candidates if several do."""
    return max(candidates, key=lambda separator: len(next(csv.reader([header], delimiter=separator), [])))


def read_delimited(
    path: Path,
    separators: str,
    *,
    names: list[str] | None = None,
    text: TextFormat = UTF_8,
    fallback: str | None = None,
    quoted: bool = False,
) -> Table:
    """Reads delimited text; all values are text, and an empty field is missing.

    Args:
        path: the file; it may end in `.gz`.
        separators: text between two fields. With a header: the characters that may be it, the usual one first.
        names: column names of a file without a header.
        text: the configured encoding and, for a file with a header, separator.
        fallback: encoding of a file that is not UTF-8, if none is configured.
        quoted: whether fields may be quoted as in CSV.

    Raises:
        DataError: the file is unreadable or empty, or a quotation mark is not closed; or, unless bad rows are
            skipped, a line has more fields than the header.
    """
    content = read_text(path, text, fallback)
    separator = separators if names else text.separator or find_separator(content.partition("\n")[0], separators)
    if len(separator) > 1:
        content = content.replace(separator, _UNIT_SEPARATOR)
        separator = _UNIT_SEPARATOR
    source = Source(path, "line", text.skip)
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always", pd.errors.ParserWarning)
            frame = pd.read_csv(
                io.StringIO(content),
                sep=separator,
                names=names,
                header=None if names else 0,
                index_col=False,
                dtype=str,
                keep_default_na=False,
                na_values=[""],
                skip_blank_lines=False,
                quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
                on_bad_lines="warn",
            )
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: the file is empty; expected a header and one line per row.") from None
    except pd.errors.ParserError as error:
        raise DataError(_explain_parser_error(path, str(error), content, separator)) from None
    messages = [str(warning.message) for warning in found if warning.category is pd.errors.ParserWarning]
    skipped = _skipped_lines(source, messages, separator)
    frame.index = _line_numbers(frame, content, skipped, 1 if names else 2)
    return Table(frame[frame.notna().any(axis=1)], source)


def _skipped_lines(source: Source, messages: list[str], separator: str) -> list[int]:
    """Lines that pandas skipped because they have too many fields.

    Raises:
        DataError: there is one, and bad rows are errors; or every line has too many.
    """
    shown = {_UNIT_SEPARATOR: "the separator", "\t": "a tab", " ": "a space"}.get(separator, f"`{separator}`")
    skipped = []
    for message in (line for warned in messages for line in warned.splitlines()):
        counts = re.search(r"Skipping line (\d+): expected (\d+) fields, saw (\d+)", message)
        if counts is None:
            raise DataError(
                f"{source.path}: the lines cannot be cut into the header's fields, separated by {shown}: {message} "
                "Correct the header, or set `data.separator`."
            )
        line, expected, found = map(int, counts.groups())
        counted = f"{found} fields, separated by {shown}; expected {expected}"
        if not source.skip:
            raise DataError(
                f"{source.at(line)}: {counted}. Correct or delete the line, or set `data.bad_rows: skip` or "
                "`data.separator`."
            )
        source.count(NOT_PARSED, 1, [f"{source.at(line)}: {counted}"])
        skipped.append(line)
    return skipped


def _line_numbers(frame: pd.DataFrame, content: str, skipped: list[int], first: int) -> pd.Index:
    """The line on which each row begins; a quoted field may hold line breaks."""
    numbers = np.arange(first, first + len(frame) + len(skipped))
    numbers = numbers[~np.isin(numbers, skipped)]
    num_lines = content.count("\n") + (not content.endswith("\n"))
    if len(frame) and num_lines > numbers[-1]:
        breaks = sum((frame[name].str.count("\n").fillna(0).to_numpy(dtype=np.int64) for name in frame.columns), 0)
        numbers = numbers + np.cumsum(breaks) - breaks
    return pd.Index(numbers)


def _explain_parser_error(path: Path, message: str, content: str, separator: str) -> str:
    """The error for text that pandas cannot parse, which is mostly a quotation mark that is not closed."""
    if "EOF inside string" not in message:
        return f"{path}: cannot be parsed: {message}. Correct the file."
    begin = line = 1
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator)
    with suppress(csv.Error):  # a field that runs on to the end of a large file
        for _ in reader:
            begin, line = line, reader.line_num + 1
    return (
        f"{path}, line {begin}: a quotation mark opens a field and none closes it; expected quotation marks in pairs. "
        "Close the field, or write a quotation mark that belongs to the text twice."
    )


def read_jsonl(path: Path, fields: list[str] | None = None, text: TextFormat = UTF_8) -> Table:
    """Reads JSON lines: one object per line; empty lines are skipped.

    Args:
        path: the file; it may end in `.gz`.
        fields: keys to keep; None keeps all.
        text: the configured encoding, and what becomes of lines that cannot be read.

    Raises:
        DataError: the file is unreadable; or, unless bad rows are skipped, a line is not a JSON object.
    """
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    source = Source(path, "line", text.skip)
    encoding = "utf-8"
    number = 0
    try:
        with _opened(path) as binary:
            encoding = encoding_of(path, binary.peek(1000)[:1000], text)
            for number, line in enumerate(io.TextIOWrapper(binary, encoding), start=1):
                if not line.strip():
                    continue
                record = _json_object(line, number, source)
                if record is not None:
                    records.append(record if fields is None else {f: record[f] for f in fields if f in record})
                    lines.append(number)
    except UnicodeDecodeError as error:
        raise _undecodable(f"{path}, after line {number}", encoding, error) from None
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from None
    return Table(pd.DataFrame(records, index=lines, dtype=object), source)


def _opened(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


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


def read_any_table(path: Path, text: TextFormat = UTF_8) -> Table:
    """Reads `.csv`, `.tsv`, `.jsonl` (each also with `.gz`) or `.parquet`.

    Args:
        path: the file.
        text: configured encoding and separator, and what becomes of bad rows.

    Raises:
        DataError: the file has another suffix or is unreadable.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if path.is_dir() or suffix not in TABLE_SUFFIXES:
        raise DataError(f"{path}: expected a file that ends in {', '.join(TABLE_SUFFIXES)} (or .gz of a text file).")
    if suffix == ".jsonl":
        return read_jsonl(path, text=text)
    if suffix != ".parquet":
        return read_delimited(path, "\t,;|" if suffix == ".tsv" else ",;\t|", text=text, quoted=True)
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow raises subclasses of both
        raise DataError(f"{path}: not a readable Parquet file: {error}. Check the file, or write it again.") from None
    frame.index = pd.Index(np.arange(1, len(frame) + 1))
    return Table(frame, Source(path, "row", text.skip))

"""Delimited text, such as CSV and TSV, as tables that are read in parts.

A block of lines without quotation marks is cut by Arrow. A block whose lines have different numbers of fields, and
everything from the first quotation mark on, is parsed by pandas, which is slower and says which line is wrong.
"""

import csv
import re
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow_csv

from llmrec.data.readers.headers import refuse_row_as_header
from llmrec.data.readers.raw import Source, Table, TableStream
from llmrec.data.readers.text_files import UTF_8, TextFormat, encoding_of_file, open_text
from llmrec.errors import DataError

NOT_PARSED = "line that cannot be read"
BLOCK = 1 << 24  # characters of a block
PART_ROWS = 500_000  # rows of a part that pandas parses
# Separators inside a quoted field from which on its lines count as rows. Texts of several lines have fewer by chance.
LEAST_SWALLOWED = 4
# Takes the place of separators of several characters, which no fast parser knows.
_UNIT_SEPARATOR = "\x1f"


def find_separator(header: str, candidates: str) -> str:
    """The separator that cuts a header into the most fields; the first of the candidates if several do."""
    return max(candidates, key=lambda separator: len(next(csv.reader([header], delimiter=separator), [])))


def separator_of(header: str, named: str | None, candidates: str) -> str:
    """The separator of a file: the named one, unless the header shows another, as a second table of a log may.

    Args:
        header: the first line.
        named: `data.separator`, which holds for all tables of a log.
        candidates: see `find_separator`.
    """
    found = find_separator(header, candidates)
    if named is None or named not in header:
        return found
    fields = len(next(csv.reader([header], delimiter=found), []))
    return named if len(header.split(named)) >= fields else found


def stream_delimited(
    path: Path,
    separators: str,
    *,
    names: list[str] | None = None,
    text: TextFormat = UTF_8,
    fallback: str | None = None,
    quoted: bool = False,
) -> TableStream:
    """Opens delimited text; all values are text, and an empty field is missing.

    Args:
        path: the file; it may end in `.gz`.
        separators: text between two fields. With a header: the characters that may be it, the usual one first.
        names: column names of a file without a header.
        text: the configured encoding and, for a file with a header, separator, see `separator_of`.
        fallback: encoding of a file that is not UTF-8, if none is configured.
        quoted: whether fields may be quoted as in CSV.

    Raises:
        DataError: the file is unreadable or empty, or its first line is a row. While it is read: a quotation mark is
            not closed, or only after further rows; or, unless bad rows are skipped, a line has more fields than the
            header.
    """
    encoding = encoding_of_file(path, text, fallback)
    separator = separators
    header = ""
    if names is None:
        with open_text(path, encoding) as lines:
            header = lines.readline().rstrip("\r\n")
        separator = separator_of(header, text.separator, separators)
    syntax = _Syntax(path, encoding, separator, quoted, names)
    first = next(syntax.parts(Source(path, "line", text.skip)))
    if names is None:
        refuse_row_as_header(path, syntax.fields(header), first)
    return TableStream([str(column) for column in first.columns], Source(path, "line", text.skip), syntax.parts)


def read_delimited(
    path: Path,
    separators: str,
    *,
    names: list[str] | None = None,
    text: TextFormat = UTF_8,
    fallback: str | None = None,
    quoted: bool = False,
) -> Table:
    """Reads delimited text as one table; arguments and errors are those of `stream_delimited`."""
    return stream_delimited(path, separators, names=names, text=text, fallback=fallback, quoted=quoted).whole()


@dataclass(frozen=True)
class _Syntax:
    """How one file is cut into lines and fields.

    Attributes:
        path: the file.
        encoding: its encoding.
        separator: text between two fields.
        quoted: whether fields may be quoted.
        names: column names of a file without a header.
    """

    path: Path
    encoding: str
    separator: str
    quoted: bool
    names: list[str] | None

    @property
    def delimiter(self) -> str:
        """The single character between two fields of a block."""
        return self.separator if len(self.separator) == 1 else _UNIT_SEPARATOR

    def parts(self, source: Source) -> Iterator[pd.DataFrame]:
        """The rows in parts, at least one part, indexed by line. Bad lines are counted in `source`."""
        first = 2 if self.names is None else 1
        with open_text(self.path, self.encoding) as lines:
            header = self._block(lines.readline()) if self.names is None else self.delimiter.join(self.names) + "\n"
            blocks = iter(lambda: self._block(lines.read(BLOCK) + lines.readline()), "")
            if self._has_quotes(header):
                yield from self._by_pandas(source, chain([header], blocks), first)
                return
            columns = next(self._frames(_Joined([header])))[0].columns.tolist()
            line = first
            for block in blocks:
                if self._has_quotes(block):
                    yield from self._by_pandas(source, chain([header, block], blocks), line)
                    return
                frame = self._by_arrow(block, columns)
                if frame is None:
                    line = yield from self._by_pandas(source, [header, block], line)
                else:
                    frame.index = pd.RangeIndex(line, line + len(frame))
                    line += len(frame)
                    yield _filled(frame)
            if line == first:
                yield pd.DataFrame(columns=columns, dtype="str")

    def fields(self, line: str) -> list[str]:
        """The fields of one line."""
        line = self._block(line)
        quoting = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        return next(csv.reader([line], delimiter=self.delimiter, quoting=quoting), [])

    def _block(self, text: str) -> str:
        return text if len(self.separator) == 1 else text.replace(self.separator, _UNIT_SEPARATOR)

    def _has_quotes(self, text: str) -> bool:
        return self.quoted and '"' in text

    def _by_arrow(self, block: str, columns: list[str]) -> pd.DataFrame | None:
        """The rows of a block without quotation marks; None if its lines have different numbers of fields."""
        if "\0" in block or block.count("\r") != block.count("\r\n"):
            return None
        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(block.encode()),
                arrow_csv.ReadOptions(use_threads=False, block_size=4 * len(block) + 1, column_names=columns),
                arrow_csv.ParseOptions(delimiter=self.delimiter, quote_char=False, ignore_empty_lines=False),
                arrow_csv.ConvertOptions(
                    check_utf8=False,
                    column_types=dict.fromkeys(columns, pa.large_string()),
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
        except pa.ArrowInvalid:
            return None
        return table.to_pandas()

    def _by_pandas(self, source: Source, texts: Iterable[str], line: int) -> Generator[pd.DataFrame, None, int]:
        """The rows of some pieces of text that begin with the header.

        Args:
            source: counts bad lines.
            texts: the pieces.
            line: line number of the first row.

        Returns:
            line number after the last row.
        """
        before = line - 2  # pandas calls the header line 1
        breaks = 0
        for frame, messages in self._frames(_Joined(texts)):
            skipped = self._skipped_lines(source, messages, before)
            numbers = np.arange(line, line + len(frame) + len(skipped))
            line += len(numbers)
            numbers = numbers[~np.isin(numbers, skipped)]
            if self.quoted:
                within = {str(name): _line_breaks(frame[name]) for name in frame.columns}
                inside = sum(within.values(), np.zeros(len(frame), np.int64))
                numbers = numbers + breaks + np.cumsum(inside) - inside
                breaks += int(inside.sum())
                self._refuse_swallowed_rows(frame, numbers, within)
            frame.index = pd.Index(numbers)
            yield _filled(frame)
        return line

    def _frames(self, text: "_Joined") -> Iterator[tuple[pd.DataFrame, list[str]]]:
        """Parts of a text as pandas parses it, each with the warnings about it."""
        try:
            chunks = pd.read_csv(
                cast(Any, text),  # it has the methods that pandas uses
                sep=self.delimiter,
                index_col=False,
                dtype=str,
                keep_default_na=False,
                na_values=[""],
                skip_blank_lines=False,
                quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
                on_bad_lines="warn",
                chunksize=PART_ROWS,
            )
            while True:
                with warnings.catch_warnings(record=True) as found:
                    warnings.simplefilter("always", pd.errors.ParserWarning)
                    frame = next(chunks, None)
                if frame is None:
                    return
                messages = [str(one.message) for one in found if one.category is pd.errors.ParserWarning]
                yield frame, messages
        except pd.errors.EmptyDataError:
            raise DataError(f"{self.path}: the file is empty; expected a header and one line per row.") from None
        except pd.errors.ParserError as error:
            if text.error is not None:
                raise text.error from None
            raise DataError(self._explain(str(error))) from None

    def _skipped_lines(self, source: Source, messages: list[str], before: int) -> list[int]:
        """Lines that pandas skipped because they have too many fields.

        Args:
            source: counts them.
            messages: warnings of pandas.
            before: lines of the file before the text that pandas parsed.

        Raises:
            DataError: there is one, and bad rows are errors; or every line has too many.
        """
        shown = {_UNIT_SEPARATOR: "the separator", "\t": "a tab", " ": "a space"}.get(
            self.delimiter, f"`{self.delimiter}`"
        )
        skipped = []
        for message in (line for warned in messages for line in warned.splitlines()):
            counts = re.search(r"Skipping line (\d+): expected (\d+) fields, saw (\d+)", message)
            if counts is None:
                raise DataError(  # pandas warns that the header is shorter than the rows
                    f"{source.path}: the first rows have more fields than the header, separated by {shown}; expected "
                    "as many. Correct the header, or set `data.separator`."
                )
            line, expected, found = map(int, counts.groups())
            line += before
            counted = f"{found} fields, separated by {shown}; expected {expected}"
            if not source.skip:
                raise DataError(
                    f"{source.at(line)}: {counted}. Correct or delete the line, or set `data.bad_rows: skip` or "
                    "`data.separator`."
                )
            source.count(NOT_PARSED, 1, [f"{source.at(line)}: {counted}"])
            skipped.append(line)
        return skipped

    def _refuse_swallowed_rows(self, frame: pd.DataFrame, numbers: np.ndarray, within: dict[str, np.ndarray]) -> None:
        """Refuses a quoted field whose lines are rows of their own, because a stray quotation mark opened it.

        Args:
            frame: the rows of a part.
            numbers: number of the first line of each row, int64 [E].
            within: number of line breaks in each value by column, int64 [E].

        Raises:
            DataError: there is such a field.
        """
        width = len(frame.columns)
        for column, (name, breaks) in enumerate(within.items()):
            for row in np.flatnonzero(breaks):
                *between, last = [self.fields(line.rstrip("\r")) for line in frame[name].iloc[row].split("\n")[1:]]
                if len(between) * (width - 1) >= LEAST_SWALLOWED and all(len(line) == width for line in between):
                    found = f"every line between has {width} fields"
                elif column > 1 and _shapes(last[:-1]) == _shapes(frame.iloc[int(row)].tolist()[:column]):
                    found = f"that line begins with {column} fields"
                else:
                    continue
                raise DataError(
                    f"{self.path}, line {numbers[row]}: a quotation mark opens in `{name}` and closes on line "
                    f"{numbers[row] + breaks[row]}, and {found}, as rows have; expected text. Close the field, or "
                    "write a quotation mark that belongs to the text twice."
                )

    def _explain(self, message: str) -> str:
        """The error for text that pandas cannot parse, which is mostly a quotation mark that is not closed."""
        if "EOF inside string" not in message:
            return f"{self.path}: cannot be parsed: {message}. Correct the file."
        begin = line = 1
        with open_text(self.path, self.encoding) as lines, suppress(csv.Error):  # a field up to the end of a large file
            reader = csv.reader(map(self._block, lines), delimiter=self.delimiter)
            for _ in reader:
                begin, line = line, reader.line_num + 1
        return (
            f"{self.path}, line {begin}: a quotation mark opens a field and none closes it; expected quotation marks "
            "in pairs. Close the field, or write a quotation mark that belongs to the text twice."
        )


class _Joined:
    """Pieces of text as one file, as pandas reads it.

    Args:
        pieces: the pieces.
    """

    def __init__(self, pieces: Iterable[str]):
        self.pieces = iter(pieces)
        self.error: Exception | None = None  # pandas does not pass on the error of a read

    def __iter__(self) -> Iterator[str]:
        return self.pieces

    def read(self, size: int = -1) -> str:
        """The next piece, whatever its length; "" at the end."""
        try:
            return next((piece for piece in self.pieces if piece), "")
        except Exception as error:
            self.error = error
            raise


def _shapes(fields: Iterable[Any]) -> list[str]:
    """What kind of value each field holds: runs of digits as 0, runs of letters as a, other characters as they are."""
    return [re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", str(field))) for field in fields]


def _line_breaks(values: pd.Series) -> np.ndarray:
    """Number of line breaks in each value, int64 [E]."""
    if not values.str.contains("\n", regex=False, na=False).any():
        return np.zeros(len(values), dtype=np.int64)
    return values.str.count("\n").fillna(0).to_numpy(dtype=np.int64)


def _filled(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that hold a value: blank lines are no rows."""
    return frame[frame.notna().any(axis=1)]

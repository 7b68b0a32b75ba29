"""Files of an unknown log: its first lines as a table, and commands that change a file."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from llmrec.data.readers.csv_and_json import TABLE_SUFFIXES, copy_first_rows, read_any_table
from llmrec.data.readers.decimals import plain_numbers
from llmrec.data.readers.delimited import find_separator, separator_of
from llmrec.data.readers.other_files import find_constant_separator, opened, pandas_command, quote, remedy
from llmrec.data.readers.raw import Table
from llmrec.data.readers.text_files import TextFormat, encoding_of_file, open_text
from llmrec.errors import DataError

LINES = 10_000  # lines, or rows of a Parquet file, that are read
_FOUND = ",;\t|"  # separators that are found without `data.separator`
_OTHERS = ("::", " ", "^", "~", "#")


@dataclass(frozen=True)
class Sample:
    """The first lines of a log.

    Attributes:
        path: the log.
        file: a copy of its first lines.
        text: the encoding and the separator that the config must name.
        table: the rows.
        whole: whether the log has no other lines.
        plain: whether any encoding reads these lines, because they are ASCII or no text.
    """

    path: Path
    file: Path
    text: TextFormat
    table: Table
    whole: bool
    plain: bool

    def command(self, change: str, ending: str, *, objects: bool = False) -> str:
        """A line for the shell that changes the log, see `change_command`."""
        return change_command(self.path, self.text, change, ending, objects=objects)


def change_command(path: Path, text: TextFormat, change: str, ending: str, *, objects: bool = False) -> str:
    """A line for the shell that changes a file of a table and writes it to another, a CSV file.

    Args:
        path: the file.
        text: its encoding and separator, as far as they must be named.
        change: Python code that changes the data frame `t`, whose columns are text.
        ending: what is added to the name of the file.
        objects: whether the code needs objects and lists as such, and missing values in place of empty text.
    """
    name = path.name.removesuffix(".gz")
    suffix = Path(name).suffix
    as_text = "" if objects else ".astype(str)"
    if suffix == ".parquet":
        read = f"pd.read_parquet({quote(path)}){as_text}"
    elif suffix == ".jsonl":
        read = f"pd.DataFrame(map(json.loads, {opened(path)}), dtype=object){as_text}"
    else:
        encoding = encoding_of_file(path, text)
        separator = find_separator_of(path, text, encoding)
        named = "" if encoding == "utf-8" else f", encoding={quote(encoding)}"
        empty = "" if objects else ", keep_default_na=False"
        read = f"pd.read_csv({quote(path)}, dtype=str, sep={quote(separator)}{empty}{named})"
    target = path.with_name(f"{name.removesuffix(suffix)}-{ending}.csv")
    return pandas_command(f"t = {read}; {change}; t.to_csv({quote(target)}, index=False)")


def find_separator_of(path: Path, text: TextFormat, encoding: str) -> str:
    """The separator of a file of delimited text."""
    with open_text(path, encoding) as lines:
        header = lines.readline().rstrip("\r\n")
    return separator_of(
        header, text.separator, "\t,;|" if Path(path.name.removesuffix(".gz")).suffix == ".tsv" else _FOUND
    )


def require_log(path: Path) -> None:
    """Checks that a file may be an event log.

    Raises:
        DataError: there is no such file, or files of its kind are not read.
    """
    if _is_table(path):
        return
    found = "" if path.exists() else f"there is no {path.name} in {path.parent}; "
    advice = _inside(path) if path.is_dir() else remedy(path, TABLE_SUFFIXES)
    raise DataError(
        f"{path}: {found}expected an event log, a file that ends in {', '.join(TABLE_SUFFIXES)} (or .gz of a text "
        f"file), or a YAML config. {advice}".rstrip()
    )


def _inside(directory: Path) -> str:
    """What to do with a directory that is no known data set."""
    files = sorted(one.name for one in directory.iterdir() if _is_table(one))
    advice = (
        f"Name a file in it, such as {', '.join(files[:5])}." if files else "Name the directory or file of the log."
    )
    return f"The directory holds no data set that `data.format` knows by its files. {advice}"


def _is_table(path: Path) -> bool:
    return path.is_file() and Path(path.name.removesuffix(".gz")).suffix in TABLE_SUFFIXES


@contextmanager
def read_sample(path: Path) -> Iterator[Sample]:
    """The first lines of a log that has no config."""
    with first_lines(path, None) as (file, encoding, whole):
        text = TextFormat(encoding, named_separator(file, encoding), skip=True)
        table = plain_numbers(read_any_table(file, text), (), None)
        plain = file.suffix == ".parquet" or decodes(file, "ascii")
        yield Sample(path, file, text, table, whole, plain)


@contextmanager
def first_lines(path: Path, encoding: str | None) -> Iterator[tuple[Path, str | None, bool]]:
    """A copy of the first lines, the encoding that the config must name, if any, and whether there are no others."""
    named = encoding
    with tempfile.TemporaryDirectory(prefix="llmrec-check-") as folder:
        sample = Path(folder) / path.name.removesuffix(".gz")
        try:
            if path.suffix == ".parquet":
                copy_first_rows(path, sample, LINES)
                with pq.ParquetFile(path) as rows:
                    whole = rows.metadata.num_rows <= LINES
            else:
                if encoding is None:
                    encoding = encoding_of_file(path)
                    if encoding == "utf-8" and not decodes(path, "utf-8", LINES + 1):
                        encoding = named = "cp1252"
                with open_text(path, encoding) as lines:
                    first = "".join(islice(lines, LINES + 1))
                    if sample.suffix != ".jsonl" and first.count('"') % 2:
                        first += "".join(_rest_of_field(islice(lines, LINES)))
                    whole = next(lines, None) is None
                sample.write_text(first, encoding=encoding, newline="")
            yield sample, named, whole
        except DataError as error:
            raise DataError(str(error).replace(folder, str(path.parent))) from None


def _rest_of_field(lines: Iterator[str]) -> Iterator[str]:
    """The lines up to the one that closes a quoted field."""
    for line in lines:
        yield line
        if line.count('"') % 2:
            return


def decodes(path: Path, encoding: str, most: int | None = None) -> bool:
    """Whether the lines of a file are text in an encoding.

    Args:
        path: the file.
        encoding: the encoding.
        most: number of lines that are read; None for all.
    """
    try:
        with open_text(path, encoding) as lines:
            return all(True for _ in islice(lines, most))
    except DataError:
        return False


def named_separator(path: Path, encoding: str | None) -> str | None:
    """The separator that the config must name for a file; None if it is found without, or if there is none."""
    if Path(path.name.removesuffix(".gz")).suffix not in (".csv", ".tsv"):
        return None
    with open_text(path, encoding_of_file(path, TextFormat(encoding))) as lines:
        first = [line.rstrip("\r\n") for line in islice(lines, 20)]
    if not first or find_separator(first[0], _FOUND) in first[0]:
        return None
    return find_constant_separator([line for line in first if line], _OTHERS)

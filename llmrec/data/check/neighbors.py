"""Files beside an unknown log that may be its item table or its user table."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llmrec.data.check.files import Sample, decodes, named_separator
from llmrec.data.readers.csv_and_json import TABLE_SUFFIXES, read_any_table
from llmrec.data.readers.raw import NO_IDS, Table
from llmrec.data.readers.text_files import TextFormat, encoding_of_file
from llmrec.data.readers.whole_ids import whole_ids
from llmrec.errors import DataError

LARGEST = 200_000_000  # bytes of a file that is read
ENOUGH = 0.5  # share of the ids of the log that a table about them holds


@dataclass(frozen=True)
class Neighbor:
    """A table beside the log.

    Attributes:
        path: its file.
        text: its encoding and separator, as far as they must be named.
        table: its different rows.
    """

    path: Path
    text: TextFormat
    table: Table

    def share(self, column: str, ids: set[str]) -> float:
        """Share of some ids that a column holds."""
        return len(ids & ids_of(self.table, column)) / len(ids)

    def repeated(self, column: str) -> float:
        """Share of the rows whose id is also in an earlier row, which says something else."""
        return float(self.table.text(column).duplicated().mean())


def ids_of(table: Table, column: str) -> set[str]:
    """The ids in a column, without text that stands for a missing one."""
    return set(whole_ids(table.text(column).dropna())) - set(NO_IDS)


def read_neighbors(sample: Sample) -> tuple[list[Neighbor], list[str]]:
    """The tables beside a log, in the order of their names, and notes about files that cannot be read."""
    neighbors = []
    notes = []
    for path in _files(sample.path):
        try:
            text = _text(path, sample)
            table = read_any_table(path, text)
        except DataError as error:
            notes.append(f"{path.name} cannot be read as an item table: {error}")
            continue
        if table.columns and len(table.frame):
            rows = table.frame[~table.frame.astype("str").duplicated()]  # lists cannot be compared
            neighbors.append(Neighbor(path, text, replace(table, frame=rows)))
    return neighbors, notes


def _files(log: Path) -> Iterator[Path]:
    for path in sorted(log.parent.iterdir()):
        suffix = Path(path.name.removesuffix(".gz")).suffix
        if path != log and path.is_file() and suffix in TABLE_SUFFIXES and path.stat().st_size <= LARGEST:
            yield path


def _text(path: Path, sample: Sample) -> TextFormat:
    """How a table beside the log is read: by the encoding and separator of the log, or by its own where they differ."""
    if path.suffix == ".parquet":
        return TextFormat(skip=True)
    encoding = sample.text.encoding
    if encoding is not None and not decodes(path, "ascii") and decodes(path, "utf-8"):
        encoding = "utf-8"
    elif encoding is None and sample.plain and encoding_of_file(path) == "utf-8" and not decodes(path, "utf-8"):
        encoding = "cp1252"
    separator = named_separator(path, encoding) or sample.text.separator
    return TextFormat(encoding, separator, skip=True)

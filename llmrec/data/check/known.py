"""Data sets that `data.format` names: recognized by the names of their files."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmrec.data.readers.delimited import find_separator
from llmrec.data.readers.text_files import encoding_of_file, open_text
from llmrec.errors import DataError

LARGEST_TRIED = 50_000_000  # bytes of a data set whose config is tried on the whole of it


@dataclass(frozen=True)
class KnownLog:
    """A data set of a format.

    Attributes:
        name: what it is called.
        data: the section `data` that reads it.
        size: bytes of its files.
    """

    name: str
    data: dict[str, Any]
    size: int


@dataclass(frozen=True)
class _Kind:
    """The files of a data set, and how it is read.

    Attributes:
        name: what it is called.
        format: `data.format`.
        logs: patterns of the files that hold its events.
        others: patterns of the other files that must be there.
        rules: values of the section `data` other than the defaults.
        columns: columns that the first file of events must have.
    """

    name: str
    format: str
    logs: tuple[str, ...]
    others: tuple[str, ...] = ()
    rules: dict[str, Any] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)


def _header(path: Path) -> set[str]:
    """The names of the columns of a text file; none if it cannot be read."""
    try:
        with open_text(path, encoding_of_file(path)) as lines:
            header = lines.readline().strip()
    except DataError:
        return set()
    return {name.strip().strip('"') for name in header.split(find_separator(header, ",;\t| "))} if header else set()


# What else a log needs to be read by a format of its own, by the columns that show what it is.
_INCOMPLETE = (
    (
        {"parent_asin", "asin", "user_id", "rating", "timestamp"},
        "The columns are those of Amazon Reviews 2023. With the metadata file meta_{name} beside it, which has the "
        "titles, the check suggests `data.format: amazon2023`.",
    ),
    (
        {"item_id", "position", "click", "propensity_score", "user_feature_0"},
        "The columns are those of Open Bandit. If the file is called men.csv or women.csv and item_context.csv lies "
        "beside it, the check suggests `data.format: open_bandit`, which makes users of the features.",
    ),
    (
        {"userId", "movieId", "rating", "timestamp"},
        "The columns are those of MovieLens. If the file is called ratings.csv and movies.csv, which has the titles, "
        "lies beside it, the check suggests `data.format: movielens`.",
    ),
)
_RATED = {"click": ["rating>=0"], "purchase": ["rating>=4"], "min_user_events": 3}
_KINDS = (
    _Kind("MovieLens 100K", "movielens", ("u.data",), ("u.item", "u.genre"), _RATED),
    _Kind("MovieLens 1M or 10M", "movielens", ("ratings.dat",), ("movies.dat",), _RATED),
    _Kind("MovieLens", "movielens", ("ratings.csv",), ("movies.csv",), _RATED, {"userId", "movieId", "rating"}),
    _Kind(
        "Open Bandit",
        "open_bandit",
        ("men.csv", "women.csv"),
        ("item_context.csv",),
        {"click": ["click>=1"], "purchase": [], "min_user_events": 0, "splits": ["temporal"]},
        {"propensity_score", "user_feature_0"},
    ),
    _Kind(
        "Complete Journey",
        "complete_journey",
        ("transactions.parquet",),
        ("products.parquet", "demographics.parquet"),
        {"click": ["purchase"], "purchase": [], "repeats": "keep", "splits": ["temporal"], "min_user_events": 10},
    ),
    _Kind(
        "MiniOneRec",
        "minionerec",
        ("valid.csv", "test.csv", "train.csv"),
        ("valid.csv", "test.csv", "items.json"),
        {"click": ["purchase"], "purchase": [], "splits": ["given"], "min_user_events": 2},
        {"history_item_id"},
    ),
    _Kind(
        "sequences",
        "sequences",
        ("user_sequence.txt",),
        ("item_words.txt",),
        {"click": ["interaction"], "purchase": [], "splits": ["leave_one_out"], "min_user_events": 3},
    ),
)


def find_known(path: Path) -> KnownLog | None:
    """Recognizes a data set by one of its files, or by its directory; None if it is none that is known."""
    directory = path if path.is_dir() else path.parent
    for kind in _KINDS:
        logs = [directory / name for name in kind.logs if (directory / name).is_file()]
        if not logs or (path != directory and path not in logs):
            continue
        if all((directory / name).is_file() for name in kind.others) and kind.columns <= _header(logs[0]):
            size = _size([directory / name for name in {*kind.logs, *kind.others}])
            return KnownLog(kind.name, {"format": kind.format, "path": str(directory), **kind.rules}, size)
    return _recbole(path, directory) or _amazon(path, directory)


def missing_files(path: Path, columns: list[str]) -> list[str]:
    """What a log needs to be read by a format of its own, if its columns are those of a known data set."""
    return [note.format(name=path.name) for known, note in _INCOMPLETE if known <= set(columns)]


def _recbole(path: Path, directory: Path) -> KnownLog | None:
    """A directory with one data set of RecBole."""
    logs = sorted(directory.glob("*.inter"))
    if not logs or (path != directory and path not in logs):
        return None
    columns = {column.split(":")[0] for column in _header(logs[0])}
    data: dict[str, Any] = {"format": "recbole", "path": str(directory)}
    if len(logs) > 1:  # benchmark files
        data["splits"] = ["given"]
    if "timestamp" not in columns:
        data |= {"columns": {"timestamp": None}, "splits": data.get("splits", ["leave_one_out"])}
    rated = {"click": ["rating>=0"], "purchase": ["rating>=4"]}
    data |= rated if "rating" in columns else {"click": ["interaction"], "purchase": []}
    return KnownLog("RecBole", data | {"min_user_events": 2 if len(logs) > 1 else 3}, _size(logs))


def _amazon(path: Path, directory: Path) -> KnownLog | None:
    """Reviews of Amazon Reviews 2023 with their metadata."""
    names = [f"meta_{path.name}"] if path != directory else [one.name for one in directory.glob("meta_*.jsonl*")]
    pairs = [(directory / name.removeprefix("meta_"), directory / name) for name in names]
    pairs = [(log, meta) for log, meta in pairs if ".jsonl" in log.name and log.is_file() and meta.is_file()]
    if len(pairs) != 1:
        return None
    log, meta = pairs[0]
    data = {"format": "amazon2023", "path": str(log), "items": str(meta)}
    data = {**data, "click": ["rating>=1"], "purchase": ["rating>=4"], "min_user_events": 5}
    return KnownLog("Amazon Reviews 2023", data, _size([log, meta]))


def _size(files: list[Path]) -> int:
    """Bytes of the files that there are; a compressed file counts five times."""
    return sum(
        file.stat().st_size * (5 if file.suffix in (".gz", ".parquet") else 1) for file in files if file.is_file()
    )

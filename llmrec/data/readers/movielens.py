"""MovieLens directories: 100K (`u.data`), 1M and 10M (`ratings.dat`), and every release with
`ratings.csv`."""

from pathlib import Path

import numpy as np
import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.readers.columns import (
    as_text,
    clean_categories,
    require_columns,
    to_categories,
    to_events,
    to_ids,
    to_users,
    to_years,
)
from llmrec.data.readers.parsing import read_delimited
from llmrec.data.readers.paths import resolve_path
from llmrec.data.readers.raw import RawLog, Table
from llmrec.errors import DataError

RATING_RANGE = (0.5, 5.0)
_RATINGS = ["user_id", "item_id", "rating", "timestamp"]
_ITEM_100K = ["item_id", "title", "release_date", "video_release_date", "url"]
_LICENSED = "fetch the data set again from https://grouplens.org/datasets/movielens/"

# README of MovieLens 1M: codes of `users.dat`.
_AGES = {
    "1": "under 18",
    "18": "18-24",
    "25": "25-34",
    "35": "35-44",
    "45": "45-49",
    "50": "50-55",
    "56": "56+",
}
_OCCUPATIONS = dict(
    enumerate(
        [
            "other",
            "academic/educator",
            "artist",
            "clerical/admin",
            "college/grad student",
            "customer service",
            "doctor/health care",
            "executive/managerial",
            "farmer",
            "homemaker",
            "K-12 student",
            "lawyer",
            "programmer",
            "retired",
            "sales/marketing",
            "scientist",
            "self-employed",
            "technician/engineer",
            "tradesman/craftsman",
            "unemployed",
            "writer",
        ]
    )
)

# `Lion King, The`, alone or in brackets, at the end or before the next bracket.
_ARTICLE = (
    r"(?P<before>^|\((?:a\.k\.a\. )?)(?P<name>[^()]+), "
    r"(?P<article>The|An|A|Le|La|Les|L'|Il|Lo|El|Los|Las|Der|Die|Das|De|Det|Den|O|Os)(?=\s*(?:[()]|$))"
)


def natural_titles(titles: pd.Series) -> pd.Series:
    """Moves trailing articles to the front: `Lion King, The (1994)` becomes `The Lion King (1994)`."""

    def move(match) -> str:
        article = match["article"]
        space = "" if article.endswith("'") else " "
        return f"{match['before']}{article}{space}{match['name']}"

    return titles.str.strip().str.replace(_ARTICLE, move, regex=True)


def titled_years(titles: pd.Series) -> pd.Series:
    """The year in brackets at the end of each title, Int64, NA where there is none."""
    return to_years(titles.str.extract(r"\((\d{4})\)\s*$", expand=False))


def _file(directory: Path, name: str) -> Path:
    path = directory / name
    if not path.is_file():
        raise DataError(f"`data.path`: {directory} lacks the file {name}; expected a whole MovieLens: {_LICENSED}.")
    return path


def _events(table: Table, config: DataConfig, names: dict[str, str]) -> pd.DataFrame:
    require_columns(table, names)
    return to_events(table, names, config.rating_range or RATING_RANGE)


def _items(table: Table, categories: pd.Series, extra: dict[str, pd.Series] | None = None) -> pd.DataFrame:
    titles = natural_titles(table.frame["title"])
    columns = {"item_id": to_ids(table, "item_id"), "title": titles, "categories": categories}
    return pd.DataFrame({**columns, "year": titled_years(titles), **(extra or {})}, index=table.frame.index)


def _read_100k(directory: Path, config: DataConfig) -> RawLog:
    events = read_delimited(_file(directory, "u.data"), "\t", names=_RATINGS)
    genres = read_delimited(_file(directory, "u.genre"), "|", names=["genre", "code"]).frame["genre"].tolist()
    items = read_delimited(_file(directory, "u.item"), "|", names=_ITEM_100K + genres, encoding="latin-1")
    flags = items.frame[genres].to_numpy() == "1"
    names = np.array(genres, dtype=object)
    categories = pd.Series([clean_categories(names[row]) for row in flags], index=items.frame.index, dtype=object)
    users = None
    if (directory / "u.user").is_file():
        columns = ["user_id", "age", "gender", "occupation", "zip_code"]
        users = read_delimited(directory / "u.user", "|", names=columns)
    return _log(events, _items(items, categories), users, items, config, dict(zip(_RATINGS, _RATINGS, strict=True)))


def _read_1m(directory: Path, config: DataConfig) -> RawLog:
    events = read_delimited(_file(directory, "ratings.dat"), "::", names=_RATINGS, encoding="latin-1")
    columns = ["item_id", "title", "genres"]
    items = read_delimited(_file(directory, "movies.dat"), "::", names=columns, encoding="latin-1")
    users = None
    if (directory / "users.dat").is_file():  # 10M has none
        columns = ["user_id", "gender", "age", "occupation", "zip_code"]
        users = read_delimited(directory / "users.dat", "::", names=columns, encoding="latin-1")
        age, occupation = as_text(users.frame["age"]), as_text(users.frame["occupation"])
        codes = {str(code): name for code, name in _OCCUPATIONS.items()}
        frame = users.frame.assign(age=age.map(_AGES).fillna(age), occupation=occupation.map(codes).fillna(occupation))
        users = Table(frame, users.source)
    categories = to_categories(items.frame["genres"], "|")
    return _log(events, _items(items, categories), users, items, config, dict(zip(_RATINGS, _RATINGS, strict=True)))


def _read_csv(directory: Path, config: DataConfig) -> RawLog:
    events = read_delimited(_file(directory, "ratings.csv"), ",", quoted=True)
    items = read_delimited(_file(directory, "movies.csv"), ",", quoted=True)
    require_columns(items, {"item_id": "movieId", "title": "title", "categories": "genres"})
    items = Table(items.frame.rename(columns={"movieId": "item_id"}), items.source)
    names = dict(zip(_RATINGS, ["userId", "movieId", "rating", "timestamp"], strict=True))
    return _log(events, _items(items, to_categories(items.frame["genres"], "|")), None, items, config, names)


def _log(
    events: Table,
    items: pd.DataFrame,
    users: Table | None,
    item_table: Table,
    config: DataConfig,
    names: dict,
) -> RawLog:
    optional = {}
    if users is not None:
        optional = {"users": to_users(users, "user_id"), "user_source": users.source}
    return RawLog(
        events=_events(events, config, names),
        items=items,
        event_source=events.source,
        item_source=item_table.source,
        **optional,
    )


def read_movielens(config: DataConfig) -> RawLog:
    """Reads a MovieLens directory; the release shows in the file names.

    Titles are normalised (`The Lion King (1994)`), the year is the one in the title, and event_type is
    `rating`.

    Raises:
        DataError: no such directory or release, a file is missing, or a value cannot be used.
    """
    directory = resolve_path(config.path, "data.path")
    for name, read in (("u.data", _read_100k), ("ratings.dat", _read_1m), ("ratings.csv", _read_csv)):
        if (directory / name).is_file():
            return read(directory, config)
    raise DataError(
        f"`data.path`: {directory} holds none of u.data (100K), ratings.dat (1M, 10M) and ratings.csv "
        f"(latest, 20M, 25M, 32M); expected an unpacked MovieLens: {_LICENSED}."
    )

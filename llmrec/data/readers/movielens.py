"""Format `movielens`: MovieLens 100K (`u.data`), 1M and 10M (`ratings.dat`), and releases with `ratings.csv`."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.readers.columns import (
    clean_categories,
    require_columns,
    stream_events,
    to_categories,
    to_ids,
    to_users,
    to_years,
)
from llmrec.data.readers.delimited import read_delimited, stream_delimited
from llmrec.data.readers.paths import resolve_path
from llmrec.data.readers.raw import RawLog, Table, TableStream, as_text
from llmrec.data.readers.text_files import TextFormat
from llmrec.errors import DataError

RATING_RANGE = (0.5, 5.0)
_RATINGS = ["user_id", "item_id", "rating", "timestamp"]
_OWN_NAMES = {name: name for name in _RATINGS}
_ITEM_100K = ["item_id", "title", "release_date", "video_release_date", "url"]
_FETCH_AGAIN = "Fetch the data set again from https://grouplens.org/datasets/movielens/"

# Codes in `users.dat`, from the README of MovieLens 1M.
_AGES = {
    "1": "under 18",
    "18": "18-24",
    "25": "25-34",
    "35": "35-44",
    "45": "45-49",
    "50": "50-55",
    "56": "56+",
}
_OCCUPATIONS = [
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

# A trailing article, as in `Lion King, The`: at the end of a title, or in brackets, or before a bracket.
_ARTICLE = (
    r"(?P<before>^|\((?:a\.k\.a\. )?)(?P<name>[^()]+), "
    r"(?P<article>The|An|A|Le|La|Les|L'|Il|Lo|El|Los|Las|Der|Die|Das|De|Det|Den|O|Os)(?=\s*(?:[()]|$))"
)


def natural_titles(titles: pd.Series) -> pd.Series:
    """Moves trailing articles to the front: `Lion King, The (1994)` becomes `The Lion King (1994)`."""

    def move(match: re.Match[str]) -> str:
        article = match["article"]
        space = "" if article.endswith("'") else " "
        return f"{match['before']}{article}{space}{match['name']}"

    return titles.str.strip().str.replace(_ARTICLE, move, regex=True)


def titled_years(titles: pd.Series) -> pd.Series:
    """The year in brackets at the end of each title, Int64; NA for a title without one."""
    return to_years(titles.str.extract(r"\((\d{4})\)\s*$", expand=False))


def _file(directory: Path, name: str) -> Path:
    path = directory / name
    if not path.is_file():
        raise DataError(
            f"`data.path`: there is no file {name} in {directory}; expected a complete MovieLens data set. "
            f"{_FETCH_AGAIN}."
        )
    return path


def _read_100k(directory: Path, config: DataConfig) -> RawLog:
    text = TextFormat.of(config)
    events = stream_delimited(_file(directory, "u.data"), "\t", names=_RATINGS, text=text)
    genre_table = read_delimited(_file(directory, "u.genre"), "|", names=["genre", "code"], text=text)
    genres = genre_table.frame["genre"].tolist()
    items = read_delimited(_file(directory, "u.item"), "|", names=_ITEM_100K + genres, text=text, fallback="latin-1")
    flags = items.frame[genres].to_numpy() == "1"
    names = np.array(genres, dtype=object)
    categories = pd.Series([clean_categories(names[row]) for row in flags], index=items.frame.index, dtype=object)
    users = None
    if (directory / "u.user").is_file():
        columns = ["user_id", "age", "gender", "occupation", "zip_code"]
        users = read_delimited(directory / "u.user", "|", names=columns, text=text)
    return _log(config, events, items, categories, users)


def _read_1m(directory: Path, config: DataConfig) -> RawLog:
    text = TextFormat.of(config)
    events = stream_delimited(_file(directory, "ratings.dat"), "::", names=_RATINGS, text=text, fallback="latin-1")
    columns = ["item_id", "title", "genres"]
    items = read_delimited(_file(directory, "movies.dat"), "::", names=columns, text=text, fallback="latin-1")
    users = None
    if (directory / "users.dat").is_file():  # 10M has none
        columns = ["user_id", "gender", "age", "occupation", "zip_code"]
        users = _decoded(read_delimited(directory / "users.dat", "::", names=columns, text=text, fallback="latin-1"))
    return _log(config, events, items, to_categories(items.frame["genres"], "|"), users)


def _decoded(users: Table) -> Table:
    """Users with the codes of ages and occupations replaced by their meaning."""
    age = as_text(users.frame["age"])
    occupation = as_text(users.frame["occupation"])
    names = {str(code): name for code, name in enumerate(_OCCUPATIONS)}
    frame = users.frame.assign(age=age.map(_AGES).fillna(age), occupation=occupation.map(names).fillna(occupation))
    return Table(frame, users.source)


def _read_csv(directory: Path, config: DataConfig) -> RawLog:
    text = TextFormat.of(config)
    events = stream_delimited(_file(directory, "ratings.csv"), ",", text=text, quoted=True)
    columns = {"user_id": "userId", "item_id": "movieId", "rating": "rating", "timestamp": "timestamp"}
    require_columns(events, columns)
    items = read_delimited(_file(directory, "movies.csv"), ",", text=text, quoted=True)
    require_columns(items, {"item_id": "movieId", "title": "title", "categories": "genres"})
    items = Table(items.frame.rename(columns={"movieId": "item_id"}), items.source)
    return _log(config, events, items, to_categories(items.frame["genres"], "|"), columns=columns)


def _log(
    config: DataConfig,
    events: TableStream,
    items: Table,
    categories: pd.Series,
    users: Table | None = None,
    columns: dict[str, str] = _OWN_NAMES,
) -> RawLog:
    """The log of one release.

    Args:
        config: its `rating_range` is used.
        events: the ratings.
        items: the movies, with the columns `item_id` and `title`.
        categories: lists of genres, one per movie.
        users: the users, with a column `user_id`.
        columns: names of the columns in `events`, by llmrec's name.
    """
    titles = natural_titles(items.frame["title"])
    catalogue = {
        "item_id": to_ids(items, "item_id"),
        "title": titles,
        "categories": categories,
        "year": titled_years(titles),
    }
    log = RawLog(
        events=stream_events(events, columns, config.rating_range or RATING_RANGE),
        items=pd.DataFrame(catalogue, index=items.frame.index),
        event_source=events.source,
        item_source=items.source,
    )
    if users is not None:
        log = replace(log, users=to_users(users, "user_id"), user_source=users.source)
    return log


def read_movielens(config: DataConfig) -> RawLog:
    """Reads a MovieLens directory. The names of its files show which release it is.

    Articles move to the front of titles (`The Lion King (1994)`). The year is the one in the title, and the event type
    is `rating`.

    Raises:
        DataError: no such directory or release, a file is missing, or a value cannot be used.
    """
    directory = resolve_path(config.path, "data.path")
    for name, read in (("u.data", _read_100k), ("ratings.dat", _read_1m), ("ratings.csv", _read_csv)):
        if (directory / name).is_file():
            return read(directory, config)
    raise DataError(
        f"`data.path`: {directory} holds none of u.data (100K), ratings.dat (1M, 10M) and ratings.csv "
        f"(latest, 20M, 25M, 32M); expected an unpacked MovieLens data set. {_FETCH_AGAIN}."
    )

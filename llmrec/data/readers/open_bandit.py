"""Format `open_bandit`: one log of the Open Bandit Dataset (Saito et al., NeurIPS 2021 Datasets and Benchmarks).

Each row is an item that a fashion shop showed at one of three positions, with the probability of showing it and
whether it was clicked. The log has no user ids, so users with equal hashed features count as one user. It has no
purchases. Rules can use the columns `click`, `position` and `propensity`.
"""

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.readers.columns import no_years, require_columns, stream_events, to_ids
from llmrec.data.readers.delimited import read_delimited, stream_delimited
from llmrec.data.readers.paths import find_one, resolve_path
from llmrec.data.readers.raw import RawLog, Source, TableStream, as_text
from llmrec.data.readers.text_files import TextFormat

_USER_FEATURES = [f"user_feature_{n}" for n in range(4)]
_ITEM_FEATURES = [f"item_feature_{n}" for n in range(1, 4)]
_COLUMNS = {
    "user_id": "user_id",
    "item_id": "item_id",
    "timestamp": "timestamp",
    "position": "position",
    "propensity": "propensity_score",
}


def read_open_bandit(config: DataConfig) -> RawLog:
    """Reads a directory such as `open-bandit/bts/men`, which holds `men.csv` and `item_context.csv`.

    Raises:
        DataError: a file or column is missing, or a value cannot be used.
    """
    directory = resolve_path(config.path, "data.path")
    text = TextFormat.of(config)
    context = read_delimited(directory / "item_context.csv", ",", text=text, quoted=True)
    log_path = find_one(directory, "*men.csv", "data.path", "log, men.csv or women.csv")
    log = stream_delimited(log_path, ",", text=text, quoted=True)
    require_columns(log, {name: name for name in (*_USER_FEATURES, "item_id", "timestamp", "position", "click")})
    require_columns(log, {"propensity": "propensity_score"})
    require_columns(context, {name: name for name in ("item_id", *_ITEM_FEATURES)})
    categories = [[f"{name[-1]}:{row[name][:8]}" for name in _ITEM_FEATURES] for _, row in context.frame.iterrows()]
    items = pd.DataFrame(
        {
            "item_id": to_ids(context, "item_id"),
            "title": "item " + to_ids(context, "item_id"),
            "categories": pd.Series(categories, index=context.frame.index, dtype=object),
            "year": no_years(context.frame.index),
        }
    )
    return RawLog(
        events=_events(log),
        items=items,
        users=pd.concat([_users(part.frame) for part in log.scan()]).drop_duplicates("user_id"),
        event_source=log.source,
        item_source=context.source,
    )


def _users(frame: pd.DataFrame) -> pd.DataFrame:
    """The users of a part: `user_id`, and the hashed features that it is made of, cut to 8 characters."""
    features = pd.DataFrame({name: as_text(frame[name]).fillna("").str[:8] for name in _USER_FEATURES})
    distinct = features.drop_duplicates()
    return distinct.assign(user_id=distinct.agg("-".join, axis=1))[["user_id", *_USER_FEATURES]]


def _user_ids(frame: pd.DataFrame) -> pd.Series:
    first, *others = (as_text(frame[name]).fillna("").str[:8] for name in _USER_FEATURES)
    return first.str.cat(pd.concat(others, axis=1), sep="-")


def _events(log: TableStream) -> Iterator[pd.DataFrame]:
    """The impressions, in parts."""
    kept = ["item_id", "timestamp", "position", "click", "propensity_score"]

    def read(source: Source) -> Iterator[pd.DataFrame]:
        for frame in log.read(source):
            clicked = pd.to_numeric(frame["click"], errors="coerce")
            yield frame[kept].assign(user_id=_user_ids(frame), click=clicked)

    for events in stream_events(replace(log, read=read), _COLUMNS, None):
        yield events.assign(event_type="impression")

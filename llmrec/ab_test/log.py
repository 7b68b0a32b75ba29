"""Reads the exposure log of an A/B test: typed rows in the order of users and time."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from llmrec.config import ABTestConfig, ABTestDataConfig
from llmrec.data.feedback import compared_column
from llmrec.data.readers.columns import NumberRange, require_columns, to_ids, to_numbers
from llmrec.data.readers.csv_and_json import read_any_table, stream_any_table
from llmrec.data.readers.decimals import read_decimals
from llmrec.data.readers.paths import resolve_path
from llmrec.data.readers.raw import Source, Table, as_text
from llmrec.data.readers.text_files import TextFormat
from llmrec.data.readers.times import to_seconds
from llmrec.errors import DataError, nearest

NO_ARM = -1  # index of the arm in rows that no arm served
SESSION_GAP = 1800  # seconds without an event that end a session, in a log without session ids
_OWN = ("user_id", "timestamp", "arm", "event_type", "session_id", "propensity")


@dataclass(frozen=True)
class Events:
    """The rows of a log, sorted by user and time.

    Attributes:
        ids: user ids, [U].
        user: index into `ids`, int64 [E].
        time: seconds since 1970, int64 [E].
        arm: index of the arm, `NO_ARM` where the row has none, int64 [E].
        session_starts: whether a session begins with the row, bool [E].
        propensity: logged probability of the arm, NaN where it is unknown, float64 [E].
        columns: event type and all other columns, which rules of metrics may name, E rows.
        source: the file, with the rows that were left out.
    """

    ids: np.ndarray
    user: np.ndarray
    time: np.ndarray
    arm: np.ndarray
    session_starts: np.ndarray
    propensity: np.ndarray
    columns: pd.DataFrame
    source: Source


def read_events(config: ABTestConfig) -> Events:
    """Reads the log that the `data` section of a test names.

    Raises:
        DataError: the file or a column is missing, the log is empty, or a value cannot be used.
    """
    stream = stream_any_table(resolve_path(config.data.path, "data.path"), text_format(config.data))
    return typed_events(read_decimals(stream, _number_columns(config), config.data.decimal).whole(), config)


def _number_columns(config: ABTestConfig) -> list[str]:
    """The columns of a log whose values are numbers: times, propensities, and what metrics average or compare."""
    names = config.data.columns
    own = [names.propensity, names.timestamp if config.data.timestamp_format is None else None]
    averaged = [metric.column for metric in config.metrics]
    compared = [compared_column(rule) for metric in config.metrics for rule in (metric.event, metric.per) if rule]
    return [name for name in (*own, *averaged, *compared) if name]


def typed_events(table: Table, config: ABTestConfig) -> Events:
    """Typed rows of a table.

    Raises:
        DataError: as `read_events`.
    """
    data = config.data
    _check_columns(table, data)
    names = data.columns
    frame = pd.DataFrame(
        {
            "user_id": to_ids(table, names.user_id),
            "timestamp": to_seconds(table, names.timestamp, data.timestamp_format),
            "arm": _to_arms(table, names.arm, list(config.arms)),
            "event_type": "event" if names.event_type is None else to_ids(table, names.event_type),
            "session_id": None if names.session_id is None else as_text(table.frame[names.session_id]),
            "propensity": np.nan if names.propensity is None else _to_propensities(table, names.propensity),
        },
        index=table.frame.index,
    )
    taken = {getattr(names, own) for own in _OWN}
    others = [name for name in table.frame.columns if name not in taken and name not in _OWN]
    frame = table.source.kept(pd.concat([frame, table.frame[others]], axis=1))
    if frame.empty:
        reasons = ", ".join(f"{loss.count} for {reason}" for reason, loss in table.source.losses.items())
        found = f"all rows were left out ({reasons})" if reasons else "there are no rows"
        raise DataError(f"{table.source.path}: {found}; expected at least one exposure. Check `data.path`.")
    return _sorted_events(frame, table.source, with_sessions=names.session_id is not None)


def _check_columns(table: Table, data: ABTestDataConfig) -> None:
    named = {own: name for own, name in data.columns.model_dump().items() if name is not None}
    timestamp = named.pop("timestamp")
    require_columns(table, named, "data.columns")
    require_columns(table, {"timestamp": timestamp})


def _to_arms(table: Table, column: str, arms: list[str]) -> pd.Series:
    """Index of each row's arm; `NO_ARM` where the column is empty.

    Raises:
        DataError: an arm is none of the test, and bad rows are errors.
    """
    text = as_text(table.frame[column])
    empty = text.isna() | text.isin(["", "nan", "NaN", "None"])
    indices = pd.Series(pd.Index(arms).get_indexer(pd.Index(text.fillna(""))), index=text.index)
    unknown = ~empty & (indices < 0)
    if unknown.any():
        near = nearest(str(text[unknown].iloc[0]), arms)
        fix = f"Did you mean `{near}`?" if near else "Correct the row or `arms`."
        table.source.refuse(table.frame[column], unknown, f"one of the arms {', '.join(arms)}", fix, "unknown arm")
    return indices.where(~empty, NO_ARM).astype("int64")


_PROPENSITIES = NumberRange(
    0, 1, "a probability above 0 and at most 1", "Correct it, or leave it empty.", without_low=True
)


def _to_propensities(table: Table, column: str) -> pd.Series:
    return to_numbers(table, column, _PROPENSITIES)


def _sorted_events(frame: pd.DataFrame, source: Source, with_sessions: bool) -> Events:
    user, ids = pd.factorize(frame["user_id"])
    order = np.lexsort((frame["timestamp"].to_numpy(), user))
    frame = frame.iloc[order]
    user = user[order].astype(np.int64)
    time = frame["timestamp"].to_numpy(dtype=np.int64)
    if with_sessions:
        keys = pd.DataFrame({"user": user, "session": frame["session_id"].to_numpy()})
        starts = ~keys.duplicated().to_numpy()
    else:
        starts = np.diff(user, prepend=-1) != 0
        starts[1:] |= np.diff(time) > SESSION_GAP
    return Events(
        ids=np.asarray(ids),
        user=user,
        time=time,
        arm=frame["arm"].to_numpy(dtype=np.int64),
        session_starts=starts,
        propensity=frame["propensity"].to_numpy(dtype=np.float64),
        columns=frame.drop(columns=["user_id", "timestamp", "arm", "session_id", "propensity"]),
        source=source,
    )


def read_user_ids(path: Path, config: ABTestConfig) -> list[str]:
    """The user ids of a table, each once, in the order of the file.

    Raises:
        DataError: the file or the column is missing, there are no users, or an id cannot be used.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}; expected a table with a column of user ids.")
    table = read_any_table(path, text_format(config.data))
    require_columns(table, {"user_id": config.data.columns.user_id}, "data.columns")
    ids = to_ids(table, config.data.columns.user_id)
    found = ids[~ids.index.isin(table.source.dropped)].unique().tolist()
    if not found:
        raise DataError(f"{path}: there are no users; expected at least one. Check the file.")
    return found


def text_format(data: ABTestDataConfig) -> TextFormat:
    """How the text files of a test are read."""
    return TextFormat(data.encoding, data.separator, data.bad_rows == "skip")

"""Small logs shared by the tests of llmrec.data."""

from dataclasses import replace

import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.dataset import Targets
from llmrec.data.readers import RawLog, check_log, read_log

# Titles of the items a to e.
MOVIES = ["Alien (1979)", "Brazil (1985)", "Contact (1997)", "Dark City (1998)", "Europa (1991)"]

# Rows of user, item, timestamp and rating.
ROWS = [
    ("u10", "a", 10, 5.0),
    ("u10", "b", 20, 2.0),
    ("u10", "a", 30, 1.0),  # repeats the first click, which counts
    ("u10", "c", 40, 4.0),
    ("u2", "d", 35, 3.0),
    ("u2", "a", 15, 4.0),
    ("u2", "b", 25, 5.0),
]


def config(**values) -> DataConfig:
    """A `data` section for a log in memory, or for files if `path` is given."""
    return DataConfig(**{"format": "table", "path": "unused", "splits": ["leave_one_out"], **values})


def raw_log(rows: list[tuple], columns: str = "user_id item_id timestamp rating", items: int = 5) -> RawLog:
    """A log of `rows` with items a, b, c and so on; the event type is `rating` unless it is a column."""
    events = pd.DataFrame(rows, columns=columns.split(), index=range(1, len(rows) + 1))
    if "event_type" not in events:
        events["event_type"] = "rating"
    catalogue = pd.DataFrame(
        {
            "item_id": list("abcde")[:items],
            "title": MOVIES[:items],
            "categories": [["Film"] for _ in range(items)],
            "year": pd.array([1979, 1985, 1997, 1998, 1991][:items], dtype="Int64"),
        },
        index=range(1, items + 1),
    )
    return RawLog(events=[events.astype({"user_id": "str", "item_id": "str"})], items=catalogue)


def events_of(log: RawLog) -> pd.DataFrame:
    """All events of a log, which can be read once."""
    return pd.concat(list(log.events))


def in_memory(log: RawLog) -> RawLog:
    """The same log with all its events in one part, which can be read again."""
    return replace(log, events=[events_of(log)])


def read_all(section: DataConfig) -> RawLog:
    """A checked log whose events have been read."""
    return in_memory(check_log(read_log(section)))


def target_pairs(targets: Targets) -> list[tuple[int, int]]:
    """(user, position) of each target."""
    return list(zip(targets.users.tolist(), targets.positions.tolist(), strict=True))

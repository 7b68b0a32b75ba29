"""Small logs that the tests of the data stage share."""

import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.dataset import Targets
from llmrec.data.readers import RawLog

MOVIES = ["Alien (1979)", "Brazil (1985)", "Contact (1997)", "Dark City (1998)", "Europa (1991)"]

ROWS = [
    ("u10", "a", 10, 5.0),
    ("u10", "b", 20, 2.0),
    ("u10", "a", 30, 1.0),  # a second time: the first counts
    ("u10", "c", 40, 4.0),
    ("u2", "d", 35, 3.0),
    ("u2", "a", 15, 4.0),
    ("u2", "b", 25, 5.0),
]


def config(**values) -> DataConfig:
    """A `data` section for a log made in memory, or for files if `path` is given."""
    return DataConfig(**{"format": "table", "path": "unused", "splits": ["leave_one_out"], **values})


def raw_log(rows: list[tuple], columns: str = "user_id item_id timestamp rating", items: int = 5) -> RawLog:
    """A log of `rows`; items are called a, b, c, ..., and event_type is `rating` unless it is a column."""
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
    return RawLog(events=events.astype({"user_id": "str", "item_id": "str"}), items=catalogue)


def target_pairs(targets: Targets) -> list[tuple[int, int]]:
    """(user, position) of each target."""
    return list(zip(targets.users.tolist(), targets.positions.tolist(), strict=True))

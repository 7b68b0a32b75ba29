"""Small logs that the tests of the data stage share."""

import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.readers import RawLog

MOVIES = ["Alien (1979)", "Brazil (1985)", "Contact (1997)", "Dark City (1998)", "Europa (1991)"]


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

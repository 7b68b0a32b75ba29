"""Items of a log without an item table: the ids of its events, without titles."""

from collections.abc import Iterable

import pandas as pd

from llmrec.data.histories import natural_key
from llmrec.data.readers.columns import no_years
from llmrec.data.readers.raw import Source, no_events

NO_ITEM_TABLE = "(there is no item table)"  # at the end of the path of the missing table


def items_of_events(events: Iterable[pd.DataFrame], source: Source) -> tuple[pd.DataFrame, Source]:
    """The items that the usable events of a log name, and a source that stands for the missing table.

    Args:
        events: typed events in parts. They are read to the end, so the log needs another pass afterwards.
        source: their source; not the one that counts the losses of the log.

    Raises:
        DataError: no event can be used; or, unless bad rows are skipped, one cannot.
    """
    ids: set[str] = set()
    for part in events:
        ids.update(source.kept(part)["item_id"].unique())
        source.dropped.clear()
    if not ids:
        raise no_events(source)
    item_ids = pd.Series(sorted(ids, key=natural_key), dtype="str")
    item_ids.index += 1
    items = pd.DataFrame(
        {
            "item_id": item_ids,
            "title": "",
            "categories": pd.Series([[] for _ in item_ids], index=item_ids.index, dtype=object),
            "year": no_years(item_ids.index),
        },
        index=item_ids.index,
    )
    return items, Source(f"{source.path} {NO_ITEM_TABLE}", "item")

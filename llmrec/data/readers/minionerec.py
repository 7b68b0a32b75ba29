"""Format `minionerec`: prediction rows of MiniOneRec, each a history and the next item, in one file per split part.

The rows of a user overlap: the history of a row ends with the targets of the rows before it. The reader joins them to
one sequence per user. The file of a row gives its split. The format has no times. The timestamp is the position of the
event in the user's sequence.
"""

import ast
import json
from pathlib import Path

import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.readers.columns import (
    clean_categories,
    no_years,
    require_columns,
    to_categories,
    to_ids,
)
from llmrec.data.readers.delimited import read_delimited
from llmrec.data.readers.paths import resolve_path
from llmrec.data.readers.raw import RawLog, Source, Table, as_text
from llmrec.data.readers.text_files import read_text
from llmrec.data.splits import PARTS
from llmrec.errors import DataError


def read_minionerec(config: DataConfig) -> RawLog:
    """Reads a directory with `items.json`, `valid.csv`, `test.csv` and optionally `train.csv`.

    Every event is a `purchase`. The catalogue holds the items that occur in a row. The category of an item without
    categories is its brand.

    Raises:
        DataError: a file, column or item is missing, or the rows of a user do not continue each other.
    """
    directory = resolve_path(config.path, "data.path")
    paths = {part: directory / f"{part}.csv" for part in PARTS}
    tables = {part: _rows(path) for part, path in paths.items() if part != "train" or path.is_file()}
    events = _events(tables)
    items, item_source = _items(directory / "items.json", events)
    return RawLog([events], items, event_source=tables["valid"].source, item_source=item_source, timed=False)


def _rows(path: Path) -> Table:
    """One file: `user_id, item_id, history (list of item ids)`."""
    table = read_delimited(path, ",", quoted=True)
    require_columns(table, {name: name for name in ("user_id", "history_item_id", "item_id")})
    histories = table.frame["history_item_id"]
    lists = pd.Series([_list(text) for text in histories], index=histories.index, dtype=object)
    if lists.isna().any():
        raise table.source.error(histories, lists.isna(), "a list of item ids such as [3, 17]", "Correct the row.")
    ids = {"user_id": to_ids(table, "user_id"), "item_id": to_ids(table, "item_id")}
    return Table(pd.DataFrame({**ids, "history": lists}), table.source)


def _list(text: object) -> list[str] | None:
    try:
        values = ast.literal_eval(str(text))
    except (ValueError, SyntaxError):
        return None
    return [str(value) for value in values] if isinstance(values, list) else None


def _events(tables: dict[str, Table]) -> pd.DataFrame:
    """Joins the rows of every user to events of `user_id, item_id, event_type, timestamp, split`."""
    sequences: dict[str, list[tuple[str, str]]] = {}
    for part, table in tables.items():
        for line, user, item, history in table.frame.itertuples():
            sequence = sequences.setdefault(user, [(before, "train") for before in history])
            if history != [before for before, _ in sequence][len(sequence) - len(history) :]:
                raise DataError(
                    f"{table.source.at(line)}: the history of user {user!r} does not end with the targets of the "
                    "user's earlier rows; expected rows in time order, train.csv before valid.csv before test.csv. "
                    "Sort the rows."
                )
            sequence.append((item, part))
    rows = [
        (user, item, "purchase", order, part)
        for user, sequence in sequences.items()
        for order, (item, part) in enumerate(sequence)
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "event_type", "timestamp", "split"])
    return frame.astype({name: "str" for name in ("user_id", "item_id", "event_type", "split")})


def _items(path: Path, events: pd.DataFrame) -> tuple[pd.DataFrame, Source]:
    """The items that occur in a row, shorter ids first and then in alphabetical order."""
    try:
        known = json.loads(read_text(path))
    except ValueError as error:
        raise DataError(
            f"{path} is not readable as JSON ({error}); expected an object of item ids and their titles. Correct it."
        ) from None
    ids = sorted(events["item_id"].unique(), key=lambda item: (len(item), item))
    missing = [item for item in ids if not isinstance(known.get(item), dict)]
    if missing:
        raise DataError(
            f"{path}: there is no item {missing[0]!r} ({len(missing)} missing in all); expected every item of the "
            "rows. Add it."
        )
    index = pd.RangeIndex(1, len(ids) + 1)
    about = pd.DataFrame([known[item] for item in ids], index=index)
    about = about.reindex(columns=["title", "brand", "categories"]).astype(object)
    brands = as_text(about["brand"].fillna(""))
    named = to_categories(about["categories"], ",")
    categories = [names or clean_categories([brand]) for names, brand in zip(named, brands, strict=True)]
    frame = pd.DataFrame(
        {
            "item_id": pd.Series(ids, index=index, dtype="str"),
            "title": as_text(about["title"].fillna("")),
            "categories": pd.Series(categories, index=index, dtype=object),
            "year": no_years(index),
            "brand": brands,
        }
    )
    return frame, Source(path, "item")

"""Format `sequences`: a line for each user with the items in time order, and a line of words for each item.

TIGER, S3-Rec, P5 and later papers share Amazon data in this form. It has no times. The timestamp is the position of
the event in the user's sequence.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.readers.columns import no_years
from llmrec.data.readers.csv_and_json import read_text
from llmrec.data.readers.paths import resolve_path
from llmrec.data.readers.raw import RawLog, Source
from llmrec.errors import ConfigError, DataError

SEQUENCES = "user_sequence.txt"
ITEMS = "item_words.txt"


def read_sequences(config: DataConfig) -> RawLog:
    """Reads a directory with `user_sequence.txt` and `item_words.txt`, or a file of sequences.

    A line of the first file is a user id and item ids in time order, separated by spaces or tabs. A line of the second
    file is an item id and the words that become its title. `data.items` names another item file. Every event is an
    `interaction`. Items have no categories, because words are no statements that a justification could make.

    Raises:
        ConfigError: `data.splits` names another split than `leave_one_out`.
        DataError: a file is missing, a line lacks an item or a title, a user or an item has two lines, or a sequence
            has an item that the item file lacks.
    """
    if config.splits != ["leave_one_out"]:
        raise ConfigError(
            f"`data.splits` is {list(config.splits)}, but sequences have no times and no split of their own; expected "
            "[leave_one_out]. Change `data.splits`."
        )
    path = resolve_path(config.path, "data.path")
    sequences = path / SEQUENCES if path.is_dir() else path
    words = sequences.with_name(ITEMS) if config.items is None else resolve_path(config.items, "data.items")
    items = _items(words)
    return RawLog(
        events=_events(sequences, words, items),
        items=items,
        event_source=Source(sequences, "event"),
        item_source=Source(words, "line"),
        timed=False,
    )


def _items(path: Path) -> pd.DataFrame:
    """The item table, indexed by line."""
    ids, titles, lines = _lines(path, "the title of the item")
    index = pd.Index(lines)
    return pd.DataFrame(
        {
            "item_id": pd.Series(ids, index=index, dtype="str"),
            "title": pd.Series(titles, index=index, dtype="str"),
            "categories": pd.Series([[] for _ in ids], index=index, dtype=object),
            "year": no_years(index),
        }
    )


def _events(path: Path, item_path: Path, items: pd.DataFrame) -> pd.DataFrame:
    """Events of `user_id, item_id, event_type, timestamp`."""
    users, sequences, lines = _lines(path, "at least one item")
    source = Source(path, "line")
    user_ids = pd.Series(users, index=lines, name="user_id", dtype="str")
    repeated = user_ids.duplicated()
    if repeated.any():
        fix = "Join the lines of a user. A file with one event a line is read by `data.format: table`."
        raise source.error(user_ids, repeated, "one line for each user", fix)
    item_lists = [sequence.split() for sequence in sequences]
    lengths = [len(one) for one in item_lists]
    item_ids = pd.Series(
        [item for one in item_lists for item in one], index=np.repeat(lines, lengths), name="item", dtype="str"
    )
    unknown = np.flatnonzero(~item_ids.isin(items["item_id"]))
    if len(unknown):
        raise DataError(
            f"{source.at(item_ids.index[unknown[0]])}: there is no item {item_ids.iloc[unknown[0]]!r} in {item_path} "
            f"({item_ids.iloc[unknown].nunique()} such items); expected a line for every item. Add it."
        )
    return pd.DataFrame(
        {
            "user_id": np.repeat(user_ids.to_numpy(), lengths),
            "item_id": item_ids.to_numpy(),
            "event_type": "interaction",
            "timestamp": np.concatenate([np.zeros(0, np.int64), *map(np.arange, lengths)]),
        },
        index=pd.RangeIndex(1, len(item_ids) + 1),
    ).astype({name: "str" for name in ("user_id", "item_id", "event_type")})


def _lines(path: Path, rest: str) -> tuple[list[str], list[str], list[int]]:
    """The first word, the rest and the number of each line that is not blank.

    Args:
        path: the file.
        rest: what follows the first word, for error messages.
    """
    if not path.is_file():
        raise DataError(
            f"`data.path`: there is no {path}; expected a directory with {SEQUENCES} and {ITEMS}, or a file of "
            "sequences. Set `data.path`, or `data.items` for an item file of another name."
        )
    first: list[str] = []
    others: list[str] = []
    numbers: list[int] = []
    for number, line in enumerate(read_text(path, "utf-8-sig").splitlines(), start=1):
        words = line.strip().split(maxsplit=1)
        if not words:
            continue
        if len(words) == 1:
            raise DataError(
                f"{path}, line {number}: {words[0]!r} stands alone; expected {rest} after it. Complete or delete the "
                "line."
            )
        first.append(words[0])
        others.append(words[1])
        numbers.append(number)
    return first, others, numbers

"""Format `sequences`: a line for each user with the items in time order, and a line of words for each item.

TIGER, S3-Rec, P5 and later papers share Amazon data in this form. It has no times. The timestamp is the position of
the event in the user's sequence.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.readers.columns import no_years
from llmrec.data.readers.paths import resolve_path
from llmrec.data.readers.raw import RawLog, Source
from llmrec.data.readers.text_files import TextFormat, read_text
from llmrec.errors import ConfigError, DataError

SEQUENCES = "user_sequence.txt"
ITEMS = "item_words.txt"


def read_sequences(config: DataConfig) -> RawLog:
    """Reads a directory with `user_sequence.txt` and `item_words.txt`, or a file of sequences.

    A line of the first file is a user id and item ids in time order, separated by spaces or tabs. A line of the second
    file is an item id and the words that become its title; without words the id stands in. `data.items` names another
    item file. Every event is an `interaction`. Items have no categories, because words are no statements that a
    justification could make.

    Raises:
        ConfigError: `data.splits` names another split than `leave_one_out`.
        DataError: a file is missing, a user has no item or two lines, or a sequence has an item that the item file
            lacks.
    """
    if config.splits != ["leave_one_out"]:
        raise ConfigError(
            f"`data.splits` is {list(config.splits)}, but sequences have no times and no split of their own; expected "
            "[leave_one_out]. Change `data.splits`."
        )
    path = resolve_path(config.path, "data.path")
    sequences = path / SEQUENCES if path.is_dir() else path
    words = sequences.with_name(ITEMS) if config.items is None else resolve_path(config.items, "data.items")
    text = TextFormat.of(config)
    items = _items(_lines(words, text))
    events = _events(sequences, _lines(sequences, text), None if text.skip else items)
    return RawLog(
        events=[events],
        items=items,
        event_source=Source(sequences, "event", text.skip),
        item_source=Source(words, "line", text.skip),
        timed=False,
    )


def _items(lines: dict[int, list[str]]) -> pd.DataFrame:
    """The item table, indexed by line."""
    index = pd.Index(lines)
    ids = [words[0] for words in lines.values()]
    titles = [" ".join(words[1:]) for words in lines.values()]
    return pd.DataFrame(
        {
            "item_id": pd.Series(ids, index=index, dtype="str"),
            "title": pd.Series(titles, index=index, dtype="str"),
            "categories": pd.Series([[] for _ in ids], index=index, dtype=object),
            "year": no_years(index),
        }
    )


def _events(path: Path, lines: dict[int, list[str]], items: pd.DataFrame | None) -> pd.DataFrame:
    """Events of `user_id, item_id, event_type, timestamp`, numbered from 1.

    Args:
        path: the file of sequences.
        lines: its lines.
        items: the item table that must hold every item of a sequence; None if unknown items are skipped later.
    """
    source = Source(path, "line")
    user_ids = pd.Series([words[0] for words in lines.values()], index=pd.Index(lines), name="user_id", dtype="str")
    alone = pd.Series([len(words) == 1 for words in lines.values()], index=user_ids.index, dtype=bool)
    if alone.any():
        raise source.error(user_ids, alone, "at least one item after the user id", "Complete or delete the line.")
    repeated = user_ids.duplicated()
    if repeated.any():
        fix = "Join the lines of a user. A file with one event a line is read by `data.format: table`."
        raise source.error(user_ids, repeated, "one line for each user", fix)
    item_lists = [words[1].split() for words in lines.values()]
    lengths = [len(one) for one in item_lists]
    item_ids = pd.Series(
        [item for one in item_lists for item in one], index=np.repeat(user_ids.index, lengths), name="item", dtype="str"
    )
    if items is not None:
        unknown = ~item_ids.isin(items["item_id"]).to_numpy()
        if unknown.any():
            raise DataError(
                f"{source.at(item_ids.index[unknown][0])}: there is no item {item_ids[unknown].iloc[0]!r} in the item "
                f"file ({item_ids[unknown].nunique()} such items); expected a line for every item. Add it, or set "
                "`data.bad_rows: skip`."
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


def _lines(path: Path, text: TextFormat) -> dict[int, list[str]]:
    """The first word, and the rest if there is one, of each line that is not blank, by line number."""
    if not path.is_file():
        raise DataError(
            f"`data.path`: there is no {path}; expected a directory with {SEQUENCES} and {ITEMS}, or a file of "
            "sequences. Set `data.path`, or `data.items` for an item file of another name."
        )
    lines = enumerate(read_text(path, text).splitlines(), start=1)
    return {number: line.strip().split(maxsplit=1) for number, line in lines if line.strip()}

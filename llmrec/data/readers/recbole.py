"""Format `recbole`: RecBole atomic files NAME.inter, optionally NAME.item, NAME.user, NAME.kg and NAME.link."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.readers.columns import (
    event_columns,
    require_columns,
    stream_events,
    to_attribute,
    to_categories,
    to_ids,
    to_users,
    to_years,
)
from llmrec.data.readers.decimals import plain_numbers, read_decimals
from llmrec.data.readers.delimited import stream_delimited
from llmrec.data.readers.movielens import natural_titles, titled_years
from llmrec.data.readers.paths import find_one, resolve_path
from llmrec.data.readers.raw import RawLog, Source, Table, TableStream, as_text
from llmrec.data.readers.text_files import TextFormat
from llmrec.data.readers.untitled import items_of_events
from llmrec.data.splits import PARTS
from llmrec.errors import DataError

RATING_RANGE = (0.5, 5.0)
_TYPES = ("token", "float", "token_seq", "float_seq")
# Names of the same column in different data sets of the collection. The first one found is used.
_TITLES = ("title", "movie_title", "name", "item_name", "product_title", "book_title")
_CATEGORIES = ("categories", "category", "class", "genre", "genres")
_YEARS = ("year", "release_year")
# These repeat the categories of an item, or are the same for nearly every film.
_UNUSED_RELATIONS = ("genre", "language", "country")


def _open_atomic(path: Path, config: DataConfig) -> tuple[TableStream, list[str]]:
    """One atomic file without the types in its header, and the names of its columns of numbers."""
    stream = stream_delimited(path, "\t ,;", text=TextFormat.of(config))
    names = []
    numbers = []
    for column in stream.columns:
        name, _, kind = column.rpartition(":")
        if not name or kind not in _TYPES:
            raise DataError(
                f"{path}, line 1: the header has {column!r}; expected NAME:TYPE, separated by tabs, where the type is "
                f"one of {', '.join(_TYPES)}, such as `user_id:token`. Correct the header, or set `data.separator`."
            )
        names.append(name)
        if kind == "float":
            numbers.append(name)

    def read(source: Source) -> Iterator[pd.DataFrame]:
        return (frame.set_axis(names, axis=1) for frame in stream.read(source))

    return TableStream(names, stream.source, read), numbers


def _open_log(path: Path, config: DataConfig) -> TableStream:
    """A file of events, its numbers with a decimal point."""
    return read_decimals(*_open_atomic(path, config), config.decimal)


def _read_atomic(path: Path, config: DataConfig) -> Table:
    """Any other file, its numbers with a decimal point."""
    stream, numbers = _open_atomic(path, config)
    return plain_numbers(stream.whole(), set(stream.columns) - set(numbers), config.decimal)


def _first_of(table: Table, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in table.frame.columns), None)


def _items(table: Table) -> pd.DataFrame:
    require_columns(table, {"item_id": "item_id"})
    title = _first_of(table, _TITLES) or "title"
    require_columns(table, {"title": title})
    titles = natural_titles(as_text(table.frame[title]))
    category = _first_of(table, _CATEGORIES)
    year = _first_of(table, _YEARS)
    index = table.frame.index
    empty = pd.Series([[] for _ in index], index=index, dtype=object)
    years = to_years(table.frame[year]) if year else titled_years(titles)
    undated = years.notna() & titled_years(titles).isna()
    titles = titles.mask(undated, titles + " (" + years.astype("str") + ")")
    columns = {
        "item_id": to_ids(table, "item_id"),
        "title": titles,
        "categories": to_categories(table.frame[category], None) if category else empty,
        "year": years,
    }
    rest = [c for c in table.frame.columns if c not in {"item_id", title, category, year, *columns}]
    return pd.DataFrame({**columns, **{c: to_attribute(table.frame[c]) for c in rest}}, index=index)


def _facts(kg: Table, link: Table) -> pd.DataFrame:
    """Triples about linked items; the head becomes the item id, the relation the last part of its name.

    In Freebase, `film.film.actor` links a film to its actor, and `film.actor.film` links the actor to the film. A
    relation is dropped if most of its heads are no items, as in `film.actor.film`.
    """
    require_columns(kg, {"head": "head_id", "relation": "relation_id", "tail": "tail_id"})
    require_columns(link, {"item_id": "item_id", "entity_id": "entity_id"})
    entities = pd.DataFrame({"head": to_ids(link, "item_id"), "entity": to_ids(link, "entity_id")})
    triples = kg.frame[["head_id", "relation_id", "tail_id"]]
    path = triples["relation_id"].str.rpartition(".")
    linked = triples["head_id"].isin(entities["entity"])
    of_items = (linked.groupby(path[0]).transform("mean") >= 0.5) | (path[0] == "")
    triples = triples.assign(relation=path[2], line=triples.index)[linked & of_items]
    triples = triples[~triples["relation"].isin(_UNUSED_RELATIONS)]
    facts = triples.merge(entities, left_on="head_id", right_on="entity").set_index("line").sort_index(kind="stable")
    facts = facts[["head", "relation"]].assign(tail=facts["tail_id"], named=False)
    return facts.drop_duplicates().rename_axis(None)


def _open_events(directory: Path, config: DataConfig) -> tuple[str, list[TableStream], Source]:
    """The name of the data set, its files of events and their source.

    The files are NAME.inter, or RecBole's benchmark files NAME.train.inter, NAME.valid.inter and NAME.test.inter.
    """
    names = [path.name.removesuffix(".train.inter") for path in directory.glob("*.train.inter")]
    paths = [directory / f"{names[0]}.{part}.inter" for part in PARTS] if len(names) == 1 else []
    if not paths or sorted(directory.glob("*.inter")) != sorted(paths):
        path = find_one(directory, "*.inter", "data.path", "interaction file")
        stream = _open_log(path, config)
        return path.stem, [stream], stream.source
    streams = [_open_log(path, config) for path in paths]
    return names[0], streams, Source(directory, "line", streams[0].source.skip)


def _events(streams: list[TableStream], source: Source, config: DataConfig) -> Iterator[pd.DataFrame]:
    """Typed events in parts. The names of benchmark files become the column `split`.

    Args:
        streams: one file, or the benchmark files by part.
        source: the source of the log, which counts the losses of all files.
        config: names of the columns.
    """
    columns = [event_columns(stream, config) for stream in streams]
    rating_range = config.rating_range or RATING_RANGE
    if len(streams) == 1:
        yield from stream_events(streams[0], columns[0], rating_range, config.timestamp_format)
        return
    row = 0
    for part, stream, names in zip(PARTS, streams, columns, strict=True):
        for frame in stream_events(stream, names, rating_range, config.timestamp_format):
            events = stream.source.kept(frame).assign(split=part)
            stream.source.dropped.clear()
            events.index = pd.Index([f"{line} of {Path(stream.source.path).name}" for line in events.index])
            if config.columns.timestamp is None:
                events["timestamp"] = np.arange(row, row + len(events))
            row += len(events)
            yield events
        for reason, loss in stream.source.losses.items():
            source.count(reason, loss.count, loss.examples)


def _untitled_items(streams: list[TableStream], source: Source, config: DataConfig) -> tuple[pd.DataFrame, Source]:
    """Items of a data set without an item table. The files are read once more for it."""
    looks = [replace(one, source=Source(one.source.path, one.source.unit, one.source.skip)) for one in streams]
    looked = Source(source.path, source.unit, source.skip) if len(looks) > 1 else looks[0].source
    return items_of_events(_events(looks, looked, config), looked)


def read_recbole(config: DataConfig) -> RawLog:
    """Reads a directory of atomic files.

    The events are those of NAME.inter, or of the benchmark files NAME.train.inter, NAME.valid.inter and
    NAME.test.inter, whose names give the column `split`. Without NAME.item the ids of the items are their titles.
    Titles without a year get one (`Toy Story (1995)`). Facts are the triples of the knowledge graph about items in the
    item table; their tails are entity ids, not names. `data.columns` maps names of the .inter file. The event type is
    `rating` if there are ratings.

    Raises:
        DataError: no such directory, a file or column is missing, or a value cannot be used.
    """
    directory = resolve_path(config.path, "data.path")
    name, streams, event_source = _open_events(directory, config)
    for stream in streams:
        event_columns(stream, config)  # A missing column is found before the items are read.
    item_path = directory / f"{name}.item"
    if item_path.is_file():
        item_table = _read_atomic(item_path, config)
        items, item_source = _items(item_table), item_table.source
    else:
        items, item_source = _untitled_items(streams, event_source, config)
    log = RawLog(
        events=_events(streams, event_source, config),
        items=items,
        event_source=event_source,
        item_source=item_source,
        timed=config.columns.timestamp is not None,
    )
    if (directory / f"{name}.user").is_file():
        users = _read_atomic(directory / f"{name}.user", config)
        require_columns(users, {"user_id": "user_id"})
        log = replace(log, users=to_users(users, "user_id"), user_source=users.source)
    kg = directory / f"{name}.kg"
    link = directory / f"{name}.link"
    if kg.is_file() and link.is_file():
        triples = _read_atomic(kg, config)
        facts = _facts(triples, _read_atomic(link, config))
        log = replace(log, facts=facts[facts["head"].isin(items["item_id"])], fact_source=triples.source)
    return log

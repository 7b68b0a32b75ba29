"""Format `recbole`: RecBole atomic files NAME.inter, optionally NAME.item, NAME.user, NAME.kg and NAME.link."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.histories import natural_key
from llmrec.data.readers.columns import (
    as_text,
    event_columns,
    no_years,
    require_columns,
    to_attribute,
    to_categories,
    to_events,
    to_ids,
    to_users,
    to_years,
)
from llmrec.data.readers.csv_and_json import TextFormat, read_delimited
from llmrec.data.readers.movielens import natural_titles, titled_years
from llmrec.data.readers.paths import find_one, resolve_path
from llmrec.data.readers.raw import RawLog, Source, Table
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


def _read_atomic(path: Path, config: DataConfig) -> Table:
    """Reads one atomic file and removes the types from its header."""
    table = read_delimited(path, "\t ,;", text=TextFormat.of(config))
    names = []
    for column in table.frame.columns:
        name, _, kind = str(column).rpartition(":")
        if not name or kind not in _TYPES:
            raise DataError(
                f"{path}, line 1: the header has {column!r}; expected NAME:TYPE, separated by tabs, where the type is "
                f"one of {', '.join(_TYPES)}, such as `user_id:token`. Correct the header, or set `data.separator`."
            )
        names.append(name)
    return Table(table.frame.set_axis(names, axis=1), table.source)


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


def _read_events(directory: Path, config: DataConfig) -> tuple[str, pd.DataFrame, Source]:
    """The name of the data set, its events and their source: NAME.inter, or RecBole's benchmark files.

    Benchmark files are NAME.train.inter, NAME.valid.inter and NAME.test.inter. They become the column `split`.
    """
    names = [path.name.removesuffix(".train.inter") for path in directory.glob("*.train.inter")]
    paths = {part: directory / f"{names[0]}.{part}.inter" for part in PARTS} if len(names) == 1 else {}
    if not paths or sorted(directory.glob("*.inter")) != sorted(paths.values()):
        path = find_one(directory, "*.inter", "data.path", "interaction file")
        table = _read_atomic(path, config)
        return path.stem, _typed_events(table, config), table.source
    tables = {part: _read_atomic(path, config) for part, path in paths.items()}
    frames = [_typed_events(table, config) for table in tables.values()]
    for frame, path in zip(frames, paths.values(), strict=True):
        frame.index = pd.Index([f"{line} of {path.name}" for line in frame.index])
    split = np.repeat(PARTS, [len(frame) for frame in frames])
    events = pd.concat(frames).assign(split=split)
    if config.columns.timestamp is None:
        events["timestamp"] = np.arange(len(events))
    return names[0], events, _joined([table.source for table in tables.values()], directory)


def _typed_events(table: Table, config: DataConfig) -> pd.DataFrame:
    columns = event_columns(table, config)
    return table.source.kept(to_events(table, columns, config.rating_range or RATING_RANGE, config.timestamp_format))


def _joined(sources: list[Source], directory: Path) -> Source:
    """The source of the rows of several files, with the losses of all."""
    joined = Source(directory, "line", sources[0].skip)
    for source in sources:
        for reason, loss in source.losses.items():
            joined.count(reason, loss.count, loss.examples)
    return joined


def _unnamed_items(events: pd.DataFrame, source: Source) -> tuple[pd.DataFrame, Source]:
    """Items of a data set without an item table: the ids of the events, without titles."""
    ids = pd.Series(sorted(events["item_id"].unique(), key=natural_key), dtype="str")
    ids.index += 1
    empty = pd.Series([[] for _ in ids], index=ids.index, dtype=object)
    items = pd.DataFrame(
        {"item_id": ids, "title": "", "categories": empty, "year": no_years(ids.index)}, index=ids.index
    )
    return items, Source(f"{source.path} (there is no item table)", "item")


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
    name, events, event_source = _read_events(directory, config)
    item_path = directory / f"{name}.item"
    if item_path.is_file():
        item_table = _read_atomic(item_path, config)
        items, item_source = _items(item_table), item_table.source
    else:
        items, item_source = _unnamed_items(events, event_source)
    log = RawLog(
        events=events,
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

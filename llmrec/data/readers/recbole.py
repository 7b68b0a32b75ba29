"""Format `recbole`: RecBole atomic files NAME.inter and NAME.item, optionally NAME.user, NAME.kg and NAME.link."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.readers.columns import (
    OPTIONAL_COLUMNS,
    as_text,
    require_columns,
    to_attribute,
    to_categories,
    to_events,
    to_ids,
    to_users,
    to_years,
)
from llmrec.data.readers.csv_and_json import read_delimited
from llmrec.data.readers.movielens import natural_titles, titled_years
from llmrec.data.readers.paths import find_one, resolve_path
from llmrec.data.readers.raw import RawLog, Table
from llmrec.errors import DataError

RATING_RANGE = (0.5, 5.0)
_TYPES = ("token", "float", "token_seq", "float_seq")
# Names of the same column in different data sets of the collection. The first one found is used.
_TITLES = ("title", "movie_title", "name", "item_name", "product_title", "book_title")
_CATEGORIES = ("categories", "category", "class", "genre", "genres")
_YEARS = ("year", "release_year")
# These repeat the categories of an item, or are the same for nearly every film.
_UNUSED_RELATIONS = ("genre", "language", "country")


def _read_atomic(path: Path) -> Table:
    """Reads one atomic file and removes the types from its header."""
    table = read_delimited(path, "\t")
    names = []
    for column in table.frame.columns:
        name, _, kind = str(column).rpartition(":")
        if not name or kind not in _TYPES:
            raise DataError(
                f"{path}, line 1: the header has {column!r}; expected NAME:TYPE, separated by tabs, where the type is "
                f"one of {', '.join(_TYPES)}, such as `user_id:token`. Correct the header."
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


def read_recbole(config: DataConfig) -> RawLog:
    """Reads a directory of atomic files.

    Titles without a year get one (`Toy Story (1995)`). Facts are the triples of the knowledge graph about items in the
    item table; their tails are entity ids, not names. `data.columns` maps names of the .inter file. The event type is
    `rating` if there are ratings.

    Raises:
        DataError: no such directory, a file or column is missing, or a value cannot be used.
    """
    directory = resolve_path(config.path, "data.path")
    inter = find_one(directory, "*.inter", "data.path", "interaction file")
    name = inter.stem
    item_path = find_one(directory, f"{name}.item", "data.path", "item file")
    events = _read_atomic(inter)
    item_table = _read_atomic(item_path)
    columns = {own: column for own, column in config.columns.model_dump().items() if column is not None}
    require_columns(events, columns, "data.columns")
    columns |= {own: own for own in OPTIONAL_COLUMNS if own not in columns and own in events.frame.columns}
    items = _items(item_table)
    log = RawLog(
        events=to_events(events, columns, config.rating_range or RATING_RANGE),
        items=items,
        event_source=events.source,
        item_source=item_table.source,
    )
    if (directory / f"{name}.user").is_file():
        users = _read_atomic(directory / f"{name}.user")
        require_columns(users, {"user_id": "user_id"})
        log = replace(log, users=to_users(users, "user_id"), user_source=users.source)
    kg = directory / f"{name}.kg"
    link = directory / f"{name}.link"
    if kg.is_file() and link.is_file():
        triples = _read_atomic(kg)
        facts = _facts(triples, _read_atomic(link))
        log = replace(log, facts=facts[facts["head"].isin(items["item_id"])], fact_source=triples.source)
    return log

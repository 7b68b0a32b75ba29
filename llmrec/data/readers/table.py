"""Format `table`: an event log in CSV, TSV, Parquet or JSONL, and optional tables of items, users and facts.

Quirks of files are handled in `csv_and_json`, quirks of values in `columns`, and quirks of whole columns in `decimals`
(numbers) and `whole_ids` (ids).
"""

from dataclasses import replace

import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.feedback import compared_column
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
from llmrec.data.readers.csv_and_json import read_any_table, stream_any_table
from llmrec.data.readers.decimals import plain_numbers, read_decimals
from llmrec.data.readers.dropped import drop_rows, read_drop_rule
from llmrec.data.readers.paths import resolve_path
from llmrec.data.readers.raw import RawLog, Source, Table, TableStream, as_text
from llmrec.data.readers.text_files import TextFormat
from llmrec.data.readers.untitled import items_of_events
from llmrec.data.readers.whole_ids import agree_on_ids, agree_with_table

WITHOUT_EVENTS = "fact about an item without events"  # without an item table
_TRUE = {"true", "1", "yes"}
_FALSE = {"false", "0", "no"}
_FACT_COLUMNS = ("head", "relation", "tail")


def items_from(table: Table, id_column: str) -> pd.DataFrame:
    """Typed items from a table with an id and a `title`; `categories` and `year` are optional.

    Categories are lists, or text with `|` between two categories.

    Raises:
        DataError: an id is empty.
    """
    frame = table.frame
    index = frame.index
    missing = pd.Series(pd.NA, index=index)
    columns = {
        "item_id": to_ids(table, id_column),
        "title": as_text(frame["title"]),
        "categories": to_categories(frame.get("categories", missing), "|"),
        "year": to_years(frame.get("year", missing)),
    }
    rest = [c for c in frame.columns if c != id_column and c not in columns]
    return pd.DataFrame({**columns, **{str(c): to_attribute(frame[c]) for c in rest}}, index=index)


def facts_from(table: Table) -> pd.DataFrame:
    """Typed facts from a table of `head` (item id), `relation` and `tail`; `named` is optional and true by default.

    Raises:
        DataError: a cell is empty, or `named` is neither true nor false.
    """
    facts = pd.DataFrame({name: to_ids(table, name) for name in _FACT_COLUMNS}).assign(named=True)
    if "named" in table.frame.columns:
        named = as_text(table.frame["named"]).str.lower()
        bad = ~named.isin(_TRUE | _FALSE)
        table.source.refuse(table.frame["named"], bad, "true or false", "Correct it, or leave the column out.")
        facts = facts.assign(named=named.isin(_TRUE))
    return facts


def read_table_log(config: DataConfig) -> RawLog:
    """Reads an event log whose columns `data.columns` names.

    A column that `data.columns` does not name is read under llmrec's own name if the log has it. All other columns are
    kept for the rules of `data.click` and `data.purchase`. The default event type is `rating` if there are ratings,
    else `interaction`.

    Without `data.items` the items are those of the events, and their ids are their titles; facts about other items are
    left out and counted.

    Raises:
        DataError: a file or column is missing, or a value cannot be used.
    """
    text = TextFormat.of(config)
    events = stream_any_table(resolve_path(config.path, "data.path"), text)
    columns = event_columns(events, config)
    items, item_id = None, ""
    if config.items is not None:
        items = read_any_table(resolve_path(config.items, "data.items"), text)
        item_id = _id_column(items, "item_id", config.columns.item_id)
        require_columns(items, {"item_id": item_id, "title": "title"})
        events, items = agree_on_ids(events, columns["item_id"], items, item_id)
    users, user_id = None, ""
    if config.users is not None:
        users = read_any_table(resolve_path(config.users, "data.users"), text)
        user_id = _id_column(users, "user_id", config.columns.user_id)
        require_columns(users, {"user_id": user_id})
        events, users = agree_on_ids(events, columns["user_id"], users, user_id)
    events = read_decimals(events, _number_columns(columns, config), config.decimal)
    events = drop_rows(events, config.drop, columns)
    if items is None:
        typed_items, item_source = _untitled_items(events, columns, config)
    else:
        plain = plain_numbers(items, (item_id, "title", "categories"), config.decimal)
        typed_items, item_source = items_from(plain, item_id), items.source
    log = RawLog(
        events=stream_events(events, columns, config.rating_range, config.timestamp_format),
        items=typed_items,
        event_source=events.source,
        item_source=item_source,
        timed=config.columns.timestamp is not None,
    )
    if users is not None:
        log = replace(log, users=to_users(users, user_id), user_source=users.source)
    if config.facts is not None:
        facts = read_any_table(resolve_path(config.facts, "data.facts"), text)
        require_columns(facts, {name: name for name in _FACT_COLUMNS})
        facts = agree_with_table(facts, "head", log.items["item_id"])
        if items is None:
            heads = facts.text("head")
            facts.source.drop(heads, heads.notna() & ~heads.isin(log.items["item_id"]), WITHOUT_EVENTS)
        log = replace(log, facts=facts_from(facts), fact_source=facts.source)
    return log


def _untitled_items(events: TableStream, columns: dict[str, str], config: DataConfig) -> tuple[pd.DataFrame, Source]:
    """Items of a log without an item table. The log is read once more for it."""
    look = replace(events, source=Source(events.source.path, events.source.unit, events.source.skip))
    return items_of_events(stream_events(look, columns, config.rating_range, config.timestamp_format), look.source)


def _number_columns(columns: dict[str, str], config: DataConfig) -> list[str]:
    """The columns of a log whose values are numbers, because of what they are or because a rule compares them."""
    own = ["rating", "position", "propensity"] + (["timestamp"] if config.timestamp_format is None else [])
    compared = [compared_column(rule) for rule in (*config.click, *config.purchase)]
    compared += [rule.column for rule in map(read_drop_rule, config.drop) if rule.number is not None]
    return [columns.get(name, name) for name in (*own, *compared)]


def _id_column(table: Table, own: str, mapped: str) -> str:
    """The id column of an item or user table: the log's name for it (`mapped`) or llmrec's (`own`)."""
    return mapped if mapped in table.frame.columns else own

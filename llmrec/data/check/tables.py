"""The item table and the user table beside an unknown log, for `llmrec prepare --check`."""

import re
from pathlib import Path
from typing import Any

from llmrec.data.check.files import change_command
from llmrec.data.readers.csv_and_json import TABLE_SUFFIXES, read_any_table
from llmrec.data.readers.other_files import quote
from llmrec.data.readers.raw import NO_IDS, Table
from llmrec.data.readers.text_files import TextFormat
from llmrec.data.readers.whole_ids import whole_ids
from llmrec.errors import DataError

LARGEST_NEIGHBOR = 200_000_000  # bytes of a file beside the log that may be its item table


def find_tables(path: Path, text: TextFormat, table: Table, roles: dict[str, str], data: dict[str, Any]) -> list[str]:
    """Finds the item table and the user table beside a log, and adds those that there are to the config.

    Returns:
        what to do to get an item table if there is none; nothing if there is one.
    """
    near_misses = []
    for other in sorted(path.parent.iterdir()):
        suffix = Path(other.name.removesuffix(".gz")).suffix
        if other == path or suffix not in TABLE_SUFFIXES or other.stat().st_size > LARGEST_NEIGHBOR:
            continue
        try:
            neighbor = read_any_table(other, text)
        except DataError as error:
            near_misses.append(f"{other.name} cannot be read as an item table: {error}")
            continue
        if not neighbor.columns:
            continue
        for key, own in (("items", "item_id"), ("users", "user_id")):
            ids = _ids(table, roles[own])
            column = max(neighbor.columns, key=lambda name: _share(neighbor, name, ids))
            if key in data or neighbor.text(column).duplicated().mean() > 0.01:
                continue
            matches = _share(neighbor, column, ids) > 0.5
            if matches and column in (own, roles[own]) and (key == "users" or "title" in neighbor.columns):
                data[key] = str(other)
            elif key == "items":
                near_misses += _near_miss(other, text, neighbor, column, roles[own], ids)
    if "items" in data:
        return []
    wanted = path.with_name("titles.csv" if path.name == "items.csv" else "items.csv")
    write = "" if near_misses else f"Write one with the columns `item_id` and `title`, such as {wanted}. "
    return [
        *near_misses,
        f"No file beside the log is its item table, so the ids of the items stand in for their titles. {write}Name the "
        "table in `data.items`, because the language model learns an item from its title.",
    ]


def _near_miss(path: Path, text: TextFormat, table: Table, column: str, id_column: str, ids: set[str]) -> list[str]:
    """What keeps a table from being the item table; nothing if it is another kind of table.

    Args:
        path: its file.
        text: how it was read.
        table: the table.
        column: its column that holds the most ids of the items.
        id_column: the column of the log that holds the ids of the items.
        ids: these ids.
    """
    if _share(table, column, ids) > 0.5:
        renamed = {} if column in ("item_id", id_column) else {column: "item_id"}
        untitled = "title" not in table.columns
        titles = [name for name in table.columns if re.search("title|name", name.lower()) and name != column]
        if untitled and titles:
            renamed[titles[0]] = "title"
        changes = [f"rename `{old}` to `{new}`" for old, new in renamed.items()]
        changes += ["add a column `title`"] if untitled and not titles else []
        names = ", ".join(f"{quote(old)}: {quote(new)}" for old, new in renamed.items())
        command = change_command(path, text, f"t = t.rename(columns={{{names}}})", "items")
        done_by = f": {command}, then check the log again" if titles or not untitled else ""
        return [
            f"{path.name} may be the item table: its column `{column}` holds the ids of the items. To use it, "
            f"{' and '.join(changes)}{done_by}."
        ]
    if "title" not in table.columns:
        return []
    column = next((name for name in ("item_id", id_column) if name in table.columns), column)
    share, known = _share(table, column, ids), table.text(column).dropna()
    example = f"`{min(ids)}`, the table `{known.iloc[0]}`" if len(known) else f"`{min(ids)}`, the table none"
    return [
        f"{path.name} has titles, but its column `{column}` holds {share:.0%} of the ids in `{id_column}` of the log: "
        f"the log has {example}. Write the same ids in both files."
    ]


def _share(table: Table, column: str, ids: set[str]) -> float:
    """Share of some ids that a column holds."""
    return len(ids & _ids(table, column)) / len(ids)


def _ids(table: Table, column: str) -> set[str]:
    """The ids in a column, without text that stands for a missing one."""
    return set(whole_ids(table.text(column).dropna())) - set(NO_IDS)

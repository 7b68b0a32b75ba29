"""Titles of items that an unknown log has in a column of its own."""

from llmrec.data.check.files import Sample
from llmrec.data.check.names import rank, rank_of_items
from llmrec.data.check.nested import holds_objects
from llmrec.data.readers.other_files import quote
from llmrec.data.readers.raw import is_id
from llmrec.data.readers.values import as_numbers

_ONE_TITLE = 0.9  # share of the items of which all rows have the same title
_DIFFERENT = 0.5  # number of titles, as a share of the number of items


def titles_note(sample: Sample, roles: dict[str, str]) -> str:
    """The command that makes an item table of the log's own titles; "" without such a column.

    Args:
        sample: the log.
        roles: the column's name in the log, by llmrec's name.
    """
    column = roles["item_id"]
    free = [name for name in sample.table.columns if name not in roles.values() and _names_titles(name)]
    title = next((name for name in free if _are_titles(sample, column, name)), None)
    if title is None:
        return ""
    change = f't = t[[{quote(column)}, {quote(title)}]].set_axis(["item_id", "title"], axis=1)'
    change += '.dropna().drop_duplicates("item_id")'
    command = sample.command(change, "items", objects=True)
    return f"`{title}` holds the titles of the items. Write an item table of them, then check the log again: {command}."


def _names_titles(name: str) -> bool:
    """Whether a column's name says that it holds the titles of items, such as `Item Name` or `title`."""
    place = rank(name, "item_id")
    return (place is not None and place[0] == 3) or rank_of_items(name, "title") == 0


def _are_titles(sample: Sample, column: str, name: str) -> bool:
    """Whether a column holds texts, one for each item, and different ones for different items."""
    frame = sample.table.frame[[column, name]]
    if holds_objects(frame[name]):
        return False
    known = frame[is_id(frame[column]) & is_id(frame[name])]
    if known.empty or as_numbers(known[name]).notna().any():
        return False
    titles = known.groupby(column)[name].nunique()
    return bool((titles == 1).mean() >= _ONE_TITLE and known[name].nunique() >= _DIFFERENT * len(titles))

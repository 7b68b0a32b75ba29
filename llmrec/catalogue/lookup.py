"""Finds the items and users that people name, and suggests names if one does not exist."""

import difflib
from collections.abc import Mapping, Sequence

from llmrec.catalogue.names import NameIndex, folded
from llmrec.errors import CatalogueError, nearest

LISTED_ITEMS = 10  # items that an error message lists at most
SUGGESTED_TITLES = 3  # titles that an error message suggests at most


def items_named(index: NameIndex, titles: Sequence[str]) -> list[int]:
    """Finds items by title: exactly, else without regard to case. An id stands for an item without such a title.

    Args:
        index: the names of the catalogue.
        titles: what people wrote.

    Returns:
        item indices, in the order of `titles`.

    Raises:
        CatalogueError: a title is not in the catalogue, or several items have it; the message lists candidates.
    """
    return [_item_named(index, title) for title in titles]


def items_with_ids(index: NameIndex, item_ids: Sequence[str]) -> list[int]:
    """Finds items by id.

    Args:
        index: the names of the catalogue.
        item_ids: what people wrote.

    Returns:
        item indices, in the order of `item_ids`.

    Raises:
        CatalogueError: there is no item with an id; the message suggests the most similar one.
    """
    found = {item_id: index.of_id(item_id) for item_id in item_ids}
    for item_id, items in found.items():
        if not items:
            similar = nearest(item_id, index.ids)
            hint = f"; did you mean {similar}?" if similar else "."
            raise CatalogueError(f"There is no item with the id {item_id} in the catalogue{hint}")
    return [found[item_id][0] for item_id in item_ids]


def user_with_id(index: Mapping[str, int], user: str) -> int:
    """Index of a user of the log.

    Args:
        index: user id to index.
        user: what people wrote.

    Raises:
        CatalogueError: there is no such user; the message suggests the most similar one.
    """
    found = index.get(str(user))
    if found is None:
        similar = nearest(str(user), index)
        hint = f"; did you mean {similar}?" if similar else "."
        raise CatalogueError(f"There is no user {user} among the {len(index)} users of the log{hint}")
    return found


def _item_named(index: NameIndex, title: str) -> int:
    found = index.find(title)
    if len(found) == 1:
        return found[0]
    names = index.names
    if found:
        listed = ", ".join(f'"{names[item]}" (id {index.ids[item]})' for item in found[:LISTED_ITEMS])
        more = f" and {len(found) - LISTED_ITEMS} more" if len(found) > LISTED_ITEMS else ""
        raise CatalogueError(f'"{title}" may mean {listed}{more}. Give the full name or the id.')
    index_of = {folded(name): item for item, name in enumerate(names)}
    similar = [names[index_of[key]] for key in similar_titles(folded(title), list(index_of))]
    hint = "; did you mean " + " or ".join(f'"{name}"' for name in similar) + "?" if similar else "."
    raise CatalogueError(f'There is no item "{title}" in the catalogue{hint}')


def similar_titles(wanted: str, titles: list[str]) -> list[str]:
    """Titles to suggest instead of one that does not exist: the most similar first, then those that contain it."""
    similar = difflib.get_close_matches(wanted, titles, n=SUGGESTED_TITLES, cutoff=0.5)
    containing = [title for title in titles if wanted and wanted in title][:SUGGESTED_TITLES]
    return list(dict.fromkeys([*similar[:1], *containing, *similar]))[:SUGGESTED_TITLES]

"""Names of items: distinct titles for people, and the items that a name may mean."""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_BRANDS = ("brand", "store")  # columns of an item table that hold a brand


def distinct_names(items: "pd.DataFrame") -> list[str]:
    """One name for each item: the title, with what tells it from equal titles in brackets.

    Items with equal titles are told apart by year, brand and category, in this order: `Blue Note [1987]`. Of items
    that agree in all of these, the first keeps its name, and the others add their id: `Blue Note [1987, i7]`. White
    space becomes single spaces.

    Args:
        items: rows of `item_id, title, categories, year` and optional `brand` or `store`, [N].

    Returns:
        distinct names, [N].
    """
    titles = [" ".join(str(title).split()) for title in items["title"]]
    ids = items["item_id"].astype(str).tolist()
    by_title: dict[str, list[int]] = defaultdict(list)
    for row, title in enumerate(titles):
        by_title[title].append(row)
    labels: list[list[str]] = [[] for _ in titles]
    repeated = [rows for rows in by_title.values() if len(rows) > 1]
    if repeated:
        attributes = _attributes(items)
        for rows in repeated:
            _tell_apart(rows, attributes, ids, labels)
    names = [f"{title} [{', '.join(label)}]" if label else title for title, label in zip(titles, labels, strict=True)]
    taken: set[str] = set()
    for row, name in enumerate(names):
        if name in taken:  # another item's title looks like a name made here
            names[row] = f"{name} [{ids[row]}]"
        taken.add(names[row])
    return names


def _attributes(items: "pd.DataFrame") -> list[Callable[[list[int]], list[str]]]:
    """What people know of items. Each function gives a text for every row of a group, "" where it is not known."""
    import pandas as pd  # a loaded policy has its names already

    years = items["year"].tolist()
    categories = [list(map(str, values)) for values in items["categories"]]
    brand = next((items[name].tolist() for name in _BRANDS if name in items), None)

    def text(value: object) -> str:
        return "" if pd.isna(value) else str(value).strip()  # pyright: ignore[reportArgumentType, reportCallIssue]

    def own_category(rows: list[int]) -> list[str]:
        shared = set.intersection(*(set(categories[row]) for row in rows))
        return [next((name for name in categories[row] if name not in shared), "") for row in rows]

    found: list[Callable[[list[int]], list[str]]] = [lambda rows: [text(years[row]) for row in rows]]
    if brand is not None:
        found.append(lambda rows: [text(brand[row]) for row in rows])
    return [*found, own_category]


def _tell_apart(
    rows: list[int],
    attributes: Sequence[Callable[[list[int]], list[str]]],
    ids: list[str],
    labels: list[list[str]],
) -> None:
    """Adds what tells the items of a group apart to their labels: an attribute that all have, else their ids."""
    if len(rows) == 1:
        return
    if not attributes:
        for row in rows[1:]:
            labels[row].append(ids[row])
        return
    values = attributes[0](rows)
    if not all(values) or len(set(values)) == 1:
        _tell_apart(rows, attributes[1:], ids, labels)
        return
    groups: dict[str, list[int]] = defaultdict(list)
    for row, value in zip(rows, values, strict=True):
        labels[row].append(value)
        groups[value].append(row)
    for group in groups.values():
        _tell_apart(group, attributes[1:], ids, labels)


class NameIndex:
    """Finds items by their name, and the items that people cannot tell apart.

    Args:
        names: names of the items, as `distinct_names` makes them, [N].
        ids: item ids, [N].
    """

    def __init__(self, names: Sequence[str], ids: Sequence[str]):
        self.names = names
        self.ids = ids
        self._by_id = {item_id: item for item, item_id in enumerate(ids)}
        self._exact = {name: item for item, name in enumerate(names)}
        self._folded: dict[str, list[int]] = defaultdict(list)
        self._bare: dict[str, list[int]] = defaultdict(list)
        for item, name in enumerate(names):
            self._folded[folded(name)].append(item)
            if name.endswith("]"):
                self._bare[folded(name.rpartition(" [")[0])].append(item)
        self._first = [self._exact.get(_without_id(name, ids[item]), item) for item, name in enumerate(names)]
        self._alike: dict[int, list[int]] = defaultdict(list)
        for item, first in enumerate(self._first):
            self._alike[first].append(item)

    def find(self, text: str) -> list[int]:
        """The items that a text may mean: by exact name, else without regard to case, else by title, else by id.

        Returns:
            item indices; several if the name is ambiguous, none if it is unknown.
        """
        plain = " ".join(text.split())
        if plain in self._exact:
            return [self._exact[plain]]
        for index in (self._folded, self._bare):
            if folded(plain) in index:
                return index[folded(plain)]
        return self.of_id(text)

    def of_id(self, item_id: str) -> list[int]:
        """The item with an id; none if there is no such item."""
        return [self._by_id[item_id]] if item_id in self._by_id else []

    def representative(self, item: int) -> int:
        """The first of the items that people cannot tell from an item: equal in title, year, brand and category."""
        return self._first[item]

    def alike(self, item: int) -> list[int]:
        """All items that people cannot tell from an item, the item included."""
        return self._alike[self._first[item]]


def folded(text: str) -> str:
    """A text without regard to case, white space and forms of the same letter, for comparisons."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _without_id(name: str, item_id: str) -> str:
    """The name without the id that tells it from an equal name; the name itself if it ends in no such id."""
    if name.endswith(f" [{item_id}]"):
        return name.removesuffix(f" [{item_id}]")
    return name.removesuffix(f", {item_id}]") + "]" if name.endswith(f", {item_id}]") else name

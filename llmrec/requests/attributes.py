"""Attributes of items, as the item table has them, and which items satisfy a request."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.catalogue.facts import decade
from llmrec.catalogue.names import distinct_names
from llmrec.data.dataset import InteractionData
from llmrec.files import read_versioned, write_json
from llmrec.requests.request import LIKE, Condition

FILE_NAME = "attributes.json"
FORMAT = 1
ALIKE = 0.5  # smallest overlap of the categories of two items that count as alike
BANDS = 3  # price bands, of equally many items
BRANDS = ("brand", "store")  # columns of the item table that hold a brand
# Relations whose tails are attributes, if the tails read as names.
PEOPLE = {
    "directed_by": "director",
    "written_by": "writer",
    "actor": "actor",
    "produced_by": "producer",
    "production_companies": "studio",
    "brand": "brand",
    "store": "brand",
}


class Attributes:
    """The attributes of every item of a catalogue.

    Args:
        members: ascending indices of the items that have a value, by attribute and value.
        titles: distinct titles of the items, [N].

    Attributes:
        members: as given, int64 arrays.
    """

    def __init__(self, members: dict[tuple[str, str], Sequence[int]], titles: Sequence[str]):
        self.members = {key: np.asarray(items, dtype=np.int64) for key, items in members.items()}
        self.titles = titles

    @classmethod
    def from_data(cls, data: InteractionData) -> "Attributes":
        """Categories, decade, price band, brand and named people of each item."""
        members: dict[tuple[str, str], set[int]] = defaultdict(set)
        for attribute, value, item in chain(_of_columns(data), _of_facts(data)):
            if value.strip():
                members[attribute, value.strip()].add(item)
        return cls({key: sorted(members[key]) for key in sorted(members)}, distinct_names(data.items))

    @property
    def num_items(self) -> int:
        """Number N of items."""
        return len(self.titles)

    @cached_property
    def of_item(self) -> list[list[tuple[str, str]]]:
        """Attributes and values of each item, [N]."""
        found: list[list[tuple[str, str]]] = [[] for _ in self.titles]
        for key, items in self.members.items():
            for item in items.tolist():
                found[item].append(key)
        return found

    def alike(self, item: int) -> np.ndarray:
        """Items whose categories overlap with those of an item by `ALIKE` at least (Jaccard index), bool [N].

        The item itself is not among them.
        """
        common = np.zeros(self.num_items)
        for key in self._categories_of(item):
            common[self.members[key]] += 1
        union = self._category_counts + self._category_counts[item] - common
        found = (common > 0) & (common >= ALIKE * union)
        found[item] = False
        return found

    def holds(self, condition: Condition) -> np.ndarray:
        """Which items a condition holds for, bool [N]. A value that the catalogue lacks holds for none."""
        if condition.attribute == LIKE:
            item = self._item_of_title.get(condition.value)
            found = np.zeros(self.num_items, dtype=bool) if item is None else self.alike(item)
        else:
            found = np.zeros(self.num_items, dtype=bool)
            found[self.members.get((condition.attribute, condition.value), [])] = True
        return ~found if condition.negated else found

    def satisfied(self, conditions: Iterable[Condition]) -> np.ndarray:
        """Which items satisfy all of some conditions, bool [N]."""
        found = np.ones(self.num_items, dtype=bool)
        for condition in conditions:
            found &= self.holds(condition)
        return found

    def _categories_of(self, item: int) -> list[tuple[str, str]]:
        return [key for key in self.of_item[item] if key[0] == "category"]

    @cached_property
    def _category_counts(self) -> np.ndarray:
        """Number of categories of each item, [N]."""
        return np.array([len(self._categories_of(item)) for item in range(self.num_items)], dtype=np.float64)

    @cached_property
    def _item_of_title(self) -> dict[str, int]:
        return {title: item for item, title in enumerate(self.titles)}

    def save(self, directory: str | Path) -> None:
        """Writes `attributes.json`."""
        members = [[*key, items.tolist()] for key, items in self.members.items()]
        write_json(Path(directory) / FILE_NAME, {"format": FORMAT, "members": members})

    @classmethod
    def load(cls, directory: str | Path, titles: Sequence[str]) -> "Attributes | None":
        """Reads `attributes.json`; None if the policy was trained without requests.

        Args:
            directory: directory of the adapter.
            titles: distinct titles of the catalogue, [N].

        Raises:
            ModelError: the file is unreadable or of a newer format.
        """
        path = Path(directory) / FILE_NAME
        if not path.is_file():
            return None

        def build(value: dict[str, Any]) -> Attributes:
            return cls({(attribute, name): items for attribute, name, items in value["members"]}, titles)

        return read_versioned(path, FORMAT, build)


def _of_columns(data: InteractionData) -> Iterator[tuple[str, str, int]]:
    """Attribute, value and item index of what the item table holds."""
    for item, (categories, year) in enumerate(zip(data.items["categories"], data.items["year"], strict=True)):
        yield from (("category", str(name), item) for name in categories)
        if isinstance(year, int | np.integer):
            yield "decade", decade(int(year)), item
    for item, band in _price_bands(data).items():
        yield "price", band, item
    for column in BRANDS:
        if column in data.items:
            names = data.items[column].fillna("").astype(str)
            yield from (("brand", name, item) for item, name in enumerate(names))


def _of_facts(data: InteractionData) -> Iterator[tuple[str, str, int]]:
    """Attribute, value and item index of the people and brands that facts name."""
    if not len(data.facts):
        return
    known = data.facts[data.facts["named"].astype(bool) & data.facts["relation"].isin(list(PEOPLE))]
    for item, relation, tail in zip(known["item"], known["relation"], known["tail"], strict=True):
        if item >= 0:
            yield PEOPLE[relation], str(tail), int(item)


def _price_bands(data: InteractionData) -> dict[int, str]:
    """The price band of each item that has a price, such as `under 10`; empty without a column of prices."""
    if "price" not in data.items:
        return {}
    import pandas as pd

    prices = pd.to_numeric(data.items["price"], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    known = np.flatnonzero(np.isfinite(prices))
    if not len(known):
        return {}
    low, high = (float(f"{limit:.2g}") for limit in np.quantile(prices[known], [1 / BANDS, 1 - 1 / BANDS]))
    if low >= high:
        return {}
    names = (f"under {low:g}", f"{low:g} to {high:g}", f"over {high:g}")
    return {int(item): names[int(prices[item] >= low) + int(prices[item] > high)] for item in known}

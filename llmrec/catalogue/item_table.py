"""What the tables of a catalogue say of each item, in words: title, year, categories, people, brand and price."""

from dataclasses import dataclass

import pandas as pd

from llmrec.catalogue.facts import RELATION_WORDS
from llmrec.catalogue.names import distinct_names
from llmrec.data.dataset import InteractionData

BRAND = "brand"  # the role of brands and stores in `RELATION_WORDS`


@dataclass(frozen=True)
class ItemRow:
    """One item. What the tables lack is None or empty, and statements about it cannot be checked.

    Attributes:
        title: its distinct title, as people read it.
        year: the year of its release.
        categories: its categories.
        people: role (`director`, `actor`, ...) and name of those who made it.
        brands: its brands and stores.
        price: its price, in the currency of the log.
    """

    title: str
    year: int | None = None
    categories: tuple[str, ...] = ()
    people: tuple[tuple[str, str], ...] = ()
    brands: tuple[str, ...] = ()
    price: float | None = None


@dataclass(frozen=True)
class ItemTable:
    """All items of a catalogue, in the order of their indices.

    Attributes:
        rows: the items, [N].
    """

    rows: tuple[ItemRow, ...]

    def __getitem__(self, item: int) -> ItemRow:
        return self.rows[item]

    @classmethod
    def from_data(cls, data: InteractionData) -> "ItemTable":
        """The table of a prepared log. Entities that the log knows by an opaque id alone have no name to state."""
        people, brands = _named_entities(data)
        for column in ("brand", "store"):
            if column in data.items:
                for item, name in enumerate(data.items[column].fillna("").astype(str)):
                    brands[item] += [name.strip()] if name.strip() else []
        prices = data.items["price"] if "price" in data.items else pd.Series([None] * data.num_items)
        columns = zip(
            distinct_names(data.items),
            data.items["year"],
            data.items["categories"],
            people,
            brands,
            pd.to_numeric(prices, errors="coerce"),
            strict=True,
        )
        return cls(
            tuple(
                ItemRow(
                    title=title,
                    year=None if pd.isna(year) else int(year),
                    categories=tuple(dict.fromkeys(map(str, categories))),
                    people=tuple(dict.fromkeys(of_item)),
                    brands=tuple(dict.fromkeys(of_brand)),
                    price=None if pd.isna(price) else float(price),
                )
                for title, year, categories, of_item, of_brand, price in columns
            )
        )


def _named_entities(data: InteractionData) -> tuple[list[list[tuple[str, str]]], list[list[str]]]:
    """People with their roles and brands of each item, [N] each, from the facts whose tails read as names."""
    people: list[list[tuple[str, str]]] = [[] for _ in range(data.num_items)]
    brands: list[list[str]] = [[] for _ in range(data.num_items)]
    if not len(data.facts):
        return people, brands
    known = data.facts[data.facts["named"].astype(bool) & data.facts["relation"].isin(list(RELATION_WORDS))]
    for item, relation, tail in zip(known["item"], known["relation"], known["tail"], strict=True):
        if item < 0 or not str(tail).strip():
            continue
        role = RELATION_WORDS[relation]
        if role == BRAND:
            brands[item].append(str(tail).strip())
        else:
            people[item].append((role, str(tail).strip()))
    return people, brands

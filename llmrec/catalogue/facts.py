"""What is known of the items, and which words say it: the ground that justifications stand on."""

import re
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from llmrec.data.dataset import InteractionData

# How a shared entity of a relation is said. A relation that is not here is said by its own name.
RELATION_WORDS = {
    "actor": "actor",
    "directed_by": "director",
    "written_by": "writer",
    "produced_by": "producer",
    "cinematography": "cinematographer",
    "production_companies": "studio",
    "brand": "brand",
    "store": "brand",
}


@dataclass(frozen=True, order=True)
class Fact:
    """One true or false thing to say of an item.

    Attributes:
        kind: `category`, `period` or `shared` (an entity in common with the cited item).
        value: the category, the decade (`1990s`), the year (`1995`) or the relation.
    """

    kind: str
    value: str


class FactBook:
    """Facts by item, and the words that state them."""

    def __init__(self, data: InteractionData):
        self.categories = [frozenset(map(str, categories)) for categories in data.items["categories"]]
        self.years = [None if pd.isna(year) else int(year) for year in data.items["year"]]
        self.relations: list[dict[str, frozenset]] = [{} for _ in range(data.num_items)]
        known = data.facts[data.facts["relation"].isin(RELATION_WORDS)] if len(data.facts) else data.facts
        for (item, relation), tails in known.groupby(["item", "relation"])["tail"] if len(known) else ():
            self.relations[item][relation] = frozenset(tails)

    def is_true(self, fact: Fact, item: int, cited: tuple[int, ...] = ()) -> bool:
        """Whether a fact holds of the item and, if there are any, of all cited items."""
        if fact.kind == "shared":
            return bool(cited) and all(self._share(fact.value, item, other) for other in cited)
        return all(self._holds(fact, one) for one in (item, *cited))

    def _holds(self, fact: Fact, item: int) -> bool:
        if fact.kind == "category":
            return fact.value in self.categories[item]
        year = self.years[item]
        return year is not None and fact.value in (str(year), decade(year))

    def _share(self, relation: str, one: int, two: int) -> bool:
        tails = self.relations[one].get(relation, frozenset())
        return not tails.isdisjoint(self.relations[two].get(relation, frozenset()))

    def of(self, item: int) -> list[Fact]:
        """Categories and period of one item."""
        facts = [Fact("category", category) for category in sorted(self.categories[item])]
        return facts + ([] if self.years[item] is None else [Fact("period", decade(self.years[item]))])

    def common(self, one: int, two: int) -> list[Fact]:
        """Every fact that is true of both items, shared people included."""
        facts = [fact for fact in self.of(one) if self._holds(fact, two)]
        return facts + [Fact("shared", r) for r in sorted(self.relations[one]) if self._share(r, one, two)]

    @cached_property
    def all_categories(self) -> list[str]:
        return sorted(frozenset().union(*self.categories))

    @cached_property
    def all_periods(self) -> list[str]:
        return sorted({decade(year) for year in self.years if year is not None})

    @cached_property
    def all_relations(self) -> list[str]:
        return sorted({relation for relations in self.relations for relation in relations})

    @cached_property
    def _pattern(self) -> re.Pattern:
        """Longest surface first: `Sci-Fi Thriller` before `Thriller`."""
        words = {re.escape(c) for c in self.all_categories} | {RELATION_WORDS[r] for r in self.all_relations}
        words |= {r"\d{3}0s", r"\d{4}"}
        return re.compile(r"(?<![\w-])(" + "|".join(sorted(words, key=len, reverse=True)) + r")(?![\w-])")

    def find(self, text: str) -> tuple[list[Fact], str]:
        """Facts stated in a text without citations.

        Returns:
            the facts in order, and the text with their words removed.
        """
        relation_of = {RELATION_WORDS[relation]: relation for relation in reversed(self.all_relations)}
        facts = []
        for match in self._pattern.finditer(text):
            word = match.group(1)
            if word in relation_of:
                facts.append(Fact("shared", relation_of[word]))
            elif word[0].isdigit() and (word[-1] == "s" or len(word) == 4) and word not in self.all_categories:
                facts.append(Fact("period", word))
            else:
                facts.append(Fact("category", word))
        return facts, self._pattern.sub(" ", text)

    def description(self, item: int) -> str:
        """Categories and decade as words, to start an item's embedding from."""
        return " ".join(fact.value for fact in self.of(item))


def decade(year: int) -> str:
    """`1995` is `1990s`."""
    return f"{year // 10 * 10}s"

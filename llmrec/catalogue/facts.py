"""What is known about the items (categories, decades, shared people and brands) and the words that state it.

Justifications are written from these facts, and the groundedness check compares texts with them.
"""

import re
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmrec.data.dataset import InteractionData
from llmrec.files import read_versioned, write_json

FILE_NAME = "facts.json"
FORMAT = 1
# Relations in which two items can share an entity, and the word for that entity. Entity names may be opaque ids, so a
# text states only that the entity is the same.
RELATION_WORDS = {
    "directed_by": "director",
    "written_by": "writer",
    "actor": "actor",
    "produced_by": "producer",
    "cinematography": "cinematographer",
    "production_companies": "studio",
    "brand": "brand",
    "store": "brand",
}
_NO_ENTITY = torch.iinfo(torch.int32).max  # fills up rows of entity ids; above every id, so rows stay sorted


@dataclass(frozen=True, order=True)
class Fact:
    """One statement about an item, true or false.

    Attributes:
        kind: `category`, `period` or `shared` (the item and a cited item have an entity in common).
        value: the category, the decade (`1990s`) or the relation.
    """

    kind: str
    value: str

    @property
    def words(self) -> str:
        """The words that state the fact, with a leading space."""
        if self.kind == "period":
            return f" from the {self.value}"
        return f" with the same {RELATION_WORDS[self.value]}" if self.kind == "shared" else f" {self.value}"


class FactTensors(nn.Module):
    """The facts of all items as buffers, so that they move with the model that reads them.

    Args:
        own: categories and periods that hold, bool [N, F].
        entities: by fact index of a relation, the ascending entity ids of each item, padded with `_NO_ENTITY`,
            int32 [N, E].
    """

    own_facts: torch.Tensor

    def __init__(self, own: torch.Tensor, entities: dict[int, torch.Tensor]):
        super().__init__()
        self.register_buffer("own_facts", own, persistent=False)
        self.relations = sorted(entities)
        for number in self.relations:
            self.register_buffer(f"entities_{number}", entities[number], persistent=False)

    def own(self, items: torch.Tensor) -> torch.Tensor:
        """Categories and periods that hold for each item.

        Args:
            items: item indices, int64 [B].

        Returns:
            bool [B, F]; false for shared entities.
        """
        return self.own_facts[items]

    def common(self, items: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        """Facts that hold for an item and for each item of a history.

        Args:
            items: item indices, int64 [B].
            history: item indices, -1 at padding, int64 [B, H].

        Returns:
            bool [B, F, H]; false at padding.
        """
        others = history.clamp(min=0)
        both = (self.own_facts[items][:, None] & self.own_facts[others]).transpose(1, 2).contiguous()
        for number in self.relations:
            entities: torch.Tensor = self.get_buffer(f"entities_{number}")
            both[:, number] = _share_an_entity(entities[items], entities[others])
        return both & (history >= 0)[:, None]


class FactBook:
    """The facts of every item in a catalogue.

    Args:
        facts: every fact that can be stated, [F].
        of_item: indices of the categories and periods of each item, [N].
        entities: entity ids of each item by relation, [N].

    Attributes:
        facts: [F]; bool arrays of facts have this order.
        index: position of each fact in `facts`.
        on_host: the facts as tensors on the CPU, for code that writes texts before training.
    """

    def __init__(self, facts: list[Fact], of_item: list[list[int]], entities: list[dict[str, list[int]]]):
        self.facts = facts
        self.index = {fact: number for number, fact in enumerate(facts)}
        self._of_item = of_item
        self._entities = entities
        self._entity_sets: dict[tuple[int, str], frozenset[int]] = {}
        self.on_host = self._make_tensors()

    @classmethod
    def from_data(cls, data: InteractionData, keep: Callable[[Fact], bool] = lambda fact: True) -> "FactBook":
        """The facts of a catalogue: its categories, decades and the relations of `RELATION_WORDS`.

        Args:
            data: the catalogue.
            keep: selects facts; the others are never stated.
        """
        import pandas as pd  # a loaded policy needs none

        categories = [sorted(set(map(str, values))) for values in data.items["categories"]]
        periods = [None if pd.isna(year) else decade(int(year)) for year in data.items["year"]]
        entities = _shared_entities(data)
        relations = sorted({relation for one in entities for relation in one}, key=list(RELATION_WORDS).index)
        facts = [Fact("category", name) for name in _stated_categories(categories)]
        facts += [Fact("period", period) for period in sorted({period for period in periods if period is not None})]
        facts += [Fact("shared", relation) for relation in _one_per_word(relations)]
        facts = [fact for fact in facts if keep(fact)]
        index = {fact: number for number, fact in enumerate(facts)}
        of_item = []
        for names, period in zip(categories, periods, strict=True):
            own = [Fact("category", name) for name in names]
            own += [] if period is None else [Fact("period", period)]
            of_item.append([index[fact] for fact in own if fact in index])
        return cls(facts, of_item, entities)

    @property
    def num_items(self) -> int:
        """Number N of items."""
        return len(self._of_item)

    def of_kind(self, *kinds: str) -> torch.Tensor:
        """Which facts are of the given kinds, bool [F] on the CPU."""
        return torch.tensor([fact.kind in kinds for fact in self.facts], dtype=torch.bool)

    def tensors(self) -> FactTensors:
        """A copy of `on_host` that may move to another device."""
        return deepcopy(self.on_host)

    def _make_tensors(self) -> FactTensors:
        own = torch.zeros(self.num_items, len(self.facts), dtype=torch.bool)
        for item, numbers in enumerate(self._of_item):
            own[item, numbers] = True
        entities = {
            number: _padded([sorted(one.get(fact.value, ())) for one in self._entities])
            for number, fact in enumerate(self.facts)
            if fact.kind == "shared"
        }
        return FactTensors(own, entities)

    def is_true(self, fact: Fact, item: int, cited: tuple[int, ...] = ()) -> bool:
        """Whether a fact holds for an item and for every cited item.

        Args:
            fact: any fact; one that the catalogue lacks is false.
            item: item index.
            cited: item indices. A shared entity without a cited item is false.
        """
        number = self.index.get(fact)
        if number is None:
            return False
        if fact.kind != "shared":
            return all(number in self._of_item[one] for one in (item, *cited))
        entities = [self._entities_of(one, fact.value) for one in (item, *cited)]
        return bool(cited) and not any(entities[0].isdisjoint(other) for other in entities[1:])

    def _entities_of(self, item: int, relation: str) -> frozenset[int]:
        """Entity ids of an item, made once: a whole catalogue of sets would take half a second to load."""
        key = (item, relation)
        if key not in self._entity_sets:
            self._entity_sets[key] = frozenset(self._entities[item].get(relation, ()))
        return self._entity_sets[key]

    def facts_of(self, item: int) -> list[Fact]:
        """Categories and period of one item."""
        return [self.facts[number] for number in self._of_item[item]]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """Matches the words of any fact; longer words are tried first."""
        words = sorted((re.escape(fact.words.strip()) for fact in self.facts), key=len, reverse=True)
        return re.compile(r"(?<![\w-])(" + "|".join(words) + r")(?![\w-])" if words else r"(?!)")

    @cached_property
    def _by_words(self) -> dict[str, Fact]:
        return {fact.words.strip(): fact for fact in self.facts}

    def split(self, text: str) -> list[tuple[str, Fact | None]]:
        """Cuts a text without citations into stated facts and the text between them.

        Returns:
            (words, fact) in order; the fact is None for text between facts.
        """
        parts = enumerate(self._pattern.split(text))
        return [(part, self._by_words[part] if number % 2 else None) for number, part in parts if part]

    def find(self, text: str) -> tuple[list[Fact], str]:
        """Finds the facts that a text without citations states.

        Returns:
            the facts in order, and the text with their words replaced by spaces.
        """
        parts = self.split(text)
        return [fact for _, fact in parts if fact], "".join(" " if fact else part for part, fact in parts)

    def description(self, item: int) -> str:
        """Categories and decade of an item as words; item embeddings are initialized from them."""
        return " ".join(fact.value for fact in self.facts_of(item))

    def save(self, directory: str | Path) -> None:
        """Writes `facts.json`."""
        value = {
            "format": FORMAT,
            "facts": [[fact.kind, fact.value] for fact in self.facts],
            "of_item": self._of_item,
            "entities": [{relation: sorted(ids) for relation, ids in one.items()} for one in self._entities],
        }
        write_json(Path(directory) / FILE_NAME, value)

    @classmethod
    def load(cls, directory: str | Path) -> "FactBook":
        """Reads `facts.json`.

        Raises:
            ModelError: the file is missing, unreadable or of a newer format.
        """

        def build(value: dict[str, Any]) -> FactBook:
            return cls([Fact(*pair) for pair in value["facts"]], value["of_item"], value["entities"])

        return read_versioned(Path(directory) / FILE_NAME, FORMAT, build)


def _padded(rows: list[list[int]]) -> torch.Tensor:
    """Ascending entity ids of each item in one int32 tensor [N, E]; E is at least 1."""
    width = max([1, *map(len, rows)])
    return torch.tensor([row + [_NO_ENTITY] * (width - len(row)) for row in rows], dtype=torch.int32)


def _share_an_entity(one: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Whether rows of entity ids have an id in common.

    Args:
        one: ascending entity ids, padded with `_NO_ENTITY`, int32 [B, E].
        others: entity ids to look up, padded likewise, int32 [B, H, E].

    Returns:
        bool [B, H].
    """
    sought = others.flatten(1)
    index = torch.searchsorted(one, sought).clamp(max=one.shape[1] - 1)
    found = (one.gather(1, index) == sought) & (sought != _NO_ENTITY)
    return found.view(others.shape).any(2)


def _stated_categories(categories: list[list[str]]) -> list[str]:
    """Category names that a text can state, sorted.

    A name with the end of a sentence in it is left out. So is a name that another name starts with: `Tools` cannot be
    told from the beginning of `Tools & Paint`.
    """
    names = sorted({name for values in categories for name in values if not set(".!?") & set(name)})
    return [name for name in names if not any(other != name and other.startswith(name) for other in names)]


def _shared_entities(data: InteractionData) -> list[dict[str, list[int]]]:
    """Entity ids of each item by relation, [N]; an entity of a single item is left out, because none can share it."""
    entities: list[dict[str, list[int]]] = [{} for _ in range(data.num_items)]
    if not len(data.facts):
        return entities
    known = data.facts.loc[data.facts["relation"].isin(list(RELATION_WORDS)), ["item", "relation", "tail"]]
    triples = list(known.drop_duplicates().itertuples(index=False, name=None))
    counts = Counter((relation, tail) for _, relation, tail in triples)
    numbers: dict[tuple[str, str], int] = {}
    for item, relation, tail in triples:
        if counts[relation, tail] > 1:
            number = numbers.setdefault((relation, tail), len(numbers))
            entities[item].setdefault(relation, []).append(number)
    return entities


def _one_per_word(relations: list[str]) -> list[str]:
    """The first relation of each word: `brand` and `store` are both called brand."""
    first = {RELATION_WORDS[relation]: relation for relation in reversed(relations)}
    return list(first.values())[::-1]


def decade(year: int) -> str:
    """The decade of a year: `1990s` for 1995."""
    return f"{year // 10 * 10}s"

"""What is known of the items, and which words say it: the ground that justifications stand on."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch

from llmrec.data.dataset import InteractionData
from llmrec.errors import ModelError
from llmrec.files import read_json, write_json

FILE_NAME = "facts.json"
FORMAT = 1
# Relations whose shared tails are worth a word, and the word. Tails may be opaque ids: only sharing is stated.
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


@dataclass(frozen=True, order=True)
class Fact:
    """One thing to say of an item; it may be true or false.

    Attributes:
        kind: `category`, `period` or `shared` (an entity in common with the cited item).
        value: the category, the decade (`1990s`) or the relation.
    """

    kind: str
    value: str

    @property
    def words(self) -> str:
        """How it is said, with the space before it."""
        if self.kind == "period":
            return f" from the {self.value}"
        return f" with the same {RELATION_WORDS[self.value]}" if self.kind == "shared" else f" {self.value}"


class FactBook:
    """Facts by item.

    Args:
        facts: everything that can be said, [F].
        of_item: per item, indices of the categories and periods that hold, [N].
        entities: per item, `{relation: entity ids}`, [N].

    Attributes:
        facts: [F], in the order that every bool array of facts has.
    """

    def __init__(self, facts: list[Fact], of_item: list[list[int]], entities: list[dict[str, list[int]]]):
        self.facts = facts
        self.index = {fact: number for number, fact in enumerate(facts)}
        self.entities = [{relation: frozenset(ids) for relation, ids in one.items()} for one in entities]
        self._of_item = of_item
        self._truth = torch.zeros(len(of_item), len(facts), dtype=torch.bool)
        for item, numbers in enumerate(of_item):
            self._truth[item, numbers] = True
        self._relations = [(number, fact.value) for number, fact in enumerate(facts) if fact.kind == "shared"]

    @classmethod
    def from_data(cls, data: InteractionData, sayable: Callable[[Fact], bool] = lambda fact: True) -> "FactBook":
        """Facts of a catalogue: its categories, decades and the relations of `RELATION_WORDS`.

        Args:
            data: the catalogue.
            sayable: leaves out facts whose words cannot be told from other text.
        """
        categories = [sorted(set(map(str, values))) for values in data.items["categories"]]
        names = sorted({name for values in categories for name in values if not set(".!?") & set(name)})
        # "Tools" cannot be told from the beginning of "Tools & Paint": only the longer one is ever stated.
        names = [name for name in names if not any(other != name and other.startswith(name) for other in names)]
        years = [None if pd.isna(year) else int(year) for year in data.items["year"]]
        periods = sorted({decade(year) for year in years if year is not None})
        entities = _entities(data)
        relations = sorted({relation for one in entities for relation in one}, key=list(RELATION_WORDS).index)
        facts = [Fact("category", name) for name in names] + [Fact("period", period) for period in periods]
        facts += [Fact("shared", relation) for relation in _one_a_word(relations)]
        facts = [fact for fact in facts if sayable(fact)]
        index = {fact: number for number, fact in enumerate(facts)}
        of_item = []
        for values, year in zip(categories, years, strict=True):
            known = [index[Fact("category", v)] for v in values if Fact("category", v) in index]
            period = None if year is None else index.get(Fact("period", decade(year)))
            of_item.append(known + ([] if period is None else [period]))
        return cls(facts, of_item, entities)

    def of_kind(self, *kinds: str) -> torch.Tensor:
        """Which facts are of some kinds, bool [F]."""
        return torch.tensor([fact.kind in kinds for fact in self.facts], dtype=torch.bool)

    def own(self, items: torch.Tensor) -> torch.Tensor:
        """Categories and periods that hold of items [B]: bool [B, F]."""
        return self._truth[items.cpu()].to(items.device)

    def common(self, items: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        """What holds of both an item and each item of a history.

        Args:
            items: [B].
            history: [B, H], -1 where there is none.

        Returns:
            bool [B, F, H].
        """
        one, two = items.cpu(), history.cpu()
        both = (self._truth[one][:, None] & self._truth[two.clamp(min=0)]).transpose(1, 2).contiguous()
        for number, relation in self._relations:
            for b, item in enumerate(one.tolist()):
                known = self.entities[item].get(relation)
                if known:
                    both[b, number] = torch.tensor([self._share(relation, known, other) for other in two[b].tolist()])
        return (both & (two >= 0)[:, None]).to(items.device)

    def _share(self, relation: str, known: frozenset, other: int) -> bool:
        return other >= 0 and not known.isdisjoint(self.entities[other].get(relation, frozenset()))

    def is_true(self, fact: Fact, item: int, cited: tuple[int, ...] = ()) -> bool:
        """Whether a fact holds of the item and, if there are any, of all cited items."""
        number = self.index.get(fact)
        if number is None:
            return False
        if fact.kind == "shared":
            known = self.entities[item].get(fact.value, frozenset())
            return bool(cited) and all(self._share(fact.value, known, other) for other in cited)
        return all(bool(self._truth[one, number]) for one in (item, *cited))

    def of(self, item: int) -> list[Fact]:
        """Categories and period of one item."""
        return [self.facts[number] for number in self._of_item[item]]

    @cached_property
    def _pattern(self) -> re.Pattern:
        """Longest words first."""
        words = sorted((re.escape(fact.words.strip()) for fact in self.facts), key=len, reverse=True)
        return re.compile(r"(?<![\w-])(" + "|".join(words) + r")(?![\w-])" if words else r"(?!)")

    @cached_property
    def _by_words(self) -> dict[str, Fact]:
        return {fact.words.strip(): fact for fact in self.facts}

    def split(self, text: str) -> list[tuple[str, Fact | None]]:
        """A text without citations cut into the facts that it states and what stands between them, in order."""
        parts = enumerate(self._pattern.split(text))
        return [(part, self._by_words[part] if number % 2 else None) for number, part in parts if part]

    def find(self, text: str) -> tuple[list[Fact], str]:
        """Facts stated in a text without citations.

        Returns:
            the facts in order, and the text with their words removed.
        """
        parts = self.split(text)
        return [fact for _, fact in parts if fact], "".join(" " if fact else part for part, fact in parts)

    def description(self, item: int) -> str:
        """Categories and decade as words, to start an item's embedding from."""
        return " ".join(fact.value for fact in self.of(item))

    def save(self, directory: str | Path) -> None:
        """Writes `facts.json`."""
        value = {
            "format": FORMAT,
            "facts": [[fact.kind, fact.value] for fact in self.facts],
            "of_item": self._of_item,
            "entities": [{r: sorted(ids) for r, ids in one.items()} for one in self.entities],
        }
        write_json(Path(directory) / FILE_NAME, value)

    @classmethod
    def load(cls, directory: str | Path) -> "FactBook":
        """Reads `facts.json`.

        Raises:
            ModelError: missing, unreadable or of a newer format.
        """
        path = Path(directory) / FILE_NAME
        try:
            value = read_json(path)
            if value["format"] > FORMAT:
                raise ModelError(f"{path} has format {value['format']}; this llmrec reads up to {FORMAT}: update it.")
            return cls([Fact(*pair) for pair in value["facts"]], value["of_item"], value["entities"])
        except FileNotFoundError:
            raise ModelError(f"{path} is missing: {directory} is not an adapter written by llmrec.") from None
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ModelError(f"{path} is not readable ({error}); copy or write the adapter again.") from None


def _entities(data: InteractionData) -> list[dict[str, list[int]]]:
    """Per item the entities of each stated relation; those of one item alone can never be shared and are left out."""
    entities: list[dict[str, list[int]]] = [{} for _ in range(data.num_items)]
    if not len(data.facts):
        return entities
    known = data.facts[data.facts["relation"].isin(RELATION_WORDS)].drop_duplicates(["item", "relation", "tail"])
    counts = Counter(zip(known["relation"], known["tail"], strict=True))
    numbers: dict[tuple[str, str], int] = {}
    for item, relation, tail in known[["item", "relation", "tail"]].itertuples(index=False):
        if counts[relation, tail] > 1:
            number = numbers.setdefault((relation, tail), len(numbers))
            entities[item].setdefault(relation, []).append(number)
    return entities


def _one_a_word(relations: list[str]) -> list[str]:
    """Relations that are said by different words, the first of each."""
    return list({RELATION_WORDS[relation]: relation for relation in reversed(relations)}.values())[::-1]


def decade(year: int) -> str:
    """`1995` is `1990s`."""
    return f"{year // 10 * 10}s"

"""Is a justification true? It cites only what the user has had, and states only facts.

A sentence with a citation speaks of both items: whatever it states must hold of the recommended item *and* of every
item that it cites. Words that are neither plain text nor a known fact (a name, a number) are statements that nobody
can check, and count as false.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from llmrec.catalogue.facts import FactBook
from llmrec.catalogue.prompt import Recommendation


@dataclass(frozen=True)
class Groundedness:
    """What was checked in one justification.

    Attributes:
        true: statements that hold, citations included.
        statements: all statements.
        cites: it cites at least one item, or there was nothing to cite.
        informs: it states at least one fact, or nothing is known of the item.
        finished: the policy ended it by itself.
    """

    true: int
    statements: int
    cites: bool
    informs: bool
    finished: bool

    @property
    def score(self) -> float:
        """Share of true statements in [0, 1]; 0 for one that broke off, states no fact, or cites nothing."""
        whole = self.cites and self.informs and self.finished and self.statements
        return self.true / self.statements if whole else 0.0

    @property
    def grounded(self) -> bool:
        """Everything holds."""
        return self.score == 1.0


def check(facts: FactBook, recommendation: Recommendation, history: Collection[int]) -> Groundedness:
    """Checks a justification against the facts and the user's history.

    Args:
        facts: what is known of the items.
        recommendation: a parsed completion.
        history: item indices that the user has had.
    """
    true = statements = stated = 0
    for text, cited in sentences(recommendation):
        found, rest = facts.find(text)
        unknown = unknown_words(rest)
        statements += len(found) + len(cited) + len(unknown)
        stated += len(found)
        true += sum(item in history for item in cited)
        true += sum(facts.is_true(fact, recommendation.item, cited) for fact in found)
    cites = bool(recommendation.citations) or not history
    item = recommendation.item
    informs = stated > 0 or (item >= 0 and not facts.of(item))
    return Groundedness(true, statements, cites, informs, recommendation.finished and item >= 0)


def sentences(recommendation: Recommendation) -> list[tuple[str, tuple[int, ...]]]:
    """The justification's sentences: text without citations, and what each cites.

    Split before titles are put in: a title may itself hold a full stop.
    """
    result: list[tuple[str, tuple[int, ...]]] = []
    text, cited = "", []
    for segment in recommendation.segments:
        if isinstance(segment, int):
            cited.append(segment)
            text += " , "  # a citation parts the words around it
            continue
        *ended, rest = re.split(r"[.!?]", segment)
        for end in ended:
            result.append((text + end, tuple(cited)))
            text, cited = "", []
        text += rest
    if text.strip() or cited:
        result.append((text, tuple(cited)))
    return result


def unknown_words(text: str) -> list[str]:
    """Capitalised words inside a sentence and words with digits: names and numbers that no fact explains."""
    words = re.findall(r"[\w'-]+", text)
    return [w for i, w in enumerate(words) if any(c.isdigit() for c in w) or (i > 0 and w[0].isupper())]

"""Is a justification true? It cites only what the user has had, and states only facts.

A sentence with a citation speaks of both items: whatever it states must hold of the recommended item *and* of every
item that it cites. Words that are neither plain text nor a known fact (a name, a number) are statements that nobody
can check, and count as false.

And is it honest? A citation that is true may still have had no part in the choice. `faithfulness` asks the policy: with
the cited items dropped from its prompt, the recommended item must become less likely.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby

from llmrec.catalogue.facts import FactBook
from llmrec.language.prompt import Recommendation
from llmrec.language.templates import Segment


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
    said = [mark for mark in marks(facts, recommendation, history) if mark.true is not None]
    true, stated = sum(mark.true for mark in said), any(mark.fact for mark in said)
    cites = bool(recommendation.citations) or not history
    item = recommendation.item
    informs = stated or (item >= 0 and not facts.facts_of(item))
    return Groundedness(true, len(said), cites, informs, recommendation.finished and item >= 0)


@dataclass(frozen=True)
class Mark:
    """A stretch of a justification and what the checker says of it.

    Attributes:
        segment: its text, or the item that is cited.
        true: whether it holds; None where nothing is stated.
        fact: it states a fact of the catalogue.
    """

    segment: Segment
    true: bool | None
    fact: bool = False


def marks(facts: FactBook, recommendation: Recommendation, history: Collection[int]) -> list[Mark]:
    """A justification cut into statements and the words between them, in order; nothing is left out.

    A name or number that no fact explains (a word with a digit, a capitalised one inside a sentence) is a false
    statement. Arguments as of `check`, which counts these.
    """
    said = []
    for sentence in sentences(recommendation):
        cited = tuple(piece for piece in sentence if isinstance(piece, int))
        opening = True  # the first word of a sentence may be capitalised
        for piece in sentence:
            if isinstance(piece, int):
                said.append(Mark(piece, piece in history))
                opening = False
                continue
            for text, fact in facts.split(piece):
                if fact is not None:
                    said.append(Mark(text, facts.is_true(fact, recommendation.item, cited), fact=True))
                    opening = False
                    continue
                for word in re.findall(r"[\w'-]+|[^\w'-]+", text):
                    unknown = any(c.isdigit() for c in word) or (word[0].isupper() and not opening)
                    said.append(Mark(word, False if unknown else None))
                    opening = opening and not re.match(r"[\w'-]", word)
    return _joined(said)


def _joined(said: list[Mark]) -> list[Mark]:
    """Marks with the words that state nothing put together."""
    runs = [(plain, list(group)) for plain, group in groupby(said, key=lambda mark: mark.true is None)]
    joined = [[Mark("".join(mark.segment for mark in run), None)] if plain else run for plain, run in runs]
    return [mark for run in joined for mark in run]


def sentences(recommendation: Recommendation) -> list[list[Segment]]:
    """Texts and citations of each sentence, in order; its last text holds its stop.

    Split before titles are put in: a title may itself hold a full stop.
    """
    result: list[list[Segment]] = [[]]
    for segment in recommendation.segments:
        if isinstance(segment, int):
            result[-1].append(segment)
            continue
        for text in re.findall(r"[^.!?]*[.!?]|[^.!?]+$", segment):
            result[-1].append(text)
            if text[-1] in ".!?":
                result.append([])
    return [pieces for pieces in result if pieces]

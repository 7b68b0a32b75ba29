"""Groundedness: checks finished justifications against the facts and the user's history.

A justification is grounded if it cites only seen items and states only true facts. A fact in a sentence with citations
must hold for the recommended item *and* for every cited item. A name or a number that no fact explains is a statement
that cannot be checked, and counts as false.

The check shares the facts with the mask of `policy.decoding`, but none of its code. Whether the choice depends on the
cited items is measured by `evaluation.faithfulness`.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby

from llmrec.catalogue.facts import FactBook
from llmrec.language.prompt import Recommendation
from llmrec.language.templates import Segment


@dataclass(frozen=True)
class Groundedness:
    """The result of checking one justification.

    Attributes:
        true: number of true statements, citations included.
        statements: number of statements.
        cites: it cites at least one item, or the history is empty.
        informs: it states at least one fact, or no fact of the item is known.
        finished: it ended with the end token.
    """

    true: int
    statements: int
    cites: bool
    informs: bool
    finished: bool

    @property
    def score(self) -> float:
        """Share of true statements in [0, 1]; 0 if the text is truncated, states no fact, or cites nothing."""
        whole = self.cites and self.informs and self.finished and self.statements
        return self.true / self.statements if whole else 0.0

    @property
    def grounded(self) -> bool:
        """Every statement is true, and the justification is complete."""
        return self.score == 1.0


def check(facts: FactBook, recommendation: Recommendation, history: Collection[int]) -> Groundedness:
    """Checks a justification against the facts and the user's history.

    Args:
        facts: the facts of all items.
        recommendation: a parsed completion.
        history: indices of seen items.
    """
    made = [one for one in statements(facts, recommendation, history) if one.true is not None]
    item = recommendation.item
    return Groundedness(
        true=sum(1 for one in made if one.true),
        statements=len(made),
        cites=bool(recommendation.citations) or not history,
        informs=any(one.fact for one in made) or (item >= 0 and not facts.facts_of(item)),
        finished=recommendation.finished and item >= 0,
    )


@dataclass(frozen=True)
class Statement:
    """A stretch of a justification and whether it is true.

    Attributes:
        segment: its text, or the cited item.
        true: whether it is true; None for plain words, which state nothing.
        fact: it states a fact of the catalogue.
        about: indices of the items of which it states something: the recommended item and those that the sentence
            cites, or the cited item itself. Empty for plain words, and for names and numbers that no fact explains.
    """

    segment: Segment
    true: bool | None
    fact: bool = False
    about: tuple[int, ...] = ()

    def text(self, titles: Sequence[str]) -> str:
        """The stretch as `Recommendation.text` writes it."""
        return f' "{titles[self.segment]}"' if isinstance(self.segment, int) else self.segment


def statements(facts: FactBook, recommendation: Recommendation, history: Collection[int]) -> list[Statement]:
    """Cuts a justification into statements and the words between them, in order; nothing is left out.

    A word with a digit, or with a capital letter inside a sentence, is a name or number that no fact explains. It is
    a false statement. Arguments as in `check`.
    """
    found: list[Statement] = []
    for sentence in sentences(recommendation):
        cited = tuple(piece for piece in sentence if isinstance(piece, int))
        opening = True  # the first word of a sentence may be capitalised
        for piece in sentence:
            if isinstance(piece, int):
                found.append(Statement(piece, piece in history, about=(piece,)))
                opening = False
                continue
            for text, fact in facts.split(piece):
                if fact is not None:
                    true = facts.is_true(fact, recommendation.item, cited)
                    found.append(Statement(text, true, fact=True, about=(recommendation.item, *cited)))
                    opening = False
                    continue
                for word in re.findall(r"[\w'-]+|[^\w'-]+", text):
                    unknown = any(c.isdigit() for c in word) or (word[0].isupper() and not opening)
                    found.append(Statement(word, False if unknown else None))
                    opening = opening and not re.match(r"[\w'-]", word)
    return _joined(found)


def _joined(found: list[Statement]) -> list[Statement]:
    """The same stretches, with neighboring plain words joined to one."""
    joined: list[Statement] = []
    for plain, run in groupby(found, key=lambda one: one.true is None):
        stretches = list(run)
        text = "".join(str(one.segment) for one in stretches)
        joined += [Statement(text, None)] if plain else stretches
    return joined


def sentences(recommendation: Recommendation) -> list[list[Segment]]:
    """Texts and citations of each sentence, in order. The last text of a sentence holds its full stop.

    Titles are not inserted yet, because a title may itself hold a full stop.
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

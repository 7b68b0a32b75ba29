"""The grammar of a completion: two tables define which kind of token may come next.

    completion    = item, justification, end
    justification = one or more sentences
    sentence      = any mix of words, citations and facts, then a stop
    citation      = opener, an item of the user's history

`TRANSITIONS` says which region the next token leads to. `TEXT_RULES` says which kinds of token a justification may
continue with. The templates that follow this grammar are in `language.templates`, and `language.groundedness` checks
finished text without it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import torch

from llmrec.catalogue.facts import FactBook
from llmrec.language.prompt import PromptBuilder
from llmrec.language.templates import CITATION_SENTENCE, FACT_SENTENCE, all_texts


class Region(IntEnum):
    """Where the next token of a completion stands."""

    ITEM = 0  # the recommended item
    TEXT = 1  # the justification, outside of citations and facts
    CITE = 2  # a cited item
    FACT = 3  # a fact of several tokens
    DONE = 4  # after the end


ITEM, TEXT, CITE, FACT, DONE = Region


class Event(IntEnum):
    """What a token does to a completion."""

    WORD = 0  # plain text
    OPENER = 1  # opens a citation
    STOP = 2  # ends a sentence
    END = 3  # ends the completion
    SPAN = 4  # continues an item, a citation or a fact
    SPAN_END = 5  # completes an item, a citation or a fact


# The region after a token. Rows: the region before it. Columns: its event.
TRANSITIONS: dict[Region, tuple[Region, ...]] = {
    #      WORD  OPENER STOP  END   SPAN  SPAN_END
    ITEM: (ITEM, ITEM, ITEM, ITEM, ITEM, TEXT),
    TEXT: (TEXT, CITE, TEXT, DONE, FACT, TEXT),
    CITE: (CITE, CITE, CITE, CITE, CITE, TEXT),
    FACT: (FACT, FACT, FACT, FACT, FACT, TEXT),
    DONE: (DONE, DONE, DONE, DONE, DONE, DONE),
}


class TextState(Protocol):
    """What the rules of a justification need to know, bool [R] each unless said otherwise.

    Attributes:
        sentence: number of sentences that have ended, int64 [R].
        opening: the sentence has no token yet.
        can_cite: an item of the history may be cited now.
        cited: the justification has cited an item.
        cited_here: the sentence has cited an item.
        stated: the justification has stated a fact.
        needs_citation: there is a history, and nothing of it has been cited.
        needs_fact: facts are known, and none has been stated.
        no_common_fact: the item has facts, but shares no category with the history.
    """

    @property
    def sentence(self) -> torch.Tensor: ...
    @property
    def opening(self) -> torch.Tensor: ...
    @property
    def can_cite(self) -> torch.Tensor: ...
    @property
    def cited(self) -> torch.Tensor: ...
    @property
    def cited_here(self) -> torch.Tensor: ...
    @property
    def stated(self) -> torch.Tensor: ...
    @property
    def needs_citation(self) -> torch.Tensor: ...
    @property
    def needs_fact(self) -> torch.Tensor: ...
    @property
    def no_common_fact(self) -> torch.Tensor: ...


class TextClass(IntEnum):
    """Kinds of token in a justification. The facts that may be stated are decided one by one, outside of this table."""

    WORD = 0  # words and punctuation
    NAME = 1  # words with a capital letter or a digit, which elsewhere would read as an unknown name or number
    FACT_SENTENCE = 2  # plain words of the sentence that only states facts
    FACT_SENTENCE_NAME = 3  # its words with a capital letter
    CITATION_SENTENCE = 4  # plain words of the sentence that only cites
    CITATION_SENTENCE_NAME = 5  # its words with a capital letter
    OPENER = 6
    STOP = 7
    END = 8


def _joint(state: TextState) -> torch.Tensor:
    """A sentence may both cite and state facts, because the item shares a fact with the history."""
    return ~state.no_common_fact


def _fact_sentence(state: TextState) -> torch.Tensor:
    """Nothing is in common: the first sentence states a fact of the item."""
    return state.no_common_fact & (state.sentence == 0) & ~state.stated


def _citation_sentence(state: TextState) -> torch.Tensor:
    """Nothing is in common: the second sentence cites an item."""
    return state.no_common_fact & (state.sentence == 1) & ~state.cited


def _stops_apart(state: TextState) -> torch.Tensor:
    """Nothing is in common: the sentence has said what it is for."""
    first = (state.sentence == 0) & state.stated
    second = (state.sentence == 1) & state.cited
    return state.no_common_fact & (first | second)


def _complete(state: TextState) -> torch.Tensor:
    """The justification has cited an item and stated a fact, where there is anything to cite and to state."""
    return ~(state.needs_citation | state.needs_fact)


# Which rows may continue with a token of each class. Until a fact is stated one citation is enough: policies that
# missed the place of the fact would go on citing.
TEXT_RULES: dict[TextClass, Callable[[TextState], torch.Tensor]] = {
    TextClass.WORD: _joint,
    TextClass.NAME: lambda s: _joint(s) & s.opening,
    TextClass.FACT_SENTENCE: _fact_sentence,
    TextClass.FACT_SENTENCE_NAME: lambda s: _fact_sentence(s) & s.opening,
    TextClass.CITATION_SENTENCE: _citation_sentence,
    TextClass.CITATION_SENTENCE_NAME: lambda s: _citation_sentence(s) & s.opening,
    TextClass.OPENER: lambda s: s.can_cite & (_joint(s) & ~(s.cited_here & s.needs_fact) | _citation_sentence(s)),
    TextClass.STOP: lambda s: _joint(s) & _complete(s) & ~s.opening | _stops_apart(s),
    TextClass.END: lambda s: (
        _joint(s) & _complete(s) & s.opening & (s.sentence > 0) | s.no_common_fact & (s.sentence > 1)
    ),
}


@dataclass(frozen=True)
class TokenClasses:
    """Token ids by their part in a justification.

    Attributes:
        words: ids that plain text may use.
        names: those of `words` that hold a capital letter or a digit.
        fact_sentence: those of `words` in the sentence that only states facts.
        citation_sentence: those of `words` in the sentence that only cites.
        facts: ids that state each fact, [F] sequences. The first id of each means a fact wherever it stands.
        opener: the id that opens a citation.
        stop: the id that ends a sentence.
        end: the id that ends a completion.
    """

    words: frozenset[int]
    names: frozenset[int]
    fact_sentence: frozenset[int]
    citation_sentence: frozenset[int]
    facts: tuple[tuple[int, ...], ...]
    opener: int
    stop: int
    end: int

    @classmethod
    def from_prompts(cls, prompts: PromptBuilder, facts: FactBook) -> "TokenClasses":
        """The classes under the tokenizer of a prompt builder."""
        words = frozenset(token for text in all_texts() for token in prompts.words(text))
        decoded = {token: prompts.text.decode([token]) for token in words}
        return cls(
            words=words,
            names=frozenset(t for t, text in decoded.items() if any(c.isupper() or c.isdigit() for c in text)),
            fact_sentence=frozenset(prompts.words(FACT_SENTENCE)),
            citation_sentence=frozenset(prompts.words(CITATION_SENTENCE)),
            facts=tuple(tuple(prompts.words(fact.words)) for fact in facts.facts),
            opener=prompts.opener,
            stop=prompts.stop,
            end=prompts.end,
        )

    def vocabulary(self) -> list[int]:
        """All ids that a justification can hold outside of citations, ascending, [K]."""
        fact_ids = {token for sequence in self.facts for token in sequence}
        return sorted({*self.words, *fact_ids, self.opener, self.stop, self.end})

    def members(self) -> dict[TextClass, frozenset[int]]:
        """The ids of each class of `TEXT_RULES`. First ids of facts are in none: `TEXT_RULES` does not decide them."""
        members = {
            TextClass.WORD: self.words - self.names - {self.opener, self.stop, self.end},
            TextClass.NAME: self.names,
            TextClass.FACT_SENTENCE: self.fact_sentence - self.names,
            TextClass.FACT_SENTENCE_NAME: self.fact_sentence & self.names,
            TextClass.CITATION_SENTENCE: self.citation_sentence - self.names - {self.opener},
            TextClass.CITATION_SENTENCE_NAME: self.citation_sentence & self.names,
            TextClass.OPENER: frozenset([self.opener]),
            TextClass.STOP: frozenset([self.stop]),
            TextClass.END: frozenset([self.end]),
        }
        starts_of_facts = frozenset(sequence[0] for sequence in self.facts)
        return {kind: ids - starts_of_facts for kind, ids in members.items()}

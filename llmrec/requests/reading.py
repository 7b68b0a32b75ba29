"""Reads requests that people type: refuses what no model can use, and finds the conditions that a text names.

The policy reads the text itself. What is found here only serves to tell people what was recognized, which items satisfy
it, and that no item does.
"""

import re
import unicodedata
from functools import cached_property

import numpy as np

from llmrec.catalogue.names import folded
from llmrec.errors import CatalogueError, UserError
from llmrec.requests.attributes import Attributes
from llmrec.requests.request import LIKE, Condition, Request
from llmrec.requests.wording import Wording, english, joined

LONGEST = 300  # characters of a request
SHOWN = 40  # characters of a request that an error message shows
NEGATIONS = ("not", "no", "without", "nothing", "never", "neither", "isn't", "don't", "except", "outside", "avoid")
NEGATIONS_OF_TWO = (("other", "than"), ("far", "from"), ("anything", "but"))
JOINERS = frozenset({"or", "nor"})  # words between two values that share a negation
REACH = 5  # words between a negation and its value at most
_TOKEN = re.compile(r"[^\W_]+(?:['&/-][^\W_]+)*|[,.;:!?]")


def checked(text: str) -> str:
    """The text of a request with single spaces.

    Raises:
        UserError: it is empty, too long, or written in another script than the requests of training.
    """
    plain = " ".join(text.split())
    if not plain:
        raise UserError(
            'The request is empty; expected a sentence such as "something funny from the eighties". Leave the request '
            "out to get recommendations without one."
        )
    if len(plain) > LONGEST:
        raise UserError(
            f'The request "{plain[:SHOWN]}..." has {len(plain):,} characters; expected at most {LONGEST}. Shorten it.'
        )
    if any(unicodedata.category(character) == "Cs" for character in plain):
        shown = plain[:SHOWN].encode(errors="backslashreplace").decode()
        raise UserError(f'The request "{shown}" holds half of a character. Write it as UTF-8 text.')
    letters = [letter for letter in plain if letter.isalpha()]
    foreign = [letter for letter in letters if not unicodedata.name(letter, "").startswith("LATIN")]
    if not letters or 2 * len(foreign) > len(letters):
        found = f"the script of {foreign[0]!r}" if foreign else "no letters"
        raise UserError(
            f'The request "{plain[:SHOWN]}" is written in {found}; expected English words, because requests of '
            "training are English. Write it in English."
        )
    return plain


class Reader:
    """Finds conditions in the words of people.

    Args:
        attributes: attributes of the items.
        wording: the grammar; its words of values are looked up, and its forms of `like`.
    """

    def __init__(self, attributes: Attributes, wording: Wording | None = None):
        self.attributes = attributes
        self.wording = wording or english()

    def read(self, text: str) -> Request:
        """The request that a text states, with the conditions that were recognized, in order.

        Raises:
            UserError: see `checked`.
        """
        plain = checked(text)
        tokens = _tokens(plain)
        found: list[Condition] = []
        negated_until = -1  # last position that a negation reaches
        position = 0
        while position < len(tokens):
            token = tokens[position]
            if token in NEGATIONS or tokens[position : position + 2] in NEGATIONS_OF_TWO:
                negated_until = position + REACH
            elif not token[0].isalnum() or (token == "but" and tokens[position - 1] != "anything"):
                negated_until = -1
            match = self._title_after(tokens, position) or self._value_at(tokens, position)
            if match is None:
                position += 1
                continue
            (attribute, value), length = match
            negated = position <= negated_until
            found.append(Condition(attribute, value, negated))
            position += length
            goes_on = negated and position < len(tokens) and tokens[position] in JOINERS
            negated_until = position + REACH if goes_on else -1
        return Request(plain, tuple(dict.fromkeys(found)))

    def check_satisfiable(self, request: Request, available: np.ndarray) -> None:
        """Checks that an item satisfies what was recognized in a request.

        Args:
            request: a request that `read` gave.
            available: items that may be recommended, bool [N].

        Raises:
            CatalogueError: no item does. The message names the largest parts of the request that items satisfy.
        """
        conditions = request.conditions
        if not conditions or (self.attributes.satisfied(conditions) & available).any():
            return
        counts = {}
        for left_out in range(len(conditions)):
            rest = conditions[:left_out] + conditions[left_out + 1 :]
            if rest:
                counts[joined(rest)] = int((self.attributes.satisfied(rest) & available).sum())
        nearest = [f"{name} ({count:,} item{'s' * (count > 1)})" for name, count in counts.items() if count]
        advice = f"Nearest: {' or '.join(nearest)}." if nearest else "Ask for something else."
        raise CatalogueError(
            f'No item that the person has not seen satisfies "{request.text}", which was read as: '
            f"{joined(conditions)}. {advice}"
        )

    def _value_at(self, tokens: tuple[str, ...], position: int) -> tuple[tuple[str, str], int] | None:
        """The longest value that begins at a position, and its number of words."""
        for length in range(min(self._longest, len(tokens) - position), 0, -1):
            found = self._values.get(tokens[position : position + length])
            if found is not None:
                return found, length
        return None

    def _title_after(self, tokens: tuple[str, ...], position: int) -> tuple[tuple[str, str], int] | None:
        """The title that follows a word for likeness at a position, and the number of words of both."""
        for lead in self._leads:
            if tokens[position : position + len(lead)] != lead:
                continue
            start = position + len(lead)
            for length in range(min(self._longest_title, len(tokens) - start), 0, -1):
                title = self._titles.get(tokens[start : start + length])
                if title is not None:
                    return (LIKE, title), len(lead) + length
        return None

    @cached_property
    def _values(self) -> dict[tuple[str, ...], tuple[str, str]]:
        """Attribute and value by the words that name it; of values that share a word, the one of most items."""
        found: dict[tuple[str, ...], tuple[str, str]] = {}
        by_size = sorted(self.attributes.members, key=lambda key: len(self.attributes.members[key]))
        for key in by_size:
            for word in self.wording.all_words(key[1]):
                found[_tokens(word)] = key
        found.pop((), None)
        return found

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._values), default=0)

    @cached_property
    def _leads(self) -> list[tuple[str, ...]]:
        leads = [_tokens(lead) for lead in self.wording.leads(LIKE)]
        return sorted((lead for lead in leads if not set(NEGATIONS) & set(lead)), key=len, reverse=True)

    @cached_property
    def _titles(self) -> dict[tuple[str, ...], str]:
        """Titles by their words, with and without the year."""
        without_year = {_tokens(re.sub(r" \(\d{4}\)$", "", title)): title for title in reversed(self.attributes.titles)}
        found = without_year | {_tokens(title): title for title in self.attributes.titles}
        found.pop((), None)
        return found

    @cached_property
    def _longest_title(self) -> int:
        return max(map(len, self._titles), default=0)


def _tokens(text: str) -> tuple[str, ...]:
    """Words and marks of punctuation of a text, without regard to case."""
    return tuple(_TOKEN.findall(folded(text)))

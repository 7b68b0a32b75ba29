"""The checker of free texts: reads a finished string, and says which of its statements the catalogue supports.

It finds mentions of titles, categories, years, decades, people, brands and prices. A statement is supported or
contradicted if the tables hold what it is about, else unverifiable. The checker shares no code with the templates and
their mask (`language.groundedness`), so it can show their mistakes. English only.

Where a sentence leaves open of what it speaks, the reading that is true counts: in `like the thriller "Heat"`, the
category may be that of the seen item.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from llmrec.catalogue.item_table import ItemRow, ItemTable
from llmrec.language.english import (
    ADDRESSES,
    ALWAYS_TOPICS,
    ARTICLES,
    BEFORE_TOPICS,
    DECADES,
    KINDS_OF_ITEM,
    MITIGATORS,
    NEGATIONS,
    PRONOUNS,
    ROLE_CUES,
    SEEING,
    SETTINGS,
    TITLE_CUES,
    TOPICS,
)
from llmrec.language.mention_keys import category_keys, title_keys
from llmrec.language.words import Word, key_of, read_words

REACH = 5  # words between a negation and what it denies, at most
NEAR = 4  # words between a seen title and what is said of it, at most
SHORT_TITLE = 3  # words from which a title counts in lower case as well
_PRICE = re.compile(
    r"[$€£¥]\s?([0-9][0-9,]*(?:\.[0-9]+)?)|([0-9][0-9,]*(?:\.[0-9]+)?)\s(?:dollars|euros|pounds|usd|eur)\b", re.I
)
_BELOW = ("under", "below", "less than", "cheaper than", "up to")
_ABOVE = ("over", "above", "more than")


class Verdict(StrEnum):
    """What the catalogue says of a statement."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNVERIFIABLE = "unverifiable"


@dataclass(frozen=True)
class Claim:
    """A statement of a text.

    Attributes:
        start: position of its first character.
        stop: position after its last character.
        kind: `title`, `category`, `year`, `decade`, `person`, `brand`, `price`, `name` or `number`.
        verdict: what the catalogue says of it.
    """

    start: int
    stop: int
    kind: str
    verdict: Verdict


@dataclass(frozen=True)
class _Mention:
    """Words that name something of the catalogue: `first` to `last`, both included."""

    first: int
    last: int
    kind: str
    key: tuple[str, ...]
    candidates: tuple[int, ...] = ()


class Checker:
    """Checks texts about the items of a catalogue.

    Args:
        table: what the catalogue says of its items.
    """

    def __init__(self, table: ItemTable):
        self.table = table
        self._titles: dict[tuple[str, ...], set[int]] = defaultdict(set)
        self._values: dict[str, dict[tuple[str, ...], set[str]]] = {
            kind: defaultdict(set) for kind in ("category", "person", "brand")
        }
        for item, row in enumerate(table.rows):
            for key in title_keys(row.title):
                self._titles[key].add(item)
            for name in row.categories:
                for key in category_keys(name):
                    self._values["category"][key].add(name)
            for _, name in row.people:
                self._values["person"][key_of(name)].add(name)
            for name in row.brands:
                self._values["brand"][key_of(name)].add(name)
        for index in (self._titles, *self._values.values()):
            index.pop((), None)
        self._longest_title = max(map(len, self._titles), default=0)
        self._longest_value = {kind: max(map(len, index), default=0) for kind, index in self._values.items()}

    def check(self, text: str, item: int, history: Collection[int]) -> list[Claim]:
        """Finds the statements of a text, in order. The name of the item itself is none.

        Args:
            text: a justification, with titles.
            item: index of the recommended item.
            history: indices of the items that the user has seen.
        """
        words = read_words(text)
        mentions = self._mentions(words)
        reading = _Reading(self.table, words, mentions, item, frozenset(history))
        claims = [claim for mention in mentions if (claim := reading.judge(mention)) is not None]
        taken = {number for mention in mentions for number in range(mention.first, mention.last + 1)}
        prices = reading.prices(text)
        claims += prices
        claims += reading.surnames(taken)
        claims += reading.unknown({*taken, *reading.named}, prices)
        return sorted(claims, key=lambda claim: (claim.start, claim.stop))

    def _mentions(self, words: Sequence[Word]) -> list[_Mention]:
        """Mentions from left to right, each the longest that begins at its word; titles come first."""
        found: list[_Mention] = []
        position = 0
        while position < len(words):
            mention = self._title_at(words, position) or self._value_at(words, position) or _time_at(words, position)
            if mention is None:
                position += 1
            else:
                found.append(mention)
                position = mention.last + 1
        return found

    def _title_at(self, words: Sequence[Word], first: int) -> _Mention | None:
        for length in range(min(self._longest_title, len(words) - first), 0, -1):
            last = first + length - 1
            key = tuple(word.key for word in words[first : last + 1])
            items = self._titles.get(key)
            if items is None or any(word.quoted_before for word in words[first + 1 : last + 1]):
                continue
            dated = [item for item in items if _is_year(words, last + 1, self.table[item].year)]
            if dated or _reads_as_title(words, first, last):
                end = last + 1 if dated else last
                return _Mention(first, end, "title", key, tuple(sorted(dated or items)))
        return None

    def _value_at(self, words: Sequence[Word], first: int) -> _Mention | None:
        for kind, index in self._values.items():
            for length in range(min(self._longest_value[kind], len(words) - first), 0, -1):
                key = tuple(word.key for word in words[first : first + length])
                if key not in index or any(word.quoted_before for word in words[first + 1 : first + length]):
                    continue
                if kind != "category" and length == 1 and not (words[first].capital and not words[first].opens):
                    continue
                return _Mention(first, first + length - 1, kind, key)
        return None


class _Reading:
    """The words of one text with what is known of its item and its user.

    Args:
        table: what the catalogue says of its items.
        words: the words of the text.
        mentions: what they name.
        item: index of the recommended item.
        history: indices of seen items.
    """

    def __init__(
        self,
        table: ItemTable,
        words: Sequence[Word],
        mentions: Sequence[_Mention],
        item: int,
        history: frozenset[int],
    ):
        self.table = table
        self.words = words
        self.item = item
        self.row = table[item]
        self.history = history
        self.named: set[int] = set()  # words that `surnames` has found
        self.categories = {mention.first for mention in mentions if mention.kind == "category"}
        self.cited = [
            (mention, [one for one in mention.candidates if one in history])
            for mention in mentions
            if mention.kind == "title" and item not in mention.candidates
        ]

    def judge(self, mention: _Mention) -> Claim | None:
        """The statement that a mention makes, if it makes any."""
        if mention.kind == "title":
            return self._of_title(mention)
        if mention.kind == "category" and self._is_topic(mention):
            return None
        known, holds = self._holds(mention, self.row)
        if self._is_negated(mention.first):
            verdict = _verdict(known, not holds)
        elif holds or any(self._holds(mention, self.table[one])[1] for one in self._near(mention)):
            verdict = Verdict.SUPPORTED
        else:
            verdict = _verdict(known, False)
        if mention.kind in ("year", "decade") and verdict is not Verdict.SUPPORTED and self._is_setting(mention.first):
            verdict = Verdict.UNVERIFIABLE
        return self._claim(mention, verdict)

    def _claim(self, mention: _Mention, verdict: Verdict) -> Claim:
        return Claim(self.words[mention.first].start, self.words[mention.last].stop, mention.kind, verdict)

    def _of_title(self, mention: _Mention) -> Claim | None:
        if self.item in mention.candidates:
            return None
        seen = any(one in self.history for one in mention.candidates)
        sentence = {word.key for word in self.words if word.sentence == self.words[mention.first].sentence}
        denies = self._is_negated(mention.first) and self._follows(mention.first, SEEING)
        if seen:
            return self._claim(mention, Verdict.CONTRADICTED if denies else Verdict.SUPPORTED)
        is_false = bool(sentence & ADDRESSES) and not denies
        return self._claim(mention, Verdict.CONTRADICTED if is_false else Verdict.UNVERIFIABLE)

    def _holds(self, mention: _Mention, row: ItemRow) -> tuple[bool, bool]:
        """Whether a row has a value of the kind at all, and whether it has the one that is mentioned."""
        key = mention.key
        if mention.kind == "category":
            return bool(row.categories), any(key in category_keys(name) for name in row.categories)
        if mention.kind == "brand":
            return bool(row.brands), any(key == key_of(name) for name in row.brands)
        if mention.kind == "person":
            role = self._role_before(mention.first)
            named = any(key == key_of(name) for _, name in row.people)
            in_role = [name for of_role, name in row.people if role in (None, of_role)]
            right = any(key == key_of(name) for name in in_role)
            return bool(in_role) and not (named and not right), right
        stated = int(key[0])
        if mention.kind == "year":
            return row.year is not None, row.year == stated
        return row.year is not None, row.year is not None and row.year // 10 * 10 == stated

    def _near(self, mention: _Mention) -> list[int]:
        """Seen items of which a mention may speak: `the thriller "Heat"`, `Heat came in 1995`, `Heat, a thriller`."""
        return [one for title, items in self.cited if self._speaks_of(title, mention) for one in items]

    def _speaks_of(self, title: _Mention, mention: _Mention) -> bool:
        before, after = sorted((title, mention), key=lambda one: one.first)
        between = self.words[before.last + 1 : after.first]
        if len(between) > NEAR or any(word.key in PRONOUNS for word in between):
            return False
        if self.words[before.last].clause == self.words[after.first].clause:
            return True
        same_sentence = self.words[title.first].sentence == self.words[mention.first].sentence
        return same_sentence and title is before and bool(between) and between[0].key in ARTICLES

    def _is_negated(self, first: int) -> bool:
        """Whether a negation in the same clause reaches a word."""
        for number in range(first - 1, max(-1, first - 2 - REACH), -1):
            if self.words[number].clause != self.words[first].clause or self.words[number].key == "but":
                return False
            if self.words[number].key in NEGATIONS:
                return self.words[number + 1].key not in MITIGATORS
        return False

    def _follows(self, first: int, keys: frozenset[str]) -> bool:
        """Whether one of some words stands shortly before a word."""
        return any(word.key in keys for word in self.words[max(0, first - REACH) : first])

    def _is_topic(self, mention: _Mention) -> bool:
        """Whether a category word says what happens, as in `the war`."""
        word = mention.key[-1]
        after = self.words[mention.last + 1].key if mention.last + 1 < len(self.words) else ""
        before = self.words[mention.first - 1].key if mention.first else ""
        if after in KINDS_OF_ITEM or (word not in TOPICS and word != "children"):
            return False
        if word == "children":  # `for children` says the category, `the children` does not
            return before != "for"
        qualifies = mention.last + 1 in self.categories  # as in `a crime thriller`
        return before in BEFORE_TOPICS or word in ALWAYS_TOPICS or (word == "crime" and before == "a" and not qualifies)

    def _is_setting(self, first: int) -> bool:
        """Whether a time is when the story is set, or when another work came out."""
        before = tuple(word.key for word in self.words[max(0, first - 6) : first])
        return any(before[i : i + len(cue)] == cue for cue in SETTINGS for i in range(len(before)))

    def _role_before(self, first: int) -> str | None:
        """The role that the nearest of the three words before a name states."""
        for word in reversed(self.words[max(0, first - 3) : first]):
            for role, cues in ROLE_CUES.items():
                if word.key in cues and word.clause == self.words[first].clause:
                    return role
        return None

    def surnames(self, taken: Collection[int]) -> list[Claim]:
        """People of the item or of a seen item whose last name alone is written; others' last names are unknown."""
        of_items = (self.row, *(self.table[one] for _, items in self.cited for one in items))
        names = {key_of(name)[-1] for row in of_items for _, name in row.people if len(key_of(name)) > 1}
        claims: list[Claim] = []
        for number, word in enumerate(self.words):
            if number not in taken and word.capital and word.key in names:
                self.named.add(number)
                claims.append(Claim(word.start, word.stop, "person", Verdict.SUPPORTED))
        return claims

    def prices(self, text: str) -> list[Claim]:
        """Statements about the price."""
        claims: list[Claim] = []
        for match in _PRICE.finditer(text):
            amount = float((match[1] or match[2]).replace(",", ""))
            before = text[: match.start()].lower().rstrip()
            if self.row.price is None:
                verdict = Verdict.UNVERIFIABLE
            elif before.endswith(_BELOW):
                verdict = _verdict(True, self.row.price <= amount)
            elif before.endswith(_ABOVE):
                verdict = _verdict(True, self.row.price >= amount)
            else:
                rounded = amount == int(amount) and abs(self.row.price - amount) < 0.5
                verdict = _verdict(True, rounded or abs(self.row.price - amount) < 0.005)
            claims.append(Claim(match.start(), match.end(), "price", verdict))
        return claims

    def unknown(self, taken: Collection[int], prices: Sequence[Claim]) -> list[Claim]:
        """Names and numbers that the catalogue does not know. Neighboring names are one."""
        claims: list[Claim] = []
        for number, word in enumerate(self.words):
            in_price = any(price.start <= word.start < price.stop for price in prices)
            is_number = word.key[0].isdigit()
            if number in taken or in_price or not (is_number or (word.capital and not word.opens)) or word.key == "i":
                continue
            last = claims[-1] if claims else None
            if last is not None and not is_number and last.kind == "name" and last.stop + 1 == word.start:
                claims[-1] = Claim(last.start, word.stop, "name", Verdict.UNVERIFIABLE)
                continue
            kind = "number" if is_number else "name"
            claims.append(Claim(word.start, word.stop, kind, Verdict.UNVERIFIABLE))
        return claims


def _verdict(known: bool, holds: bool) -> Verdict:
    if not known:
        return Verdict.UNVERIFIABLE
    return Verdict.SUPPORTED if holds else Verdict.CONTRADICTED


def _reads_as_title(words: Sequence[Word], first: int, last: int) -> bool:
    """Whether words that spell a title mean it. Common words need capitals, or the marks of a title."""
    span = words[first : last + 1]
    quoted = span[0].quoted_before and span[-1].quoted_after
    capitals = sum(word.capital or word.key.isdigit() for word in span)
    if len(span) == 1:
        if not span[0].capital or span[0].key.isdigit():
            return quoted and (span[0].capital or span[0].key.isdigit())
        return quoted or not span[0].opens or span[0].listed
    if quoted or len(span) >= SHORT_TITLE:
        return True
    return capitals == len(span) or (first > 0 and words[first - 1].key in TITLE_CUES)


def _time_at(words: Sequence[Word], position: int) -> _Mention | None:
    """A year or a decade at a word."""
    key = words[position].key
    if re.fullmatch(r"[0-9]{4}", key) and 1880 <= int(key) < 2040:
        return _Mention(position, position, "year", (key,))
    if re.fullmatch(r"[0-9]{3}0s", key) and 1880 <= int(key[:-1]) < 2040:
        return _Mention(position, position, "decade", (key[:-1],))
    if re.fullmatch(r"[0-9]0s", key):
        century = 2000 if key in ("00s", "10s") else 1900
        return _Mention(position, position, "decade", (str(century + int(key[:-1])),))
    if key in DECADES:
        return _Mention(position, position, "decade", (str(1920 + 10 * DECADES.index(key)),))
    return None


def _is_year(words: Sequence[Word], position: int, year: int | None) -> bool:
    """Whether the word at a position is a year in brackets."""
    return position < len(words) and year is not None and words[position].key == str(year) and words[position].bracketed

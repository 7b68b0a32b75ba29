"""Words of a finished text with what surrounds them: case, quotation marks, sentences and clauses."""

import re
import unicodedata
from dataclasses import dataclass

_WORD = re.compile(r"[^\W_]*?n['’]t(?![^\W_])|[^\W_]+(?:['’]s(?![^\W_]))?", re.I)  # `isn't`, `1990's`, `Schindler's`
_QUOTES = re.compile(r"[\"“”«»]")
_CLAUSE = re.compile(r"[.,;:!?()]")
_SENTENCE = re.compile(r"[.!?]")
_ABBREVIATIONS = frozenset(["mr", "mrs", "ms", "dr", "st", "jr", "sr", "vs"])


@dataclass(frozen=True)
class Word:
    """A word of a text.

    Attributes:
        key: the word without case, accents, apostrophes and a possessive `'s`.
        start: position of its first character.
        stop: position after its last character.
        capital: it begins with a capital letter.
        opens: it is the first word of a sentence.
        sentence: number of its sentence.
        clause: number of its clause.
        quoted_before: a quotation mark stands between it and the word before.
        quoted_after: a quotation mark stands between it and the word after.
        bracketed: an opening bracket stands right before it.
        listed: a comma or `and` follows, as after a name.
    """

    key: str
    start: int
    stop: int
    capital: bool
    opens: bool
    sentence: int
    clause: int
    quoted_before: bool
    quoted_after: bool
    bracketed: bool
    listed: bool


def read_words(text: str) -> list[Word]:
    """The words of a text, in order."""
    matches = list(_WORD.finditer(text))
    words: list[Word] = []
    sentence, clause = 0, 0
    for number, match in enumerate(matches):
        before = text[matches[number - 1].end() if number else 0 : match.start()]
        after = text[match.end() : matches[number + 1].start() if number + 1 < len(matches) else len(text)]
        following = matches[number + 1][0] if number + 1 < len(matches) else ""
        key = _folded(match[0])
        ends = number > 0 and _SENTENCE.search(before) is not None and not _is_abbreviated(words[-1], before)
        sentence += ends
        clause += number > 0 and _CLAUSE.search(before) is not None
        words.append(
            Word(
                key=key,
                start=match.start(),
                stop=match.end(),
                capital=match[0][0].isupper(),
                opens=number == 0 or ends,
                sentence=sentence,
                clause=clause,
                quoted_before=_QUOTES.search(before) is not None,
                quoted_after=_QUOTES.search(after) is not None,
                bracketed=before.rstrip().endswith(("(", "[")),
                listed=after.startswith(",") or following == "and",
            )
        )
    return words


def key_of(text: str) -> tuple[str, ...]:
    """The keys of the words of a name."""
    return tuple(_folded(word) for word in _WORD.findall(text))


def _is_abbreviated(word: Word, after: str) -> bool:
    """Whether a full stop ends an abbreviation: `Mr.`, or an initial."""
    return after.startswith(".") and (word.key in _ABBREVIATIONS or (len(word.key) == 1 and word.capital))


def _folded(word: str) -> str:
    """A word for comparisons. A decade keeps its `'s`, and so does a word of nothing else."""
    letters = unicodedata.normalize("NFKD", word)
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter)).casefold()
    return re.sub(r"['’]", "", re.sub(r"(?<!\d)['’]s$", "", plain) or plain)

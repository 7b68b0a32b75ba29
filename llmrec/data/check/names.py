"""What the columns of an unknown log are called: the words of a name, and which of llmrec's columns they mean."""

import re

# Words in the names of columns, by what the column is. The first ones are the surest. `a_b` means both words.
NAMES = {
    own: words.split()
    for own, words in {
        "user_id": "user customer visitor member account household reviewer buyer shopper subscriber viewer listener "
        "reader player learner student person consumer guest client uid usr cust hhid kunde nutzer benutzer mitglied "
        "usuario cliente utilisateur profile author cookie device",
        "item_id": "item product sku parent_asin asin movie film article isbn upc ean gtin iid pid book track song "
        "video episode show series anime podcast content news post listing offer game app recipe course job hotel "
        "beer wine dish food streamer stream property restaurant business venue poi place location stock artikel "
        "produkt producto produit artist album doc document page url ad channel store material",
        "timestamp": "timestamp datetime ts time epoch date created dt dat datum zeit zeitpunkt fecha hora when at day",
        "propensity": "propensity pscore probability prob",
        "position": "position slot",
        "event_type": "event action behavior behaviour interaction activity feedback type",
        "rating": "rating star score grade overall bewertung",
        "session_id": "session basket visit invoice receipt",
        "ranking_id": "",
        "split": "",
    }.items()
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ID_WORDS = _words("id ids no nr nummer number code key uuid guid hash sk fk pk idx index")
# Words that say nothing about what a column is.
_FILLERS = _words(
    "the my a parent main original external internal anon anonymous anonymized hashed masked public encoded raw new "
    "full global unique dim unix unixtime utc ms iso local"
)
# Words that mean an id only beside a word of `_ID_WORDS`: `device` alone may be a phone, `content` a text.
_WITH_ID = _words("profile author cookie device content channel page store location stock show material")
_KINDS = _words("type name kind")  # fillers in the name of an event type
_TEXTS = _words("name title")  # stand for ids if there are none
# Words of columns that are something else, whatever other words they have.
_OTHERS = _words(
    "feature features embedding vector age gender sex country city state zip zipcode language lang region price cost "
    "amount quantity qty count total num sum avg average mean std min max share ratio percent category categories "
    "genre brand color colour size weight height description text summary comment length duration ip"
)
_NOT = {
    "user_id": _OTHERS | {"session"},
    "timestamp": _words(
        "birth birthday born dob release released published publication expiry expires expiration end ended until due "
        "modified updated zone timezone spent watch play playtime signup registered joined registration since type "
        "birthdate releasedate"
    ),
    "rating": _words(
        "propensity probability sentiment similarity risk credit predicted prediction popularity helpful max min "
        "avg average mean std count total num n number"
    ),
    "propensity": _words(""),
}
# Words of ids that repeat and are neither users nor items.
_GROUPS = _words("order session basket cart invoice transaction receipt review impression request row index line")
_ALL_WORDS = {word for words in NAMES.values() for phrase in words for word in phrase.split("_")}
_SUFFIXES = ("ids", "id", "nummer", "number", "code", "name", "time", "date", "type", "no", "nr", "key", "hash", "at")


def words_of(name: str) -> list[str]:
    """The words of a name in lower case: `reviewerID`, `reviewer_id` and `reviewerid` are `reviewer` and `id`."""
    camel = re.sub(r"(?<=[a-zß-ÿ])(?=[A-Z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])", "_", name)
    words: list[str] = []
    for word in re.split(r"[\W_]+", camel.lower()):
        words += _parts(word) if word else []
    return words


def _parts(word: str) -> list[str]:
    """A word, cut if it is a known word with a known ending, in singular."""
    if word in _ALL_WORDS or word in _ID_WORDS:
        return [word]
    for suffix in _SUFFIXES:
        stem = word.removesuffix(suffix)
        known = next((one for one in (stem, stem.removesuffix("n"), stem.removesuffix("s")) if one in _ALL_WORDS), None)
        if stem != word and known is not None:
            return [known, suffix]
    singular = word.removesuffix("s")
    return [singular if singular in _ALL_WORDS else word]


# Words in the names of an item table's columns, the surest first.
_OF_ITEMS = {
    "title": (
        _words("title titel titre titulo titolo titles"),
        _words("name bezeichnung headline"),
        _words("product item movie film book artikel produkt article track song description beschreibung"),
    ),
    "categories": (
        _words("category categories kategorie kategorien categoria categorie"),
        _words("genre genres gattung"),
        _words("department section class tags topic"),
        _words("type group"),
    ),
    "year": (_words("year jahr"),),
}
_NO_TITLE = _words(
    "category categories kategorie genre genres brand marke type group colour color department section class store "
    "author artist director actor publisher manufacturer user customer seller url link image img tags language"
)


def rank_of_items(name: str, own: str) -> int | None:
    """How surely a column of an item table is `title`, `categories` or `year`: smaller is surer, None if it is not."""
    words = set(words_of(name))
    if words & _ID_WORDS or (own == "title" and words & _NO_TITLE):
        return None
    return next((place for place, known in enumerate(_OF_ITEMS[own]) if words & known), None)


def rank(name: str, own: str) -> tuple[int, int] | None:
    """How surely a name means one of llmrec's columns; smaller is surer, None if it does not.

    Returns:
        the level (0: llmrec's own name, 1: only words that mean it, 2: other words too, 3: a name or title in place of
        an id), and the place of the word in `NAMES`.
    """
    words = words_of(name)
    if words == own.split("_"):
        return 0, 0
    number, phrase = next(((n, p) for n, p in enumerate(NAMES[own]) if set(p.split("_")) <= set(words)), (-1, ""))
    if number < 0 or _NOT.get(own, _OTHERS) & set(words):
        return None
    rest = [word for word in words if word not in phrase.split("_") and not word.isdigit() and word not in _FILLERS]
    if own in ("timestamp", "rating", "propensity"):
        return (2 if rest else 1), number
    if own in ("event_type", "position"):
        return None if set(rest) - _KINDS else (1, number)
    return _rank_of_id(phrase, number, rest, {"user"} if own == "session_id" else set())


def _rank_of_id(phrase: str, number: int, rest: list[str], fillers: set[str]) -> tuple[int, int] | None:
    """The rank of a column of ids.

    Args:
        phrase: the words that say whose ids they are.
        number: their place.
        rest: other words of the name.
        fillers: those of them that say nothing.
    """
    has_id = bool(rest) and rest[-1] in _ID_WORDS
    others = set(rest) - _ID_WORDS - fillers
    if not has_id and (phrase in _WITH_ID or others - _TEXTS):
        return None
    if not others:
        return 1, 2 * number + (not has_id)
    return (3 if others <= _TEXTS else 2), number


def may_be_guessed(name: str) -> bool:
    """Whether the values of a column may show what it is, because its name does not say that it is something else."""
    return not (_OTHERS | _NOT["rating"] | _NOT["timestamp"] | _GROUPS) & set(words_of(name))

"""What the columns of an unknown log are called: the words of a name, and which of llmrec's columns they mean."""

import re
import unicodedata

# Words in the names of columns, by what the column is. The first ones are the surest. `a_b` means both words. Words
# stand here without accents, as `words_of` gives them.
NAMES = {
    own: words.split()
    for own, words in {
        "user_id": "user customer visitor member account household reviewer buyer shopper subscriber viewer listener "
        "reader player learner student person consumer guest client uid usr cust hhid kunde kd nutzer benutzer "
        "mitglied kaufer besteller usuario cliente comprador utilisateur acheteur internaute membre utente klant "
        "distinct partner contact fullvisitor anonymous amplitude e_mail email mail courriel correo fingerprint "
        "profile author cookie device",
        "item_id": "item product sku parent_asin asin movie film article isbn upc ean gtin iid pid book track song "
        "video episode show series anime podcast content news post listing offer game app recipe course job hotel "
        "beer wine dish food streamer stream property restaurant business venue poi place location stock artikel "
        "art_nr produkt ware producto articulo produit prodotto articolo produto artigo designation libelle "
        "bezeichnung lineitem line_item artist album doc document page url ad channel store material variant",
        "timestamp": "timestamp datetime ts tstamp time epoch date created dt dat datum zeit zeitpunkt fecha hora data "
        "when at day",
        "propensity": "propensity pscore probability prob",
        "position": "position slot rank",
        "event_type": "event action behavior behaviour interaction activity feedback ereignis aktion evenement evento "
        "accion type",
        "rating": "rating star score grade overall bewertung",
        "session_id": "session basket visit invoice receipt",
        "ranking_id": "",
        "split": "",
    }.items()
}


def word_set(text: str) -> frozenset[str]:
    """The words of a text, which stand between spaces."""
    return frozenset(text.split())


_ID_WORDS = word_set(
    "id ids no nr nummer nro num numero number code codigo codice key uuid guid hash sk fk pk idx index ref reference "
    "referencia riferimento identifiant identificador identifier kennung barcode"
)
# Words that say nothing about what a column is.
_FILLERS = word_set(
    "the my a parent main original external internal anon anonymous anonymized hashed masked public encoded raw new "
    "full global unique dim unix unixtime utc ms iso local pseudo properties property prop props traits params context "
    "ecommerce metadata meta payload lineitem line first n de del della du des la le les el der die das des do "
    "da di the of l d"
)
# Words that mean an id on their own.
_CODES = word_set("sku asin isbn upc ean gtin")
# Words that stand beside a mail address without saying that it is something else.
_MAILS = word_set("email mail courriel correo")
_OF_MAILS = word_set(
    "e address adresse direccion order bestell electronico electronique billing shipping payer user customer buyer "
    "client account contact kunde kunden cliente comprador acheteur rechnung rechnungs facturation facturacion login "
    "hash id"
)
# Words that mean an id only beside a word of `_ID_WORDS`: `device` alone may be a phone, `content` a text.
_WITH_ID = word_set("profile author cookie device content channel page store location stock show material")
_KINDS = word_set("type name kind typ art tipo nom nombre")  # fillers in the name of an event type
# Words of texts, which stand for ids if there are none.
_TEXTS = word_set("name title titel titre titulo nom nombre nome bezeichnung designation libelle")
# Words of columns that are something else, whatever other words they have.
_OTHERS = word_set(
    "feature features embedding vector age gender sex country city state zip zipcode language lang region price cost "
    "amount quantity qty count total num sum avg average mean std min max share ratio percent category categories "
    "genre brand color colour size weight height description text summary comment length duration ip menge anzahl "
    "stuck preis betrag summe quantite prix montant cantidad precio importe quantita prezzo quantidade preco list "
    "campaign"
)
_NOT = {
    "user_id": _OTHERS | {"session"},
    "timestamp": word_set(
        "birth birthday born dob release released published publication expiry expires expiration end ended until due "
        "modified updated zone timezone spent watch play playtime signup registered joined registration since type "
        "birthdate releasedate geburts geburt liefer lieferung versand ablauf naissance livraison expedition "
        "nacimiento entrega envio etl offset cancelled canceled fulfilled shipped delivered refunded"
    ),
    "rating": word_set(
        "propensity probability sentiment similarity risk credit predicted prediction popularity helpful max min "
        "avg average mean std count total num n number"
    ),
    "propensity": word_set(""),
}
# Words of ids that repeat and are neither users nor items.
_GROUPS = word_set(
    "order session basket cart invoice transaction receipt review impression request row index line bestell bestellung "
    "auftrag auftrags rechnung rechnungs beleg commande facture pedido factura ordine increment payment"
)
_ALL_WORDS = {word for words in NAMES.values() for phrase in words for word in phrase.split("_")}
_SUFFIXES = ("ids", "id", "nummer", "number", "code", "name", "time", "date", "type", "no", "nr", "key", "hash", "at")
_SUFFIXES += ("bezeichnung", "titel", "email", "mail", "timestamp", "tstamp")
_CUT_FROM_ALL = ("datum", "zeitpunkt", "zeit", "nummer", "nr", "status")  # `Bestelldatum`


def plain(text: str) -> str:
    """Text in lower case and without accents."""
    parts = unicodedata.normalize("NFKD", text.lower())
    return "".join(one for one in parts if not unicodedata.combining(one))


def words_of(name: str) -> list[str]:
    """The words of a name in lower case: `reviewerID`, `reviewer_id` and `reviewerid` are `reviewer` and `id`."""
    camel = re.sub(r"(?<=[a-zß-ÿ])(?=[A-Z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])", "_", name)
    words: list[str] = []
    for word in re.split(r"[\W_]+", plain(camel)):
        words += _parts(word) if word else []
    return words


def _parts(word: str) -> list[str]:
    """A word, cut if it is a known word with a known beginning or ending, in singular."""
    if word in _ALL_WORDS or word in _ID_WORDS:
        return [word]
    for suffix in _SUFFIXES:
        known = _known(word.removesuffix(suffix))
        if word.endswith(suffix) and known is not None:
            return [known, suffix]
    stem = word.removeprefix("id")
    if stem != word and stem in _ALL_WORDS | _GROUPS:
        return [stem, "id"]
    for suffix in _CUT_FROM_ALL:
        if word.endswith(suffix) and word != suffix:
            return [word.removesuffix(suffix), suffix]
    return [_known(word) or word]


def _known(word: str) -> str | None:
    """A known word in singular; None for another."""
    return next((one for one in (word, word.removesuffix("n"), word.removesuffix("s")) if one in _ALL_WORDS), None)


# Words in the names of an item table's columns, the surest first.
_OF_ITEMS = {
    "title": (
        word_set("title titel titre titulo titolo titles"),
        word_set("name bezeichnung headline"),
        word_set("product item movie film book artikel produkt article track song description beschreibung"),
    ),
    "categories": (
        word_set("category categories kategorie kategorien categoria categorie"),
        word_set("genre genres gattung"),
        word_set("department section class tags topic"),
        word_set("type group"),
    ),
    "year": (word_set("year jahr"),),
}
_NO_TITLE = word_set(
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
        return (2 if set(rest) - {"event"} else 1), number
    if own in ("event_type", "position"):
        return None if set(rest) - _KINDS else (1, number)
    if own == "user_id" and set(words) & _MAILS:
        return None if set(words) - _MAILS - _OF_MAILS - _FILLERS else (1, 2 * number + 1)
    return _rank_of_id(phrase, number, rest, {"user"} if own == "session_id" else set())


def _rank_of_id(phrase: str, number: int, rest: list[str], fillers: set[str]) -> tuple[int, int] | None:
    """The rank of a column of ids.

    Args:
        phrase: the words that say whose ids they are.
        number: their place.
        rest: other words of the name.
        fillers: those of them that say nothing.
    """
    has_id = phrase in _CODES or bool(set(rest) & (_ID_WORDS | _CODES))
    others = set(rest) - _ID_WORDS - _CODES - fillers
    if not has_id and (phrase in _WITH_ID or others - _TEXTS):
        return None
    if not others and phrase not in _TEXTS:
        return 1, 2 * number + (not has_id)
    return (3 if others <= _TEXTS else 2), number


def may_be_guessed(name: str) -> bool:
    """Whether the values of a column may show what it is, because its name does not say that it is something else."""
    return not (_OTHERS | _NOT["rating"] | _NOT["timestamp"] | _GROUPS) & set(words_of(name))

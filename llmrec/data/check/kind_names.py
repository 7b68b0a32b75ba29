"""What the names of kinds of events mean: purchases, and what is no sign of interest, by whole words."""

import re

from llmrec.data.check.names import plain

# Words of a purchase, also with a word or an ending that leaves the meaning: `preorder`, `placeorder`, `purchases`.
_PURCHASE = re.compile(
    r"(?:re|pre|place|submit|complete|make)?"
    r"(?:buy|buying|bought|purchas(?:e|ed|ing)|order|ordered|ordering|transact(?:ed|ion)?|checkout|paid|pay|payment"
    r"|sale|sold)(?:s|now|complete|completed|success)?"
    r"|(?:ge)?kauft?|verkauf|bestell(?:t|ung)|bezahlt|achat|achete|commande|compra|comprado|comprada|pedido|pago|pagado"
    r"|acquisto|acquistato"
)
# Beside one of these words a purchase is only near: `begin_checkout`, `order_viewed`, `payment_info`, `on_sale`.
_NEAR_PURCHASE = re.compile(
    r"begin|began|begun|start|initiat|attempt|intent|view|visit|click|page|status|info|history|pending|button|wish"
    r"|quote|draft|request|track|add(?:s|ed|ing)?$|on$|for$|to$|warenkorb|korb$|panier|carrito|angeseh|ansicht|vue$"
)
# Beginnings of words that withdraw an event, in English, German, French, Spanish and Italian.
_WITHDRAWN = (
    r"remov|delet|cancel|refund|return|revers|revok|chargeback|void|withdr|abandon|reject|declin|den(?:y|ied)$|fail"
    r"|error|invalid|expir|disput|restock|fraud"
    r"|storn|retour|ruck(?:gabe|send|erstatt|buch|lauf)|zuruck(?:g|ges)|erstatt|widerruf|abgelehnt|abgebroch|fehlgeschlag"
    r"|entfern|gelosch|gutschrift|annul|rembours|refus|echou|echec|supprim|restitu|rimbors|rifiut|devol|devuelt"
    r"|reembols|anulad|rechaz|fallid|elimin"
)
# Beginnings of other words that say that there was no event, and of events that are no act of the user.
_NO_INTEREST = re.compile(
    r"(?:not|no|non|un|never|nothing|without|dont|didnt|isnt|undo|down|thumbsdown|hid|hide|hides|nicht|kein|nie|ohne"
    rf"|pas|sans|jamais|sin|nunca)$|{_WITHDRAWN}"
    r"|dislik|hate|negativ|downvot|disinterest|notinter|notlik|skip|dismiss|ignor|hidden|mute"
    r"|block(?:s|ed|ing)?$|report(?:s|ed|ing)?$|complain|bounc"
    r"|un(?:like|lik|follow|subscri|fav|sav|bookmark|star|watch|wish|lov|pin|install|paid|sold|interest|vot|purchas"
    r"|bought|buy|order|select|click)"
    r"|impress|shown$|display|expos(?:e|ed|ure|ures)$|remind|notif"
)
_IS_WITHDRAWN = re.compile(_WITHDRAWN)
# The same meaning at the end of a word without separators, such as `ordercancelled` and `itemremoved`.
_ENDS_WITHOUT_INTEREST = re.compile(
    r"(?:remov|delet|refund|return|abandon|reject|declin|fail|skip|dismiss|cancel+)(?:e?d|ation)?$"
)
_NEGATION = re.compile(r"(?:not|no|non|un|never|none|nicht|kein|keine|nie|pas|jamais|sin|nunca)$")
# Beginnings of words of an order that was not paid yet, or never.
_UNSOLD = re.compile(
    r"pend|hold|held|draft|await|wait|unpaid|incomplet|requires|quot|ausst|unbezahlt|wart|entwurf|angebot|offen$|attente"
    r"|impay|brouillon|devis|espera|impag|borrador|presupuest|attesa|bozza"
)


def is_purchase(kind: str) -> bool:
    """Whether a kind of event is a purchase by its name."""
    words = _words(kind)
    near = any(_NEAR_PURCHASE.match(word) for word in words)
    return any(_PURCHASE.fullmatch(word) for word in words) and not near and shows_interest(kind)


def shows_interest(kind: str) -> bool:
    """Whether nothing in the name of a kind of event says that the user lacks interest or did nothing."""
    return not any(_NO_INTEREST.match(word) or _ENDS_WITHOUT_INTEREST.search(word) for word in _words(kind))


def withdraws(state: str) -> bool:
    """Whether the name of a state or column says that something was withdrawn: `refunded`, but not `no refund`."""
    words = _words(state)
    return any(_IS_WITHDRAWN.match(word) for word in words) and not any(_NEGATION.match(word) for word in words)


def is_no_sale(state: str) -> bool:
    """Whether the state of an order says that it was withdrawn or is not paid: `storniert`, `pending`, `not paid`."""
    words = _words(state)
    unpaid = any(_NEGATION.match(word) for word in words) and any(_PURCHASE.fullmatch(word) for word in words)
    return unpaid or withdraws(state) or any(_UNSOLD.match(word) for word in words)


def _words(kind: str) -> list[str]:
    """The words of a name in lower case: `OrderCancelled` and `order_cancelled` are `order` and `cancelled`."""
    bare = re.sub("['’]", "", kind)
    return re.findall(r"[^\W\d_]+", plain(re.sub(r"(?<=[a-zß-ÿ])(?=[A-Z])", "_", bare)))

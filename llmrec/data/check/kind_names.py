"""What the names of kinds of events mean: purchases, and what is no sign of interest, by whole words."""

import re

# Words of a purchase, also with a word or an ending that leaves the meaning: `preorder`, `placeorder`, `purchases`.
_PURCHASE = re.compile(
    r"(?:re|pre|place|submit|complete|make)?"
    r"(?:buy|buying|bought|purchas(?:e|ed|ing)|order|ordered|ordering|transact(?:ed|ion)?|checkout|paid|pay|payment"
    r"|sale|sold)(?:s|now|complete|completed|success)?"
)
# Beside one of these words a purchase is only near: `begin_checkout`, `order_viewed`, `payment_info`, `on_sale`.
_NEAR_PURCHASE = re.compile(
    r"begin|began|begun|start|initiat|attempt|intent|view|visit|click|page|status|info|history|pending|button|wish"
    r"|quote|draft|request|track|add(?:s|ed|ing)?$|on$|for$|to$"
)
# Beginnings of words that withdraw an event or say that there was none, and of events that are no act of the user.
_NO_INTEREST = re.compile(
    r"(?:not|no|non|un|never|nothing|without|dont|didnt|isnt|undo|down|thumbsdown|hid|hide|hides)$"
    r"|remov|delet|cancel|refund|return|revers|revok|chargeback|void|withdr|abandon|reject|declin|den(?:y|ied)$|fail"
    r"|error|invalid|expir|dislik|hate|negativ|downvot|disinterest|notinter|notlik|skip|dismiss|ignor|hidden|mute"
    r"|block(?:s|ed|ing)?$|report(?:s|ed|ing)?$|complain|disput|bounc"
    r"|un(?:like|lik|follow|subscri|fav|sav|bookmark|star|watch|wish|lov|pin|install|paid|sold|interest|vot|purchas"
    r"|bought|buy|order|select|click)"
    r"|impress|shown$|display|expos(?:e|ed|ure|ures)$|remind|notif"
)
# The same meaning at the end of a word without separators, such as `ordercancelled` and `itemremoved`.
_ENDS_WITHOUT_INTEREST = re.compile(
    r"(?:remov|delet|refund|return|abandon|reject|declin|fail|skip|dismiss|cancel+)(?:e?d|ation)?$"
)


def is_purchase(kind: str) -> bool:
    """Whether a kind of event is a purchase by its name."""
    words = _words(kind)
    near = any(_NEAR_PURCHASE.match(word) for word in words)
    return any(_PURCHASE.fullmatch(word) for word in words) and not near and shows_interest(kind)


def shows_interest(kind: str) -> bool:
    """Whether nothing in the name of a kind of event says that the user lacks interest or did nothing."""
    return not any(_NO_INTEREST.match(word) or _ENDS_WITHOUT_INTEREST.search(word) for word in _words(kind))


def _words(kind: str) -> list[str]:
    """The words of a name in lower case: `OrderCancelled` and `order_cancelled` are `order` and `cancelled`."""
    plain = re.sub("['’]", "", kind)
    return re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-zß-ÿ])(?=[A-Z])", "_", plain).lower())

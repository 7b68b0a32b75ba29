"""Rows of an unknown log that are no sign of interest whatever their kind: cancelled, refunded and returned orders.

A column of states, of quantities, or of marks such as `cancelled_at` shows them. The rules of `data.drop` leave them
out.
"""

import re
from collections.abc import Iterable

import pandas as pd

from llmrec.data.check.files import Sample
from llmrec.data.check.kind_names import is_no_sale, withdraws
from llmrec.data.check.kinds import MOST_VALUES, Kinds, Values
from llmrec.data.check.names import plain, word_set, words_of
from llmrec.data.check.values import nested, repeat
from llmrec.data.readers.dropped import read_drop_rule
from llmrec.data.readers.other_files import quote
from llmrec.data.readers.raw import is_id
from llmrec.errors import ConfigError

_STATES = word_set("status state statut estado stato zustand")
_QUANTITIES = word_set(
    "quantity qty menge anzahl stuck stueck stuckzahl quantite qte cantidad cant quantita quantidade units pieces"
)
_AMOUNTS = word_set(
    "amount total subtotal price sales revenue betrag summe umsatz preis einzelpreis gesamtpreis montant prix importe "
    "precio importo prezzo"
)
# Words of what a state, quantity or mark is about.
_SALES = word_set(
    "order payment financial transaction bestell bestellung bestellungs auftrag auftrags zahl zahlung zahlungs verkauf "
    "commande paiement pedido pago ordine sale purchase invoice rechnung rechnungs item line lineitem product position "
    "refund return cancel refunds returns ordered sold bestellt net gross paid unit"
)
_DELIVERIES = word_set("fulfillment fulfilment shipping shipment delivery liefer lieferung versand livraison envio")
_LINES = word_set("item line lineitem product position unit")
_FILLERS = word_set("is was has the de del du di la le of at on am date datum time zeit flag fecha")
_NO = word_set("0 false no nein non n f")
MOST = 0.95  # a larger share of the rows is left out by no suggested rule
_FILLED = 0.95  # share of the rows of a column that is written on all rows


def may_withdraw(names: Iterable[str], taken: Iterable[str]) -> list[str]:
    """The columns whose names say that their values may withdraw a row.

    Args:
        names: the columns of the log.
        taken: those of them that are llmrec's columns.
    """
    others = [name for name in names if name not in set(taken) and not re.search("[<>=!]", name)]
    return [name for name in others if any(about(set(words_of(name))) for about in (_is_state, _is_number, _is_mark))]


def is_quantity(name: str) -> bool:
    """Whether the values of a column are quantities or amounts by its name."""
    return _is_number(set(words_of(name)))


def _is_state(words: set[str]) -> bool:
    return bool(words & _STATES) and words <= _STATES | _SALES | _DELIVERIES | _FILLERS


def _is_number(words: set[str]) -> bool:
    return bool(words & (_QUANTITIES | _AMOUNTS)) and words <= _QUANTITIES | _AMOUNTS | _SALES | _FILLERS


def _is_mark(words: set[str]) -> bool:
    """Whether words are those of a mark: `cancelled_at`, `is_return`, `qty_refunded`."""
    marks = {word for word in words if withdraws(word)}
    return bool(marks) and words - marks <= _FILLERS | _QUANTITIES | _AMOUNTS | _SALES


def find_drops(values: dict[str, Values], kinds: Kinds, names: dict[str, str]) -> tuple[list[str], list[str]]:
    """Rules of `data.drop` for a log, and notes that say what they leave out.

    Args:
        values: the values of the columns of `may_withdraw`.
        kinds: the kinds of events.
        names: the column's name in the log, by llmrec's name.
    """
    rules = []
    notes = []
    if kinds.without_item:
        column = names["event_type"]
        rules += [f"{column}=={kind}" for kind in kinds.without_item if can_be_read(f"{column}=={kind}")]
        notes.append(
            f"`{column}`: no row of {_counted(kinds.without_item)} names an item, so `data.drop` leaves them out."
        )
    for name, found in values.items():
        dropped = _drops_of(name, found, has_kinds="event_type" in names)
        count = sum(dropped.values())
        if not count:
            continue
        if count > MOST * found.rows:
            notes.append(f"`{name}`: {count / found.rows:.0%} of the rows say that nothing was sold, so all are kept.")
            continue
        rules += list(dropped)
        parts = ", ".join(f"`{rule}` ({rows:,})" for rule, rows in dropped.items())
        kept = {value: rows for value, rows in found.counts.items() if f"{name}=={value}" not in dropped}
        others = f" It keeps {_counted(kept)}." if _is_state(set(words_of(name))) and kept else ""
        notes.append(f"`data.drop` leaves out what was not sold or came back: {parts} of {found.rows:,}.{others}")
    return rules, notes


def _counted(counts: dict[str, int]) -> str:
    """Values with the number of their rows, in words."""
    named = ", ".join(f"`{value}` ({rows:,})" for value, rows in list(counts.items())[:20])
    return f"{named}, ..." if len(counts) > 20 else named


def can_be_read(rule: str) -> bool:
    """Whether a text is a rule of `data.drop`."""
    try:
        read_drop_rule(rule)
    except ConfigError:
        return False
    return True


def _drops_of(name: str, found: Values, *, has_kinds: bool) -> dict[str, int]:
    """The rules for one column, each with the number of rows that it leaves out."""
    words = set(words_of(name))
    few = len(found.counts) < MOST_VALUES
    numbers = found.filled > 0 and all(re.fullmatch(r"-?[\d.,]+", value) for value in found.counts)
    positive = found.filled - found.zero - found.negative
    if _is_mark(words) and not words & _STATES and not (numbers and positive > found.rows / 2):
        if numbers:
            return {f"{name}>0": positive}
        if few and all(plain(value) in _NO or len(value) <= 5 for value in found.counts):
            return {f"{name}=={value}": rows for value, rows in found.counts.items() if plain(value) not in _NO}
        # Nearly all rents have a time of return.
        return {name: found.filled} if words & _FILLERS and found.filled <= found.rows / 2 else {}
    if numbers:
        zero = not has_kinds and bool(words & _QUANTITIES)  # a view may have the quantity 0
        count = found.negative + zero * found.zero
        return {f"{name}<{'=' * zero}0": count} if count and found.negative <= found.rows / 2 else {}
    if not few or not _is_state(words):
        return {}
    # An order that waits for its delivery is sold.
    shows = withdraws if words & _DELIVERIES else is_no_sale
    dropped = {value: rows for value, rows in found.counts.items() if shows(value) and can_be_read(f"{name}=={value}")}
    if "complete" in found.counts and "closed" in found.counts:  # Magento closes an order when it is refunded
        dropped["closed"] = found.counts["closed"]
    return {f"{name}=={value}": rows for value, rows in dropped.items()}


def first_rows_note(sample: Sample, rules: list[str], taken: Iterable[str]) -> str:
    """The command that repeats a state on all rows of an order, if only the first one has it; "" if none is needed.

    Args:
        sample: the first lines of the log.
        rules: the suggested `data.drop`.
        taken: the columns that are llmrec's, which do not number orders.
    """
    frame = sample.table.frame
    dropped = list(dict.fromkeys(read_drop_rule(rule).column for rule in rules))
    partial = [name for name in dropped if is_id(frame[name]).mean() < _FILLED]
    group, once = _written_once(frame, partial, set(taken)) if partial else ("", [])
    if not once:
        return ""
    listed = ", ".join(quote(name) for name in once)
    change = f't[[{listed}]] = t.groupby({quote(group)})[[{listed}]].transform("first")'
    return (
        f"Only the first row of each `{group}` says {', '.join(f'`{name}`' for name in once)}, so its other rows "
        f"would count as sold. Repeat it, then check the new file: {sample.command(change, 'filled', objects=True)}."
    )


def _written_once(frame: pd.DataFrame, partial: list[str], taken: set[str]) -> tuple[str, list[str]]:
    """A column of ids, such as of orders, whose first rows alone have their values, and which marks they alone have.

    Args:
        frame: the rows.
        partial: states and marks that are empty on some rows.
        taken: the columns that are llmrec's, which do not number orders.
    """
    free = [name for name in frame.columns if name not in taken]
    marked = {name: is_id(frame[name]) for name in partial}
    # A mark of the few cancelled orders cannot show it. A state or an amount of all orders does.
    orders = [is_id(frame[name]) for name in free if _is_of_orders(set(words_of(name)))]
    for name in free:
        ids = frame[name]
        if name in partial or nested(ids) or not repeat(ids) or is_id(ids).mean() < _FILLED:
            continue
        is_first = ~ids.duplicated()
        once = [mark for mark, known in marked.items() if is_first[known].mean() >= _FILLED]
        limit = is_first.sum() / _FILLED
        if once and any(known[is_first].mean() >= _FILLED and known.sum() <= limit for known in orders):
            return name, once
    return "", []


def _is_of_orders(words: set[str]) -> bool:
    """Whether words are those of a state or an amount, and not of a single line of an order."""
    return (_is_state(words) or bool(words & _AMOUNTS)) and not words & _LINES

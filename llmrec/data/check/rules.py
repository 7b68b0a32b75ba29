"""Rules for clicks and purchases of an unknown log."""

import math
import re

import pandas as pd

from llmrec.data.check.kind_names import is_purchase, shows_interest
from llmrec.data.check.names import words_of
from llmrec.data.readers.values import as_numbers

_PURCHASES = ("buy", "bought", "purchase", "order", "transaction", "checkout", "paid", "sale")


def find_rules(frame: pd.DataFrame, names: dict[str, str], kinds: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Rules for the events of a log.

    Args:
        frame: its rows.
        names: the column's name in the log, by llmrec's name.
        kinds: the kinds of events; empty if no column has them.

    Returns:
        `click` and `purchase` of the section `data`, and notes about what cannot be seen.
    """
    if kinds:
        return _by_kind(kinds)
    clicked, bought = (_flags(frame, names, words) for words in (("click",), _PURCHASES))
    if clicked:
        return {"click": clicked, "purchase": bought}, []
    if "rating" in names:
        numbers = as_numbers(frame[names["rating"]])
        low, high = float(numbers.min()), float(numbers.max())
        least = math.ceil(low + 0.75 * (high - low))
        liked = [f"rating>={least}"] if low < least <= high else []
        return {"click": [f"rating>={low:g}"], "purchase": bought or liked}, []
    return {"click": ["interaction"], "purchase": bought}, []


def _by_kind(kinds: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Rules that name kinds of events."""
    clicks = [kind for kind in kinds if shows_interest(kind)]
    rules = {"click": clicks or kinds, "purchase": [kind for kind in kinds if is_purchase(kind)]}
    others = ", ".join(f"`{kind}`" for kind in kinds if kind not in clicks)
    notes = []
    if others and clicks:
        notes.append(f"No rule names the kinds {others}, whose names show no interest. Add clicks to `data.click`.")
    elif others:
        notes.append(f"The names of all kinds of events, {others}, show no interest, yet all count as clicks.")
    if all(kind.isdigit() for kind in kinds):
        notes.append(
            f"The kinds of events are {', '.join(kinds)}, and all count as clicks. Remove those from `data.click` "
            "that are none, and name purchases in `data.purchase`."
        )
    return rules, notes


def _flags(frame: pd.DataFrame, names: dict[str, str], words: tuple[str, ...]) -> list[str]:
    """A rule for each column of 0 and 1 whose name has one of some words, such as `clicked` of a log of impressions."""

    def is_flag(name: str) -> bool:
        found = words_of(name)
        named = any(word.startswith(words) for word in found) and shows_interest(name)
        free = name not in names.values() and not re.search("[<>=!]", name)
        return named and free and set(as_numbers(frame[name]).dropna()) == {0, 1}

    return [f"{name}==1" for name in frame.columns if is_flag(name)]

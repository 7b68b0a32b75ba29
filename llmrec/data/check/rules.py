"""Rules for clicks and purchases of an unknown log."""

import math
import re

import pandas as pd

from llmrec.data.check.names import words_of
from llmrec.data.check.values import known_ids
from llmrec.data.readers.values import as_numbers

_PURCHASES = ("buy", "bought", "purchase", "order", "transaction", "checkout", "paid", "sale")
_NO_CLICKS = ("remove", "dislike", "return", "impression", "skip", "delete", "refund", "unlike")


def find_rules(frame: pd.DataFrame, names: dict[str, str]) -> tuple[dict[str, list[str]], list[str]]:
    """Rules for the events of a log.

    Args:
        frame: its rows.
        names: the column's name in the log, by llmrec's name.

    Returns:
        `click` and `purchase` of the section `data`, and notes about what cannot be seen.
    """
    if "event_type" in names:
        return _by_kind(frame[names["event_type"]])
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


def _by_kind(values: pd.Series) -> tuple[dict[str, list[str]], list[str]]:
    """Rules that name kinds of events."""
    kinds = sorted(known_ids(values).unique())
    clicks = [kind for kind in kinds if not any(word in kind.lower() for word in _NO_CLICKS)]
    purchases = [kind for kind in clicks if any(word in kind.lower() for word in _PURCHASES)]
    notes = []
    if all(kind.isdigit() for kind in kinds):
        notes.append(
            f"The kinds of events are {', '.join(kinds)}, and all count as clicks. Remove those from `data.click` "
            "that are none, and name purchases in `data.purchase`."
        )
    return {"click": clicks or kinds, "purchase": purchases}, notes


def _flags(frame: pd.DataFrame, names: dict[str, str], words: tuple[str, ...]) -> list[str]:
    """A rule for each column of 0 and 1 whose name has one of some words, such as `clicked` of a log of impressions."""

    def is_flag(name: str) -> bool:
        found = words_of(name)
        named = any(word.startswith(words) for word in found) and not any(word.startswith(_NO_CLICKS) for word in found)
        free = name not in names.values() and not re.search("[<>=!]", name)
        return named and free and set(as_numbers(frame[name]).dropna()) == {0, 1}

    return [f"{name}==1" for name in frame.columns if is_flag(name)]

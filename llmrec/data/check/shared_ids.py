"""Ids of an unknown log that stand for many people, such as the one of all guests of a shop."""

import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from llmrec.data.check.files import Sample
from llmrec.data.check.names import plain, word_set
from llmrec.data.check.spoiled import is_shortened
from llmrec.data.check.values import known_ids
from llmrec.data.check.withdrawn import MOST, can_be_read
from llmrec.data.losses import share_text

_GUESTS = {*word_set("guest guests anonymous anon unknown gast anonym unbekannt invite invitado anonyme inconnu")}
_GUESTS |= {"not set", "not provided", "n a", "guest user", "guest customer"}
_NUMBERS = ("0", "-1")  # may be a first user as well
# A user stands for guests with at least this share of the rows, and so many times that of any other user.
_LARGE, _TIMES = 0.1, 20
_LARGE_NUMBER, _TIMES_NUMBER = 0.02, 5


@dataclass
class SharedIds:
    """Ids that stand for many people.

    Attributes:
        drops: rules of `data.drop` for words such as `guest`.
        guest: another id of the users that may stand for guests; "" without one.
        notes: what was found.
    """

    drops: list[str] = field(default_factory=list)
    guest: str = ""
    notes: list[str] = field(default_factory=list)

    def have(self, events: pd.DataFrame) -> np.ndarray:
        """Which events have such an id, or one that a spreadsheet has shortened, bool.

        Whether they repeat earlier ones says nothing.
        """
        shortened = is_shortened(events["user_id"]) | is_shortened(events["item_id"])
        return ((events["user_id"] == self.guest) | shortened).to_numpy()


def find_shared_ids(sample: Sample, names: dict[str, str]) -> SharedIds:
    """Finds ids that stand for many people.

    Args:
        sample: the first lines of the log.
        names: the column's name in the log, by llmrec's name.
    """
    shared = SharedIds()
    column = names["user_id"]
    counts = known_ids(sample.table.text(column)).value_counts()
    rows = len(sample.table.frame)
    words = [value for value in counts.index if _is_word(value) and can_be_read(f"user_id=={value}")]
    if counts[words].sum() <= MOST * rows:
        named: Counter[str] = Counter()
        for value in words:
            named[f"user_id=={value.casefold()}"] += int(counts[value])
        shared.drops = list(named)
        parts = ", ".join(f"`{rule}` ({count:,})" for rule, count in named.items())
        if parts:
            shared.notes.append(f"`data.drop` leaves out users who have no id in `{column}`: {parts} of {rows:,}.")
        counts = counts.drop(words)
    if len(counts) > 1 and _is_large(counts.index[0], counts.iloc[0] / rows, counts.iloc[1] / rows):
        shared.guest = counts.index[0]
        rule = f"user_id=={shared.guest}"
        remedy = f"add `{rule}` to `data.drop`" if can_be_read(rule) else "leave their rows out of the log"
        shared.notes.append(
            f"`{column}`: `{shared.guest}` has {share_text(counts.iloc[0] / rows)} of the rows, other users at most "
            f"{share_text(counts.iloc[1] / rows)}. If these are guests, {remedy}."
        )
    return shared


def _is_word(value: str) -> bool:
    """Whether a user's id is a word for guests, such as `(not set)`."""
    return re.sub(r"[\W_]+", " ", plain(value)).strip() in _GUESTS


def _is_large(value: str, share: float, other: float) -> bool:
    """Whether an id has so many rows that it may stand for many people.

    Args:
        value: the id.
        share: its share of the rows.
        other: the largest share of another user.
    """
    return (share >= _LARGE and share >= _TIMES * other) or (
        value in _NUMBERS and share >= _LARGE_NUMBER and share >= _TIMES_NUMBER * other
    )

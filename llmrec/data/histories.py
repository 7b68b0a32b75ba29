"""Histories: the order of clicks with equal times, and the users with enough clicks."""

import re

import numpy as np
import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.splits import PairHashes
from llmrec.errors import DataError


def order_ties(history: dict[str, np.ndarray], user_ids: pd.Series, item_ids: pd.Series, seed: int) -> None:
    """Orders the clicks of a user that have equal times by a seeded hash, in place.

    Args:
        history: `user, item, timestamp, part` and other columns, sorted by user, time and part, each [E].
        user_ids: id of each user, [U].
        item_ids: id of each item, [N].
        seed: seed of the hash.
    """
    keys = [history[name] for name in ("user", "timestamp", "part")]
    same = np.ones(max(0, len(keys[0]) - 1), dtype=bool)
    for key in keys:
        same &= key[1:] == key[:-1]
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    if not len(tied):
        return
    hashes = PairHashes(seed, "ties", user_ids, item_ids, history["user"], history["item"])[tied]
    order = tied[np.lexsort((hashes, *(key[tied] for key in reversed(keys))))]
    for values in history.values():
        values[tied] = values[order]


def natural_key(user_id: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """A sort key that compares digits as numbers: `2` comes before `10`, and `u2` before `u10`."""
    pieces = re.split(r"(\d+)", user_id)  # digits are at odd positions
    parts = ((0, *_as_number(piece)) if n % 2 else (1, 0, piece) for n, piece in enumerate(pieces) if piece)
    return tuple(parts), user_id


def _as_number(digits: str) -> tuple[int, str]:
    """Orders digits as numbers, also more of them than Python turns into an integer."""
    significant = digits.lstrip("0")
    return len(significant), significant


def choose_users(counts: pd.Series, config: DataConfig) -> tuple[list[str], int]:
    """The users with enough clicks.

    Args:
        counts: number of items of the history, by id, of all users with an event.
        config: its `min_user_events` and `splits` are used.

    Returns:
        sorted ids, and how many users were dropped.

    Raises:
        DataError: a user has too few clicks and `min_user_events` is not set, or no user has enough.
    """
    default, purpose = _default_minimum(config)
    least = default if config.min_user_events is None else config.min_user_events
    short = counts[counts < least]
    clicks = "different items" if config.repeats == "first" else "items at different times"
    if len(short) and config.min_user_events is None:
        first = sorted(short.index, key=natural_key)[:5]
        named = ", ".join(f"{user!r} ({short[user]})" for user in first) + (", ..." if len(short) > 5 else "")
        raise DataError(
            f"{len(short)} of {len(counts)} users clicked fewer than {least} {clicks}: {named}; "
            f"expected one item each for {purpose}. Set `data.min_user_events: {least}` to drop such users, or loosen "
            "the rules of `data.click`."
        )
    if len(short) == len(counts):
        raise DataError(
            f"No user clicked {least} {clicks}; expected at least one such user. The most is "
            f"{counts.max()}: lower `data.min_user_events`, or loosen the rules of `data.click`."
        )
    return sorted(counts.index.difference(short.index), key=natural_key), len(short)


def _default_minimum(config: DataConfig) -> tuple[int, str]:
    """The number of clicks that every user needs by default, and what they are used for."""
    if "leave_one_out" in config.splits:
        return 3, "training, validation and test"
    return 2, "training and prediction"

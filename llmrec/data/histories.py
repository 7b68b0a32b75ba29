"""Histories: the first click of each user on each item in time order, and the users that have enough clicks."""

import re

import numpy as np
import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.splits import PARTS, seeded_hash
from llmrec.errors import DataError


def first_clicks(events: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Each user's first click on each item, in time order; a seeded hash orders equal timestamps.

    Args:
        events: rows of `user_id, item_id, item, timestamp, click (bool), purchase (bool)`, optional `split`.
        seed: seed of the hash.

    Returns:
        rows of `user_id, item_id, item, timestamp, bought_at, part`. The rows of one user are in order; users may be
        mixed. `bought_at` is the time of the user's first purchase of the item, NaN without one. `part` is the index
        of `split` in `PARTS`, -1 without one.
    """
    pair = ["user_id", "item"]
    clicks = events[events["click"]].sort_values("timestamp", kind="stable")
    history = clicks.drop_duplicates(pair).reset_index(drop=True)
    bought = events[events["purchase"]].groupby(pair)["timestamp"].min()
    history["bought_at"] = bought.reindex(pd.MultiIndex.from_frame(history[pair])).to_numpy(dtype=np.float64)
    tie = seeded_hash(seed, "ties", history["user_id"], history["item_id"])
    history["part"] = pd.Index(PARTS).get_indexer(pd.Index(history["split"])) if "split" in history else -1
    order = np.lexsort((tie, history["part"], history["timestamp"]))
    return history.iloc[order].reset_index(drop=True)[["user_id", "item_id", "item", "timestamp", "bought_at", "part"]]


def known_purchases(history: pd.DataFrame, lengths: np.ndarray, train_lengths: np.ndarray) -> np.ndarray:
    """Which clicks count as purchased.

    A training click counts if the item was bought before the user's first held-out click, because a model that is
    trained on these clicks must not know later events. A held-out click counts if the item was ever bought.

    Args:
        history: rows of `timestamp, bought_at`, sorted by user and time, [E].
        lengths: clicks of each user, int64 [U].
        train_lengths: training clicks of each user, int64 [U].

    Returns:
        bool [E].
    """
    starts = np.cumsum(lengths) - lengths
    times = history["timestamp"].to_numpy()
    has_held_out = train_lengths < lengths
    first_held_out = np.full(len(lengths), np.inf)
    first_held_out[has_held_out] = times[(starts + train_lengths)[has_held_out]]
    bought_at = history["bought_at"].to_numpy()
    is_training = np.arange(len(history)) < np.repeat(starts + train_lengths, lengths)
    return np.where(is_training, bought_at <= np.repeat(first_held_out, lengths), ~np.isnan(bought_at))


def natural_key(user_id: str) -> tuple[tuple[tuple[int, int | str], ...], str]:
    """A sort key that compares digits as numbers: `2` comes before `10`, and `u2` before `u10`."""
    pieces = re.split(r"(\d+)", user_id)  # digits are at odd positions
    parts = ((0, int(piece)) if n % 2 else (1, piece) for n, piece in enumerate(pieces) if piece)
    return tuple(parts), user_id


def choose_users(all_users: np.ndarray, users_of_clicks: pd.Series, config: DataConfig) -> tuple[list[str], int]:
    """The users with enough clicks.

    Args:
        all_users: ids of all users with an event.
        users_of_clicks: user id of each first click, [E].
        config: its `min_user_events` and `splits` are used.

    Returns:
        sorted ids, and how many users were dropped.

    Raises:
        DataError: a user has too few clicks and `min_user_events` is not set, or no user has enough.
    """
    counts = users_of_clicks.value_counts().reindex(all_users, fill_value=0)
    default, purpose = _default_minimum(config)
    least = default if config.min_user_events is None else config.min_user_events
    short = counts[counts < least]
    if len(short) and config.min_user_events is None:
        first = sorted(short.index, key=natural_key)[:5]
        named = ", ".join(f"{user!r} ({short[user]})" for user in first) + (", ..." if len(short) > 5 else "")
        raise DataError(
            f"{len(short)} of {len(counts)} users clicked fewer than {least} different items: {named}; "
            f"expected one item each for {purpose}. Set `data.min_user_events: {least}` to drop such users, or loosen "
            "the rules of `data.click`."
        )
    if len(short) == len(counts):
        raise DataError(
            f"No user clicked {least} different items; expected at least one such user. The most is "
            f"{counts.max()}: lower `data.min_user_events`, or loosen the rules of `data.click`."
        )
    return sorted(counts.index.difference(short.index), key=natural_key), len(short)


def _default_minimum(config: DataConfig) -> tuple[int, str]:
    """The number of clicks that every user needs by default, and what they are used for."""
    if "leave_one_out" in config.splits:
        return 3, "training, validation and test"
    return 2, "training and prediction"

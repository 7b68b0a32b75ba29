"""First clicks and users."""

import re

import numpy as np
import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.splits import PARTS, seeded_hash
from llmrec.errors import DataError

# The clicks that a user needs by default, and for what; True: if a split is leave-one-out.
MIN_CLICKS = {True: (3, "for training, validation and test"), False: (2, "to learn from and to predict")}


def first_clicks(events: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Each user's first click on each item, in time order; ties in time are in the order of a seeded hash.

    Args:
        events: rows of `user_id, item_id, item, timestamp, click (bool), purchase (bool)`, optional `split`.
        seed: of the hash.

    Returns:
        rows of `user_id, item_id, item, timestamp, bought_at, part`; a user's rows are in order, but users may be
        mixed. `bought_at` is the time of the user's first purchase of the item, NaN if there is none; `part` is the
        place of `split` in `PARTS`, -1 if it is none of them.
    """
    pair = ["user_id", "item"]
    clicks = events[events["click"]].sort_values("timestamp", kind="stable")
    history = clicks.drop_duplicates(pair).reset_index(drop=True)
    bought = events[events["purchase"]].groupby(pair)["timestamp"].min()
    history["bought_at"] = bought.reindex(pd.MultiIndex.from_frame(history[pair])).to_numpy(dtype=np.float64)
    tie = seeded_hash(seed, "ties", history["user_id"], history["item_id"])
    history["part"] = pd.Index(PARTS).get_indexer(history["split"]) if "split" in history else -1
    order = np.lexsort((tie, history["part"], history["timestamp"]))
    return history.iloc[order].reset_index(drop=True)[["user_id", "item_id", "item", "timestamp", "bought_at", "part"]]


def known_purchases(history: pd.DataFrame, lengths: np.ndarray, train_lengths: np.ndarray) -> np.ndarray:
    """Which clicks count as purchased, bool [E].

    A click of the training part counts only if it was bought before the user's first held-out click: what was
    bought later is not known to a model that is trained on the part before.

    Args:
        history: rows of `timestamp, bought_at`, sorted by user and time.
        lengths, train_lengths: of each history, int64 [U].
    """
    starts = np.cumsum(lengths) - lengths
    times = history["timestamp"].to_numpy()
    held_out = train_lengths < lengths
    first = np.full(len(lengths), np.inf)
    first[held_out] = times[(starts + train_lengths)[held_out]]
    bought_at = history["bought_at"].to_numpy()
    training = np.arange(len(history)) < np.repeat(starts + train_lengths, lengths)
    return np.where(training, bought_at <= np.repeat(first, lengths), ~np.isnan(bought_at))


def natural_key(user_id: str) -> tuple:
    """Sort key under which `2` comes before `10` and `u2` before `u10`."""
    parts = re.split(r"(\d+)", user_id)
    return tuple((1, part) if n % 2 == 0 else (0, int(part)) for n, part in enumerate(parts) if part), user_id


def choose_users(all_users: np.ndarray, of_clicks: pd.Series, config: DataConfig) -> tuple[list[str], int]:
    """Ids of the users with enough clicks, sorted, and how many were dropped."""
    counts = of_clicks.value_counts().reindex(all_users, fill_value=0)
    default, purpose = MIN_CLICKS["leave_one_out" in config.splits]
    least = default if config.min_user_events is None else config.min_user_events
    short = counts[counts < least]
    if len(short) and config.min_user_events is None:
        first = sorted(short.index, key=natural_key)[:5]
        named = ", ".join(f"{user!r} ({short[user]})" for user in first) + (", ..." if len(short) > 5 else "")
        raise DataError(
            f"{len(short)} of {len(counts)} users clicked fewer than {least} different items: {named}; "
            f"expected one item each {purpose}. Set `data.min_user_events: {least}` to drop such users, or loosen the "
            "rules of `data.click`."
        )
    if len(short) == len(counts):
        raise DataError(
            f"No user clicked {least} different items; expected at least one who did. The most is "
            f"{counts.max()}: lower `data.min_user_events`, or loosen the rules of `data.click`."
        )
    return sorted(counts.index.difference(short.index), key=natural_key), len(short)

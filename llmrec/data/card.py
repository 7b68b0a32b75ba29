"""The dataset card: what a reader of any number computed from the data has to know about it."""

import numpy as np
import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.splits import Split

TIE_RULE = "clicks of one user at the same second are in the order of a seeded hash of (user id, item id)"


def _iso(seconds: int) -> str:
    return pd.Timestamp(int(seconds), unit="s", tz="UTC").isoformat()


def _quantiles(lengths: np.ndarray) -> dict[str, float]:
    shares = {"min": 0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "max": 1}
    return {name: float(np.quantile(lengths, share)) for name, share in shares.items()}


def _split_card(split: Split) -> dict:
    card: dict = {"train": int(split.train_lengths.sum())}
    for part, targets in split.targets.items():
        card[part] = {"targets": len(targets), "users": len(np.unique(targets.users))}
    if split.cuts:
        card["starts"] = {"valid": _iso(split.cuts[0]), "test": _iso(split.cuts[1])}
    return card


def dataset_card(
    data: InteractionData,
    events: pd.DataFrame,
    splits: dict[str, Split],
    dropped_users: int,
    config: DataConfig,
    seed: int,
    timed: bool,
) -> dict:
    """Counts, times, ties and splits, as JSON values.

    Args:
        data: the built data.
        events: all events of the users that were kept, rows of `user, item, timestamp, click (bool), purchase
            (bool)`.
        splits: by name.
        dropped_users: users that `min_user_events` dropped.
        config: the section that the data was built with.
        seed: that broke ties and drew targets.
        timed: whether the log's timestamps are times.

    Returns:
        `clicks` and `purchases` count distinct pairs of user and item, `events`, `click_events` and
        `purchase_events` rows of the log; density is clicks / (users * items); `tied_events` is the share of
        rows that share their timestamp with another row of the same user; `time` is empty if the log has an order
        alone; `train_clicks` is what all splits leave for training.
    """
    lengths = np.array([len(history) for history in data.histories])
    clicks = int(lengths.sum())
    density = clicks / (data.num_users * data.num_items)
    seen = np.unique(np.concatenate(data.histories))
    return {
        "source": {"format": config.format, "path": config.path},
        "rules": {"click": list(config.click), "purchase": list(config.purchase)},
        "users": data.num_users,
        "items": data.num_items,
        "events": len(events),
        "click_events": int(events["click"].sum()),
        "purchase_events": int(events["purchase"].sum()),
        "clicks": clicks,
        "purchases": int(sum(bought.sum() for bought in data.purchases)),
        "exposures": len(data.exposures),
        "facts": len(data.facts),
        "density": density,
        "sparsity": 1 - density,
        "tied_events": float(events.duplicated(["user", "timestamp"], keep=False).mean()),
        "tie_break": {"rule": TIE_RULE, "seed": seed},
        "time": {end: _iso(events["timestamp"].agg(f)) for end, f in (("first", "min"), ("last", "max")) if timed},
        "history_length": _quantiles(lengths),
        "train_clicks": int(data.train_lengths.sum()),
        "splits": {name: _split_card(split) for name, split in splits.items()},
        "dropped_users": dropped_users,
        "min_user_events": config.min_user_events,
        "items_without_events": data.num_items - events["item"].nunique(),
        "items_without_clicks": data.num_items - len(seen),
        "items_with_a_repeated_title": int(data.items["title"].duplicated(keep=False).sum()),
    }

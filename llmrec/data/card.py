"""The dataset card: counts, times and splits that a reader of any result on the data needs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.doctor import measure_checks, warnings_of
from llmrec.data.event_store import EventCounts
from llmrec.data.harm import as_card
from llmrec.data.losses import Losses
from llmrec.data.ragged import Ragged
from llmrec.data.splits import Split

TIE_RULE = "clicks of one user at the same second are in the order of a seeded hash of (user id, item id)"


@dataclass(frozen=True)
class Preparation:
    """What the prepare stage knows beyond the prepared data.

    Attributes:
        counts: counts of the events of the users that were kept.
        splits: splits by name.
        dropped_users: number of users that `min_user_events` dropped.
        seed: seed that ordered equal timestamps and drew targets.
        timed: whether the timestamps of the log are times.
        losses: what became of the rows of the log.
    """

    counts: EventCounts
    splits: dict[str, Split]
    dropped_users: int
    seed: int
    timed: bool
    losses: Losses


def dataset_card(data: InteractionData, config: DataConfig, preparation: Preparation) -> dict[str, Any]:
    """The card as JSON values.

    Args:
        data: the prepared data.
        config: the section that the data was prepared with.
        preparation: what else the stage knows.

    Returns:
        `clicks` and `purchases` count items of histories: distinct pairs of user and item, or with `repeats: keep`
        distinct triples of user, item and time. `repeated_items` is the share of the items of histories that the user
        has clicked before. `events`, `click_events` and `purchase_events` count rows of the log. `hidden_purchases` are
        training clicks on items that were bought only after the user's first held-out click or the start of the
        temporal validation, which training must not know. `density` is clicks / (users * items). `tied_events` is the
        share of clicks that share their timestamp with a click of the same user on another item. `time` is empty if
        the log has only an order.
        `train_clicks` counts the clicks that all splits leave for training. `checks` are those of
        `llmrec.data.doctor`. `warnings` are all that is known to harm results, most harmful first; `losses` has the
        texts of those about left-out rows once more.
    """
    lengths = Ragged.of(data.histories).lengths
    pairs = preparation.counts.pairs
    density = pairs / (data.num_users * data.num_items)
    card: dict[str, Any] = {
        "source": {"format": config.format, "path": config.path},
        "rules": {"click": list(config.click), "purchase": list(config.purchase)},
        "repeats": config.repeats,
        **_counts(data, preparation.counts),
        "density": density,
        "sparsity": 1 - density,
        "repeated_items": 1 - pairs / max(1, int(lengths.sum())),
        **_times(preparation),
        "history_length": _quantiles(lengths),
        "train_clicks": int(data.train_lengths.sum()),
        "splits": {name: _split_card(split) for name, split in preparation.splits.items()},
        "dropped_users": preparation.dropped_users,
        "min_user_events": config.min_user_events,
        **_unusual_items(data, preparation.counts),
        "losses": preparation.losses.as_card(),
        "checks": measure_checks(data, preparation.counts, preparation.timed),
    }
    return card | {"warnings": as_card([*preparation.losses.warnings, *warnings_of(card)])}


def _counts(data: InteractionData, counts: EventCounts) -> dict[str, int]:
    purchases = int(Ragged.of(data.purchases).flat().sum())
    return {
        "users": data.num_users,
        "items": data.num_items,
        "events": counts.events,
        "click_events": counts.clicks,
        "purchase_events": counts.purchases,
        "clicks": int(Ragged.of(data.histories).lengths.sum()),
        "purchases": purchases,
        "hidden_purchases": int((~np.isnan(Ragged.of(data.bought_at).flat())).sum()) - purchases,
        "exposures": len(data.exposures),
        "facts": len(data.facts),
    }


def _times(preparation: Preparation) -> dict[str, Any]:
    counts = preparation.counts
    ends = {"first": _iso(counts.first), "last": _iso(counts.last)} if preparation.timed else {}
    return {
        "tied_events": counts.tied,
        "tie_break": {"rule": TIE_RULE, "seed": preparation.seed},
        "time": ends,
    }


def _split_card(split: Split) -> dict[str, Any]:
    card: dict[str, Any] = {"train": int(split.train_lengths.sum())}
    for part, targets in split.targets.items():
        card[part] = {"targets": len(targets), "users": len(np.unique(targets.users))}
    if split.cuts:
        card["starts"] = {"valid": _iso(split.cuts[0]), "test": _iso(split.cuts[1])}
    return card


def _unusual_items(data: InteractionData, counts: EventCounts) -> dict[str, int]:
    clicked = np.flatnonzero(np.bincount(Ragged.of(data.histories).flat(), minlength=data.num_items))
    return {
        "items_without_events": data.num_items - counts.items,
        "items_without_clicks": data.num_items - len(clicked),
        "items_with_a_repeated_title": int(data.items["title"].duplicated(keep=False).sum()),
    }


def _iso(seconds: int) -> str:
    return pd.Timestamp(seconds, unit="s", tz="UTC").isoformat()


def _quantiles(lengths: np.ndarray) -> dict[str, float]:
    shares = {"min": 0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "max": 1}
    return {name: float(np.quantile(lengths, share)) for name, share in shares.items()}

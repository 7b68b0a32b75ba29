"""Every number of the dataset card, counted once more with plain pandas and loops over users."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.splits import seeded_hash
from tests.data.reference import reference_histories

DAY = 86_400


@dataclass(frozen=True)
class Tables:
    """The rows that can be used, as plain pandas reads them, and what became of the others.

    Attributes:
        events: rows of `user_id, item_id, timestamp, click, purchase` and optional columns of the log.
        items: rows of `item_id, title` and `described`: whether the item has a category or a year.
        users: rows of `user_id` and attributes as text, "" where one is missing.
        facts: rows of `head`.
        left_out: number of rows by table and reason.
    """

    events: pd.DataFrame
    items: pd.DataFrame
    users: pd.DataFrame
    facts: pd.DataFrame
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)


def recount(tables: Tables, section: DataConfig, least: int, seed: int = 0) -> dict[str, Any]:
    """The numbers of the card: all of it but `source`, `rules`, the texts of warnings and the rule for ties."""
    events, items = tables.events, tables.items
    keep = section.repeats == "keep"
    clicks = events[events["click"]]
    rows = reference_histories(clicks, items["item_id"].tolist(), seed, least, keep)
    users = list(rows)
    kept = events[events["user_id"].isin(users)]
    flat = pd.concat(rows.values(), ignore_index=True)
    lengths = np.array([len(one) for one in rows.values()])
    splits, train_lengths = _splits(rows, flat, section, seed)
    kept_clicks = kept[kept["click"]]
    pairs = len(kept_clicks.drop_duplicates(["user_id", "item_id"]))
    at_once = kept_clicks.groupby(["user_id", "timestamp"])
    clicked = flat["item_id"].nunique()
    return {
        "users": len(users),
        "items": len(items),
        "events": len(kept),
        "click_events": len(kept_clicks),
        "purchase_events": int(kept["purchase"].sum()),
        "clicks": len(flat),
        "purchases": _purchases(
            rows, train_lengths, min((s.cuts[0] for s in splits.values() if s.cuts), default=math.inf)
        ),
        "hidden_purchases": int(flat["bought_at"].notna().sum())
        - _purchases(rows, train_lengths, min((s.cuts[0] for s in splits.values() if s.cuts), default=math.inf)),
        "exposures": _exposures(kept),
        "facts": len(tables.facts),
        "density": pairs / (len(users) * len(items)),
        "sparsity": 1 - pairs / (len(users) * len(items)),
        "repeated_items": float(flat.duplicated(["user_id", "item_id"]).mean()),
        "tied_events": float((at_once["item_id"].transform("nunique") > 1).mean()),
        "time": {"first": _iso(kept["timestamp"].min()), "last": _iso(kept["timestamp"].max())},
        "history_length": {
            name: float(pd.Series(lengths).quantile(share))
            for name, share in {"min": 0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "max": 1}.items()
        },
        "train_clicks": int(train_lengths.sum()),
        "splits": {name: _split_card(split) for name, split in splits.items()},
        "dropped_users": events["user_id"].nunique() - len(users),
        "items_without_events": len(items) - kept["item_id"].nunique(),
        "items_without_clicks": len(items) - clicked,
        "items_with_a_repeated_title": int(items["title"].duplicated(keep=False).sum()),
        "losses": _losses(tables, kept, len(flat), keep, users),
        "checks": _checks(rows, kept_clicks, splits, train_lengths)
        | {
            "largest_user": float(lengths.max() / len(flat)),
            "largest_item": float(flat["item_id"].value_counts().max() / len(flat)),
            "exposures": _exposure_checks(kept),
        },
    }


def _iso(seconds: int) -> str:
    return pd.Timestamp(int(seconds), unit="s", tz="UTC").isoformat()


def _losses(tables: Tables, kept: pd.DataFrame, clicks: int, keep: bool, users: list[str]) -> dict[str, Any]:
    events = tables.events
    moments = len(kept[kept["click"]].drop_duplicates(["user_id", "item_id", "timestamp"]))
    by_rule = {
        "user with too few clicks": len(events) - len(kept),
        "neither click nor purchase": int((~kept["click"]).sum()),
        "repeated click on an item at the same time": int(kept["click"].sum()) - moments,
        "repeated click on an item": moments - clicks,
    }
    unusable = tables.left_out.get("events", {})
    left_out = {**tables.left_out, "events": unusable | {why: count for why, count in by_rule.items() if count}}
    attributes = tables.users[tables.users["user_id"].isin(users)].drop(columns="user_id")
    described = set(tables.items["item_id"][tables.items["described"]]) | set(tables.facts["head"])
    return {
        "events_read": len(events) + sum(unusable.values()),
        **{f"{table}_left_out": counts for table, counts in left_out.items() if counts},
        "users_with_attributes": int((attributes != "").any(axis=1).sum()),
        "items_with_facts": len(described),
    }


def _purchases(rows: dict[str, pd.DataFrame], train_lengths: np.ndarray, cut: float) -> int:
    """Training clicks that bought or were bought before all that is held out, and held-out clicks ever bought."""
    total = 0
    for length, one in zip(train_lengths, rows.values(), strict=True):
        until = min(cut, one["timestamp"].iloc[length]) if length < len(one) else cut
        train, bought_at = one.iloc[:length], one["bought_at"]
        early = [row.bought_at < until or row.bought_at <= row.timestamp for row in train.itertuples()]
        total += sum(early) + int(bought_at.iloc[length:].notna().sum())
    return total


def _exposures(kept: pd.DataFrame) -> int:
    if "ranking_id" not in kept:
        return 0
    shown = kept[kept[["ranking_id", "position", "propensity"]].notna().any(axis=1)]
    listed = shown[shown["ranking_id"].notna()]
    lists = listed.drop_duplicates(["user_id", "item_id", "ranking_id"])
    return len(lists) + len(shown) - len(listed)


def _exposure_checks(kept: pd.DataFrame) -> dict[str, float] | None:
    """The exposures once more by `groupby`."""
    if not _exposures(kept):
        return None
    shown = kept[kept[["ranking_id", "position", "propensity"]].notna().any(axis=1)]
    own = pd.Series([f"own {row}" for row in range(len(shown))], index=shown.index)
    lists = shown.assign(list=shown["ranking_id"].fillna(own)).groupby(["user_id", "item_id", "list"])
    propensities = pd.to_numeric(lists["propensity"].first()).to_numpy()
    known = propensities[~np.isnan(propensities)]
    return {
        "click_rate": float(lists["click"].any().mean()),
        "without_propensity": float(np.isnan(propensities).mean()),
        "smallest_propensity": float(known.min()),
        "median_propensity": float(np.median(known)),
        "uniform_sample_size": float(sum(1 / known) ** 2 / sum(1 / known**2) / len(known)),
    }


# --- splits -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Split:
    train: list[int]
    targets: dict[str, list[tuple[int, int]]]  # (user, position)
    cuts: list[int]


def _splits(
    rows: dict[str, pd.DataFrame], flat: pd.DataFrame, section: DataConfig, seed: int
) -> tuple[dict[str, _Split], np.ndarray]:
    make = {"leave_one_out": _leave_one_out, "temporal": _temporal, "given": _given}
    found = {name: make[name](list(rows.values()), flat, section, seed) for name in section.splits}
    return found, np.array([split.train for split in found.values()]).min(axis=0)


def _leave_one_out(rows: list[pd.DataFrame], *_: Any) -> _Split:
    lengths = [len(one) for one in rows]
    back = {"valid": 2, "test": 1}
    targets = {part: [(user, n - of_end) for user, n in enumerate(lengths)] for part, of_end in back.items()}
    return _Split([n - 2 for n in lengths], targets, [])


def _given(rows: list[pd.DataFrame], *_: Any) -> _Split:
    targets: dict[str, list[tuple[int, int]]] = {"valid": [], "test": []}
    for user, one in enumerate(rows):
        for position, part in enumerate(one["split"]):
            if part != "train" and position:
                targets[part].append((user, position))
    return _Split([int((one["split"] == "train").sum()) for one in rows], targets, [])


def _temporal(rows: list[pd.DataFrame], flat: pd.DataFrame, section: DataConfig, seed: int) -> _Split:
    times = sorted(flat["timestamp"])
    shares = (1 - section.temporal_valid - section.temporal_test, 1 - section.temporal_test)
    cuts = [int(times[math.ceil(round(share * len(times), 6))]) for share in shares]
    starts = {"valid": (cuts[0], cuts[1]), "test": (cuts[1], math.inf)}
    targets: dict[str, list[tuple[int, int]]] = {"valid": [], "test": []}
    for user, one in enumerate(rows):
        item_ids = one["item_id"]
        if section.repeats == "keep":
            item_ids = item_ids + "\x1f" + one["timestamp"].astype("str")
        draws = seeded_hash(seed, "targets", one["user_id"], item_ids)
        for part, (start, stop) in starts.items():
            inside = [n for n, time in enumerate(one["timestamp"]) if n and start <= time < stop]
            drawn = sorted(inside, key=lambda n: draws[n])[: section.targets_per_user]
            targets[part] += [(user, n) for n in sorted(drawn)]
    return _Split([int((one["timestamp"] < cuts[0]).sum()) for one in rows], targets, cuts)


def _split_card(split: _Split) -> dict[str, Any]:
    card: dict[str, Any] = {"train": sum(split.train)}
    for part, targets in split.targets.items():
        card[part] = {"targets": len(targets), "users": len({user for user, _ in targets})}
    if split.cuts:
        card["starts"] = {"valid": _iso(split.cuts[0]), "test": _iso(split.cuts[1])}
    return card


# --- checks -------------------------------------------------------------------------------------------


def _checks(
    rows: dict[str, pd.DataFrame], clicks: pd.DataFrame, splits: dict[str, _Split], train_lengths: np.ndarray
) -> dict[str, Any]:
    items = [one["item_id"].tolist() for one in rows.values()]
    times = [one["timestamp"].tolist() for one in rows.values()]
    long = [one for one in items if len(one) > 1]
    is_ascending = [all((len(a), a) < (len(b), b) for a, b in zip(one, one[1:], strict=False)) for one in long]
    gaps = {
        name: np.array([times[user][n] - times[user][n - 1] for user, n in split.targets["test"]])
        for name, split in splits.items()
    }
    days = {
        name: np.mean([times[user][n] // DAY == times[user][n - 1] // DAY for user, n in split.targets["test"]])
        for name, split in splits.items()
    }
    return {
        "sorted_histories": float(np.mean(is_ascending)),
        "sorted_by_chance": float(np.mean([1 / math.factorial(len(one)) for one in long])),
        "repeated_clicks": float(
            clicks.drop_duplicates(["user_id", "item_id", "timestamp"]).duplicated(["user_id", "item_id"]).mean()
        ),
        "test_rows_seen_in_training": _test_rows_seen(clicks),
        "same_day_targets": days,
        "median_seconds_before_target": {name: float(np.median(gap)) for name, gap in gaps.items()},
        "known_sequences": {
            name: _known(items, split.targets["test"], train_lengths) for name, split in splits.items()
        },
    }


def _test_rows_seen(clicks: pd.DataFrame) -> float | None:
    if "split" not in clicks:
        return None
    pairs = clicks["user_id"] + "\x1f" + clicks["item_id"]
    return float(pairs[clicks["split"] == "test"].isin(pairs[clicks["split"] == "train"]).mean())


def _known(items: list[list[str]], targets: list[tuple[int, int]], train_lengths: np.ndarray) -> float:
    """Share of the targets whose sequence of three or more items is the start of a training history."""
    starts: dict[tuple[str, ...], list[list[str]]] = {}
    for history, length in zip(items, train_lengths, strict=True):
        starts.setdefault(tuple(history[:3]), []).append(history[:length])
    known = 0
    for user, position in targets:
        sequence = items[user][: position + 1]
        if len(sequence) >= 3:
            known += any(one[: position + 1] == sequence for one in starts.get(tuple(sequence[:3]), []))
    return known / len(targets)

"""Exposures: items that the log shows to users, with position and propensity."""

import numpy as np
import pandas as pd


def find_exposures(events: pd.DataFrame) -> pd.DataFrame:
    """Logged impressions: the events with a ranking, a position or a propensity.

    Events with the same user, item and `ranking_id` are one impression; it is clicked if one of them is a click. An
    event without a `ranking_id` is an impression of its own.

    Args:
        events: rows of `user, item, timestamp, click` and optional `ranking_id, position, propensity`.

    Returns:
        rows of `user, item, timestamp, click, position, propensity, ranking`, in time order; empty if the log has no
        impressions. `ranking` is a number that the items of one list share, -1 without a `ranking_id`.
    """
    marks = [name for name in ("ranking_id", "position", "propensity") if name in events]
    shown = events[events[marks].notna().any(axis=1)] if marks else events[:0]
    if shown.empty:
        return pd.DataFrame()
    ranking = shown["ranking_id"] if "ranking_id" in shown else pd.Series(index=shown.index, dtype="str")
    own_ranking = pd.Series([f"\x1f{n}" for n in range(len(shown))], index=shown.index, dtype="str")
    table = pd.DataFrame(
        {
            "user": shown["user"],
            "item": shown["item"],
            "ranking": ranking.fillna(own_ranking),
            "timestamp": shown["timestamp"],
            "click": shown["click"],
            "position": shown.get("position", pd.Series(pd.NA, shown.index, dtype="Int64")),
            "propensity": shown.get("propensity", np.nan),
        }
    )
    merged = table.groupby(["user", "item", "ranking"], sort=False, as_index=False).agg(
        {"timestamp": "min", "click": "any", "position": "first", "propensity": "first"}
    )
    ordered = merged.sort_values(["timestamp", "user", "item"], kind="stable", ignore_index=True)
    known = ~ordered["ranking"].str.startswith("\x1f")
    numbers = ordered.groupby(["user", "ranking"], sort=False).ngroup().where(known, -1)
    return ordered.assign(ranking=numbers).astype({"propensity": "float64", "position": "Int64", "ranking": "int64"})

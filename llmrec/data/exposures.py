"""Exposures: items that the log shows to users, with position and propensity."""

from typing import Any

import numpy as np
import pandas as pd

from llmrec.data.harm import Warned

Curve = list[tuple[float, float]]

LAST_POSITION = 20  # positions from here on have no point of their own
POINTS = 41  # of the curve of propensities
# Above these values `unlikely_exposures` warns.
MOST_CLICKED = 0.95  # share of the exposures
MOST_SHOWN_BEFORE = 0.5  # share of the clicked exposures
LARGEST_RANK = 1_000


def find_exposures(events: pd.DataFrame) -> pd.DataFrame:
    """Logged impressions: the events with a ranking, a position or a propensity.

    Events with the same user, item and `ranking_id` are one impression; it is clicked if one of them is a click. Its
    time is the earliest, and its position and propensity are the first ones known. An event without a `ranking_id` is
    an impression of its own.

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
    lists = _lists(shown)
    keys = [shown["user"].to_numpy(), shown["item"].to_numpy(), lists]
    rows = np.lexsort(keys[::-1])  # is stable, so the rows of one impression stay in the order of the log
    is_first = np.append(True, np.any([np.diff(key[rows]) != 0 for key in keys], axis=0))
    starts = np.flatnonzero(is_first)
    impression = np.cumsum(is_first) - 1  # of each of `rows`
    firsts = rows[starts]
    times = np.minimum.reduceat(shown["timestamp"].to_numpy()[rows], starts)
    order = np.lexsort((firsts, keys[1][firsts], keys[0][firsts], times))
    return pd.DataFrame(
        {
            "user": keys[0][firsts][order],
            "item": keys[1][firsts][order],
            "ranking": _numbers(keys[0][firsts][order], lists[firsts][order]),
            "timestamp": times[order],
            "click": np.logical_or.reduceat(shown["click"].to_numpy(dtype=bool)[rows], starts)[order],
            "position": pd.array(_first_known(shown, "position", rows, impression)[order], dtype="Int64"),
            "propensity": _first_known(shown, "propensity", rows, impression)[order],
        }
    )


def _lists(shown: pd.DataFrame) -> np.ndarray:
    """A number for each `ranking_id`, and a negative number of its own for each event without one, int64 [E]."""
    own = -1 - np.arange(len(shown))
    if "ranking_id" not in shown:
        return own
    codes = pd.factorize(shown["ranking_id"])[0]
    return np.where(codes < 0, own, codes)


def _first_known(shown: pd.DataFrame, name: str, rows: np.ndarray, impression: np.ndarray) -> np.ndarray:
    """The first value of a column in each impression that is known, NaN without one, float64 [impressions]."""
    found = np.full(impression[-1] + 1, np.nan)
    if name in shown:
        values = shown[name].to_numpy(dtype=np.float64, na_value=np.nan)[rows]
        known = np.flatnonzero(~np.isnan(values))[::-1]
        found[impression[known]] = values[known]  # the last assignment counts, which is the first row
    return found


def _numbers(users: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """A number for each list of a user, -1 for an event without a list, int64."""
    pairs = np.column_stack([users, lists])[lists >= 0]
    numbers = np.full(len(lists), -1, dtype=np.int64)
    if len(pairs):
        numbers[lists >= 0] = pd.factorize(pairs[:, 0] * (lists.max() + 1) + pairs[:, 1])[0]
    return numbers


# --- what the dataset card says of them ---------------------------------------------------------------


def unlikely_exposures(exposures: pd.DataFrame) -> list[Warned]:
    """Warnings about exposures that are hardly what users were shown, each with the keys that mend it."""
    if exposures.empty:
        return []
    has = {"ranking_id": (exposures["ranking"] >= 0).any(), "position": exposures["position"].notna().any()}
    has["propensity"] = exposures["propensity"].notna().any()
    keys = " and ".join(f"`data.columns.{name}: null`" for name, there in has.items() if there)
    found = []
    clicked = float(exposures["click"].mean())
    if clicked >= MOST_CLICKED:
        text = (
            f"{clicked:.0%} of the {len(exposures):,} exposures are clicked, so the log does not hold what was shown "
            f"and refused. Add these rows, or set {keys} if this is no record of what users were shown."
        )
        found.append(Warned("wrong", clicked, "every model of clicks predicts a click", text))
    again, by_chance = _clicks_after_showing(exposures)
    if again > MOST_SHOWN_BEFORE and again > 2 * by_chance:
        text = (
            f"{again:.0%} of the clicked exposures without a `ranking_id` come within an hour of an exposure of the "
            "same user and item that is not clicked: rows of clicks count as exposures of their own. Give the rows of "
            "one exposure the same `ranking_id`, or leave "
            f"{' and '.join(f'`{name}`' for name in has if has[name])} empty in rows that are no impressions."
        )
        found.append(Warned("wrong", again, "click rates are those of clicks on a second exposure", text))
    largest = int(exposures["position"].max()) if has["position"] else 0
    if largest > LARGEST_RANK:
        text = (
            f"The largest position of an exposure is {largest:,}, which is hardly a rank in a list that was shown. If "
            "the column holds something else, set `data.columns.position: null`."
        )
        found.append(Warned("wrong", 1.0, "events count as exposures that are none", text))
    return found


def _clicks_after_showing(exposures: pd.DataFrame) -> tuple[float, float]:
    """How often an exposure without a list follows, within an hour, one of the same user and item without a click.

    Returns:
        the share among clicked exposures, and among the others.
    """
    single = exposures[exposures["ranking"] < 0]
    user, item, time, click = (single[name].to_numpy() for name in ("user", "item", "timestamp", "click"))
    rows = np.lexsort((click, time, item, user))
    user, item, time, click = user[rows], item[rows], time[rows], click[rows]
    follows = np.zeros(len(rows), dtype=bool)
    follows[1:] = (np.diff(user) == 0) & (np.diff(item) == 0) & (np.diff(time) <= 3600) & ~click[:-1]
    clicked, others = (float(follows[which].mean()) if which.any() else 0.0 for which in (click, ~click))
    return clicked, others


def check_exposures(exposures: pd.DataFrame) -> dict[str, Any] | None:
    """What a reader of off-policy results needs to know of the exposures; None if the log has none.

    Returns:
        `click_rate`; `without_propensity`, a share; `smallest_propensity` and `median_propensity`, null without any;
        and `uniform_sample_size`, the effective sample size of a policy that shows the logged items equally often, as
        a share of the exposures with a propensity: (sum of w)^2 / (n * sum of w^2) with w = 1 / propensity.
    """
    if exposures.empty:
        return None
    known = exposures["propensity"].dropna().to_numpy()
    weights = 1 / known
    return {
        "click_rate": float(exposures["click"].mean()),
        "without_propensity": 1 - len(known) / len(exposures),
        "smallest_propensity": float(known.min()) if len(known) else None,
        "median_propensity": float(np.median(known)) if len(known) else None,
        "uniform_sample_size": float(weights.mean() ** 2 / np.mean(weights**2)) if len(known) else None,
    }


def exposure_curves(exposures: pd.DataFrame) -> dict[str, Curve]:
    """The curves of a log's exposures by name; none for what the log does not have.

    Returns:
        `propensities`: share of the known propensities that are at most 10^x. `click_rate`: share of clicked
        exposures by position, up to 20.
    """
    curves: dict[str, Curve] = {}
    if exposures.empty:
        return curves
    powers = np.sort(np.log10(exposures["propensity"].dropna().to_numpy()))
    if len(powers):
        low, high = np.floor(powers[0] - 1e-9), max(0.0, float(np.ceil(powers[-1])))
        points = np.linspace(low, high, POINTS)
        shares = np.searchsorted(powers, points + 1e-9, side="right") / len(powers)
        curves["propensities"] = list(zip(points.tolist(), shares.tolist(), strict=True))
    placed = exposures[exposures["position"].notna() & (exposures["position"] <= LAST_POSITION).fillna(False)]
    if len(placed):
        rates = placed.groupby("position")["click"].mean()
        positions = rates.index.to_numpy(dtype=float)
        curves["click_rate"] = list(zip(positions.tolist(), rates.tolist(), strict=True))
    return curves

"""Kinds of questions in which a recommender may do better or worse than on the whole: masks over M targets."""

import numpy as np

from llmrec.data.decision import Decisions

COLD = 5  # training clicks; items with fewer are cold
HEAD = 0.2  # share of the catalogue that is its head; all other items are the long tail
SHORT, LONG = 10, 50  # items of a history; up to the one it is short, above the other long


def slices(decisions: Decisions, clicks: np.ndarray, user_clicks: np.ndarray) -> dict[str, np.ndarray]:
    """Which targets belong to each slice.

    Args:
        decisions: M test decisions with their targets.
        clicks: training clicks of each item, [N].
        user_clicks: training clicks of each user of the log, [U].

    Returns:
        bool [M] each: `cold_items` (the target has fewer than 5 training clicks); `long_tail` (it is not among the
        20 % of the catalogue with the most training clicks) and `head`; `low_activity`, `middle_activity`,
        `high_activity` (terciles, by training clicks, of the users that are asked for); `short_history`,
        `middle_history`, `long_history` (up to 10, 11 to 50, more than 50 items before the target).
    """
    most = np.argsort(-clicks, kind="stable")[: int(np.ceil(HEAD * len(clicks)))]
    head = np.isin(decisions.targets, most)
    activity = user_clicks[decisions.users]
    low, high = np.quantile(user_clicks[np.unique(decisions.users)], [1 / 3, 2 / 3])
    lengths = np.array([len(history) for history in decisions.histories])
    return {
        "cold_items": clicks[decisions.targets] < COLD,
        "long_tail": ~head,
        "head": head,
        "low_activity": activity <= low,
        "middle_activity": (activity > low) & (activity <= high),
        "high_activity": activity > high,
        "short_history": lengths <= SHORT,
        "middle_history": (lengths > SHORT) & (lengths <= LONG),
        "long_history": lengths > LONG,
    }

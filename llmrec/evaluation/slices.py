"""Subsets of the test targets on which a recommender may be better or worse than on average, as masks."""

import numpy as np

from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.decision import Decisions
from llmrec.data.doctor import is_same_day
from llmrec.data.ragged import Ragged

COLD_CLICKS = 5  # an item with fewer training clicks is cold
HEAD_SHARE = 0.2  # share of the catalogue in its head; all other items are the long tail
SHORT_HISTORY = 10  # a history of at most so many items is short
LONG_HISTORY = 50  # a history of more items is long


def slices(decisions: Decisions, clicks: np.ndarray, user_clicks: np.ndarray) -> dict[str, np.ndarray]:
    """Assigns targets to slices.

    Args:
        decisions: M decisions with known targets.
        clicks: training clicks of each item, [N].
        user_clicks: training clicks of each user of the log, [U].

    Returns:
        bool [M] for each slice:
        `cold_items`: the target has fewer than 5 training clicks.
        `head`, `long_tail`: the target is, or is not, among the 20 % of items with the most training clicks.
        `low_activity`, `middle_activity`, `high_activity`: tercile of the user by training clicks, among the users of
        the targets.
        `short_history`, `middle_history`, `long_history`: up to 10, 11 to 50, or more than 50 items before the target.
        `seen_targets`, `new_targets`: the user has, or has not, clicked the target before; only if repeats are kept.
    """
    most_clicked = np.argsort(-clicks, kind="stable")[: int(np.ceil(HEAD_SHARE * len(clicks)))]
    head = np.isin(decisions.targets, most_clicked)
    activity = user_clicks[decisions.users]
    low, high = np.quantile(user_clicks[np.unique(decisions.users)], [1 / 3, 2 / 3])
    lengths = Ragged.of(decisions.histories).lengths
    seen = {}
    if decisions.repeats:
        pairs = zip(decisions.targets, decisions.histories, strict=True)
        is_seen = np.array([target in history for target, history in pairs], dtype=bool)
        seen = {"seen_targets": is_seen, "new_targets": ~is_seen}
    return {
        "cold_items": clicks[decisions.targets] < COLD_CLICKS,
        "long_tail": ~head,
        "head": head,
        "low_activity": activity <= low,
        "middle_activity": (activity > low) & (activity <= high),
        "high_activity": activity > high,
        "short_history": lengths <= SHORT_HISTORY,
        "middle_history": (lengths > SHORT_HISTORY) & (lengths <= LONG_HISTORY),
        "long_history": lengths > LONG_HISTORY,
        **seen,
    }


def day_slices(data: InteractionData, decisions: Decisions) -> dict[str, np.ndarray]:
    """Assigns targets to slices by the time since the item before.

    Most targets of one day complete a basket or a session, which is a simpler task than predicting a later event.

    Args:
        data: the prepared log.
        decisions: M decisions at targets of the log.

    Returns:
        bool [M] for each slice: `later_day` and `same_day` hold the targets whose calendar day (UTC) is, or is not,
        later than the day of the item before. Empty if the log has no times.
    """
    if not data.card.get("time"):
        return {}
    positions = Ragged.of(decisions.histories).lengths
    same_day = is_same_day(data, Targets(decisions.users, positions))
    return {"later_day": ~same_day, "same_day": same_day}

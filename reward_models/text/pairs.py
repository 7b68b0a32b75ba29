"""Pairs of items for the text reward model: what a user took, over what the same user could have taken and did not."""

from dataclasses import dataclass

import numpy as np

from llmrec.data.dataset import InteractionData
from reward_models.exposures import exposures_of
from reward_models.training_events import TrainingEvents


@dataclass(frozen=True)
class Pair:
    """Two items that one user could have taken at one time, the better one first.

    Attributes:
        user: its place in `TrainingEvents`.
        position: of the first item that the user had not had; the prompt ends before it.
        chosen, rejected: item indices.
        kind: `clicked` over skipped, or `purchased` over clicked.
    """

    user: int
    position: int
    chosen: int
    rejected: int
    kind: str


def skipped_exposures(data: InteractionData, users: np.ndarray) -> list[np.ndarray]:
    """What each user was shown and did not click: per user int64 [m, 2] of (clicks before it, item).

    What the user had already, or took next, was not turned down.
    """
    exposures = exposures_of(data, "train", users)
    result = []
    for user in users:
        rows = (exposures.users == user) & ~exposures.clicked
        first = {int(item): place for place, item in enumerate(data.train_histories[user])}
        pairs = zip(exposures.before[rows].tolist(), exposures.items[rows].tolist(), strict=True)
        kept = [(before, item) for before, item in pairs if first.get(item, len(first)) > before]
        result.append(np.array(kept, dtype=np.int64).reshape(-1, 2))
    return result


def preference_pairs(events: TrainingEvents, skipped: list[np.ndarray], limit: int, seed: int) -> list[Pair]:
    """A seeded sample of at most `limit` pairs of training events, in random order.

    Clicked over skipped: each click over a logged exposure before it that was not clicked; where none was logged, over
    a random click of somebody else's on an item that the user never clicked. So that an item is rejected as often as it
    is popular, and popularity alone wins nothing. Purchased over clicked: of two clicks in a row, the purchased one.
    """
    generator = np.random.default_rng(seed)
    places = []
    for user, (history, bought) in enumerate(zip(events.histories, events.purchases, strict=True)):
        places += [(user, t, "clicked") for t in range(len(history))]
        places += [(user, int(t), "purchased") for t in np.flatnonzero(bought[1:] != bought[:-1])]
    everything = np.concatenate(events.histories)
    pairs: list[Pair] = []
    for place in generator.permutation(len(places)):
        user, t, kind = places[place]
        history, bought = events.histories[user], events.purchases[user]
        if kind == "purchased":
            chosen, rejected = history[[t, t + 1]] if bought[t] else history[[t + 1, t]]
        else:
            chosen, rejected = history[t], _skipped(events, skipped[user], user, t, everything, generator)
        if rejected is not None:
            pairs.append(Pair(user, t, int(chosen), int(rejected), kind))
        if len(pairs) == limit:
            break
    return pairs


def _skipped(
    events: TrainingEvents,
    logged: np.ndarray,
    user: int,
    position: int,
    everything: np.ndarray,
    generator: np.random.Generator,
) -> int | None:
    """An item that the user skipped for the click at a position; None if the user has clicked all there is."""
    shown = logged[logged[:, 0] == position, 1]
    if len(shown):
        return int(generator.choice(shown))
    drawn = generator.choice(everything, 20)
    unseen = drawn[~np.isin(drawn, events.histories[user])]
    return int(unseen[0]) if len(unseen) else None

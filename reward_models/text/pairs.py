"""Preference pairs: an item that the user took is preferred to an item that the user did not take.

To take an item means to click it in pairs of kind `clicked`, and to purchase it in pairs of kind `purchased`.
"""

from dataclasses import dataclass

import numpy as np

from llmrec.data.dataset import InteractionData
from llmrec.data.ragged import Ragged
from reward_models.exposures import exposures_of
from reward_models.training_events import TrainingEvents

RANDOM_DRAWS = 20  # clicks of other users that are drawn to find an item that the user never clicked


@dataclass(frozen=True)
class Pair:
    """Two items that one user could have taken at one time.

    Attributes:
        user: position of the user in `TrainingEvents`.
        position: number of items of the history that the prompt shows.
        chosen: index of the preferred item.
        rejected: index of the other item.
        kind: `clicked` (over skipped) or `purchased` (over clicked).
    """

    user: int
    position: int
    chosen: int
    rejected: int
    kind: str


def skipped_exposures(data: InteractionData, users: np.ndarray) -> list[np.ndarray]:
    """Items that each user was shown and did not click.

    Items that the user had clicked before, or clicked next, were not skipped.

    Args:
        data: the prepared log.
        users: user indices.

    Returns:
        per user, int64 [m, 2] of (clicks before the exposure, item).
    """
    exposures = exposures_of(data, "train", users)
    result = []
    for user in users:
        rows = (exposures.users == user) & ~exposures.clicked
        position_of = {int(item): position for position, item in enumerate(data.train_histories[user])}
        shown = zip(exposures.before[rows].tolist(), exposures.items[rows].tolist(), strict=True)
        kept = [(before, item) for before, item in shown if position_of.get(item, len(position_of)) > before]
        result.append(np.array(kept, dtype=np.int64).reshape(-1, 2))
    return result


def preference_pairs(events: TrainingEvents, skipped: list[np.ndarray], limit: int, seed: int) -> list[Pair]:
    """A seeded sample of pairs of training events, in random order.

    * `clicked`: a click over an exposure at the same time that was skipped. If none was logged, over the item of a
      random click of another user that the user never clicked. An item is then rejected about as often as it is
      clicked, so popularity alone does not decide a pair.
    * `purchased`: of two consecutive clicks of which one is a purchase, the purchased item over the other.

    Args:
        events: the training events.
        skipped: see `skipped_exposures`.
        limit: largest number of pairs.
        seed: seed of the sample.
    """
    generator = np.random.default_rng(seed)
    clicks = events.histories.lengths
    ends = np.cumsum(clicks + _changes(events.purchases))  # a candidate is a click, or a change between two flags
    pairs: list[Pair] = []
    for number in map(int, generator.permutation(ends[-1])):
        user = int(np.searchsorted(ends, number, side="right"))
        position = number - int(ends[user - 1] if user else 0)
        kind = "clicked"
        if position >= clicks[user]:
            kind = "purchased"
            position = int(np.flatnonzero(np.diff(events.purchases[user]))[position - clicks[user]])
        history = events.histories[user]
        if kind == "purchased":
            chosen, rejected = history[position : position + 2]
            if not events.purchases[user][position]:
                chosen, rejected = rejected, chosen
        else:
            chosen = history[position]
            rejected = _skipped(skipped[user], history, position, events, generator)
        if rejected is not None:
            pairs.append(Pair(user=user, position=position, chosen=int(chosen), rejected=int(rejected), kind=kind))
        if len(pairs) == limit:
            break
    return pairs


def _changes(purchases: Ragged) -> np.ndarray:
    """How often the purchase flag changes between two consecutive clicks of each user, int64 [U]."""
    counts = [np.zeros(0, dtype=np.int64)]
    for part in purchases.parts():
        flags = part.flat()
        owner = np.repeat(np.arange(len(part)), part.lengths)
        changes = (owner[1:] == owner[:-1]) & (flags[1:] != flags[:-1])
        counts.append(np.bincount(owner[1:][changes], minlength=len(part)))
    return np.concatenate(counts)


def _skipped(
    logged: np.ndarray, history: np.ndarray, position: int, events: TrainingEvents, generator: np.random.Generator
) -> int | None:
    """An item that the user skipped at a position; None if no unclicked item was found.

    Args:
        logged: skipped exposures of the user, [m, 2].
        history: training clicks of the user.
        position: position of the click.
        events: the training events, of which a click is drawn.
        generator: draws the item.
    """
    shown = logged[logged[:, 0] == position, 1]
    if len(shown):
        return int(generator.choice(shown))
    drawn = events.histories.items(generator.choice(events.num_events, RANDOM_DRAWS))
    unclicked = drawn[~np.isin(drawn, history)]
    return int(unclicked[0]) if len(unclicked) else None

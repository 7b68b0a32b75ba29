"""What flows through a world: who lives in it, where each life stands, and what a step came to."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from llmrec.simulator.tastes import Moments, Tastes

REWARD_PARTS = ("click", "purchase", "return")
NEVER = np.float32(-1e9)  # day of the last click on an item that was never clicked


@dataclass
class State:
    """Where n lives stand. `step` changes it in place; `copy` keeps it.

    Attributes:
        life: number of the life, int64 [n]. It names the random numbers that the life meets.
        user: user of each life, int64 [n].
        steps: steps since the start of the life, int64 [n].
        session_steps: steps in the present session, int64 [n].
        session_purchases: purchases in the present session, int64 [n].
        sessions: number of the present session, from 1, int64 [n].
        day: days since the start of the life, float64 [n].
        last_gap: days between the present session and the one before, 0 in the first, float64 [n].
        taken: clicks so far, with those known at the start, int64 [n].
        recent: last clicks, newest last, N where there are none, int64 [n, H].
        last_click: day of the last click on each item, `NEVER` without one, float32 [n, N].
        fatigue: how much each category was shown lately, float32 [n, C].
        click_rate: recent click rate, float64 [n].
        over: whether the life has ended, bool [n].
    """

    life: np.ndarray
    user: np.ndarray
    steps: np.ndarray
    session_steps: np.ndarray
    session_purchases: np.ndarray
    sessions: np.ndarray
    day: np.ndarray
    last_gap: np.ndarray
    taken: np.ndarray
    recent: np.ndarray
    last_click: np.ndarray
    fatigue: np.ndarray
    click_rate: np.ndarray
    over: np.ndarray

    def copy(self) -> "State":
        """A state of its own with the same values."""
        return State(**{one.name: getattr(self, one.name).copy() for one in fields(self)})

    def rows(self, chosen: np.ndarray) -> "State":
        """The state of some lives alone, copied."""
        return State(**{one.name: getattr(self, one.name)[chosen] for one in fields(self)})

    @property
    def moments(self) -> Moments:
        """What the tastes depend on."""
        return Moments(self.user, self.recent, self.taken)

    @property
    def seen(self) -> np.ndarray:
        """Which items each life has clicked, bool [n, N]."""
        return self.last_click > NEVER


@dataclass(frozen=True)
class Outcome:
    """What n lives did in one step. Rows of lives that were over before hold zeros.

    Attributes:
        clicked: item that was clicked, -1 for none, int64 [n].
        purchased: whether the click was a purchase, bool [n].
        ended: whether the session ended, bool [n].
        returned: whether the user came back after the end of the session, within the horizon, bool [n].
        gap: days until the next session, 0 if the session goes on or nobody comes back, float64 [n].
        over: whether the life is over, bool [n].
        truncated: whether it was cut off by the number of steps, bool [n].
        parts: reward by part, in the order of `REWARD_PARTS`, float64 [n, 3].
        reward: weighted sum of the parts, float64 [n].
    """

    clicked: np.ndarray
    purchased: np.ndarray
    ended: np.ndarray
    returned: np.ndarray
    gap: np.ndarray
    over: np.ndarray
    truncated: np.ndarray
    parts: np.ndarray
    reward: np.ndarray


@dataclass(frozen=True)
class Population:
    """Who lives in a world and what it offers.

    Attributes:
        tastes: utilities of items for users.
        purchase_logits: factors of the log-odds that a click is a purchase, float32 [U, 3] and [N, 3]; see
            `purchase_factors`.
        known: first clicks of each user, which a recommender knows when a life begins, int64 arrays, [U] of them.
        categories: categories of each item, rows of length 1 or 0, float32 [N, C].
        values: what the purchase of each item is worth, margin included, float64 [N].
        profiles: what a recommender knows of each user beside clicks, float32 [U, F].
    """

    tastes: Tastes
    purchase_logits: tuple[np.ndarray, np.ndarray]
    known: Sequence[np.ndarray]
    categories: np.ndarray
    values: np.ndarray
    profiles: np.ndarray

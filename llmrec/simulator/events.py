"""The part of a log that a world is fitted on: users whom no reward model, judge or policy was trained on."""

from dataclasses import dataclass, fields

import numpy as np

from llmrec.data.dataset import InteractionData
from llmrec.errors import DataError
from llmrec.simulator.tastes import Moments

DAY = 86_400.0
VALID_SHARE = 0.1  # share of each user's clicks, after the training clicks, that choose the settings of the tastes
TEST_SHARE = 0.2  # share of each user's clicks, the last ones, that test the world
MIN_CLICKS = 5  # fewest clicks of a user of a world


@dataclass(frozen=True)
class UserEvents:
    """Clicks of the users of a world, oldest first.

    Attributes:
        users: user indices in the prepared data, int64 [U].
        items: item indices of each user, [U] arrays.
        purchases: whether each click was a purchase, [U] bool arrays.
        days: time of each click in days since 1970, [U] float arrays.
        sessions: number of the session of each click, from 0, [U] int64 arrays.
        num_items: number N of items.
        last_day: time of the last click of the whole log, in days since 1970.
    """

    users: np.ndarray
    items: list[np.ndarray]
    purchases: list[np.ndarray]
    days: list[np.ndarray]
    sessions: list[np.ndarray]
    num_items: int
    last_day: float

    def __len__(self) -> int:
        return len(self.users)

    def subset(self, chosen: np.ndarray) -> "UserEvents":
        """The events of some users.

        Args:
            chosen: places in `users`.
        """
        lists = [
            [values[place] for place in chosen] for values in (self.items, self.purchases, self.days, self.sessions)
        ]
        return UserEvents(self.users[chosen], *lists, num_items=self.num_items, last_day=self.last_day)

    @property
    def lengths(self) -> np.ndarray:
        """Number of clicks of each user, int64 [U]."""
        return np.array([len(items) for items in self.items])

    @property
    def train_lengths(self) -> np.ndarray:
        """First clicks of each user that fit the tastes, int64 [U]."""
        return np.floor((1 - TEST_SHARE - VALID_SHARE) * self.lengths).astype(np.int64)

    @property
    def test_starts(self) -> np.ndarray:
        """Position of the first test click of each user, int64 [U]."""
        return np.floor((1 - TEST_SHARE) * self.lengths).astype(np.int64)


def held_out_events(data: InteractionData, session_gap: float, min_users: int) -> UserEvents:
    """The users whose first click lies in the test window of the temporal split.

    None of their clicks is a training or a selection click, so no reward model, judge or policy has used them.

    Args:
        data: the prepared log.
        session_gap: minutes without a click after which a new session starts.
        min_users: fewest users.

    Raises:
        DataError: the log has no times or no temporal split, or there are too few users.
    """
    if not data.card.get("time", {"unknown": True}):
        raise DataError(
            "The log has no times, so sessions, the time to return and later users cannot be told apart, and no part "
            "of a world can be fitted or checked. Name the column in `data.columns.timestamp`."
        )
    _, start = data.temporal_cuts()
    if not np.isfinite(start):
        raise DataError(
            f"The splits of the log are {', '.join(data.targets)}; expected `temporal`, whose test window holds the "
            "users of the world. Add it to `data.splits`."
        )
    late = [
        user
        for user, times in enumerate(data.timestamps)
        if len(times) >= MIN_CLICKS and times[0] >= start and not data.train_lengths[user]
    ]
    if len(late) < min_users:
        raise DataError(
            f"{len(late)} users have {MIN_CLICKS} or more clicks and all of them in the test window of the temporal "
            f"split; expected at least {min_users} (`simulator.min_users`). Raise `data.temporal_test` (up to 0.5), or "
            "use a longer log."
        )
    days = [np.asarray(data.timestamps[user], dtype=np.float64) / DAY for user in late]
    return UserEvents(
        users=np.array(late),
        items=[np.asarray(data.histories[user]) for user in late],
        purchases=[_satisfying(data, user) for user in late],
        days=days,
        sessions=[session_numbers(times, session_gap / 1440) for times in days],
        num_items=data.num_items,
        last_day=max(float(times[-1]) for times in data.timestamps if len(times)) / DAY,
    )


def has_purchases(data: InteractionData) -> bool:
    """Whether the log tells purchases from clicks."""
    return data.card.get("rules", {}).get("purchase") != []


def _satisfying(data: InteractionData, user: int) -> np.ndarray:
    """Which clicks of a user were purchases; all of them if the log has no purchases, so that clicks satisfy."""
    return np.asarray(data.purchases[user], dtype=bool) | (not has_purchases(data))


def session_numbers(days: np.ndarray, gap: float) -> np.ndarray:
    """Number of the session of each click: a new session starts after more than `gap` days.

    Args:
        days: times of clicks, ascending, float [n].
        gap: longest pause within a session, in days.

    Returns:
        int64 [n], from 0.
    """
    return np.concatenate([[0], np.cumsum(np.diff(days) > gap)]).astype(np.int64)


@dataclass(frozen=True)
class Choices:
    """Choices of the log: which item a user took next.

    Attributes:
        users: place of each user in the events, int64 [M].
        recent: clicks before, newest last, N where there are none, int64 [M, H].
        items: the item that was taken, int64 [M].
        positions: position of the click in its history, int64 [M].
        fatigue: how much each category was clicked lately, float32 [M, C].
    """

    users: np.ndarray
    recent: np.ndarray
    items: np.ndarray
    positions: np.ndarray
    fatigue: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    @property
    def moments(self) -> Moments:
        """What the tastes depended on at each choice."""
        return Moments(self.users, self.recent, self.positions)

    def part(self, chosen: np.ndarray) -> "Choices":
        """Some of the choices."""
        return Choices(*(getattr(self, one.name)[chosen] for one in fields(Choices)))

    def joined(self, other: "Choices") -> "Choices":
        """These choices and those of another part."""
        return Choices(
            *(np.concatenate([getattr(self, one.name), getattr(other, one.name)]) for one in fields(Choices))
        )


def choices(events: UserEvents, history: int, categories: np.ndarray, memory: float, recovery: float) -> Choices:
    """All choices but the first of each user.

    Args:
        events: the log.
        history: number H of clicks that are remembered.
        categories: categories of each item, float32 [N, C].
        memory: share of the fatigue of a category that remains after a click.
        recovery: days after which a fraction 1/e of the fatigue is left.
    """
    users = []
    recent = []
    tired = []
    for user, (items, days) in enumerate(zip(events.items, events.days, strict=True)):
        padded = np.concatenate([np.full(history, events.num_items), items])
        recent.append(np.lib.stride_tricks.sliding_window_view(padded, history)[1 : len(items)])
        users.append(np.full(len(items) - 1, user))
        tired.append(fatigue_before(categories[items], days, memory, recovery)[1:])
    return Choices(
        users=np.concatenate(users),
        recent=np.concatenate(recent),
        items=np.concatenate([items[1:] for items in events.items]),
        positions=np.concatenate([np.arange(1, len(items)) for items in events.items]),
        fatigue=np.concatenate(tired),
    )


def fatigue_before(rows: np.ndarray, days: np.ndarray, memory: float, recovery: float) -> np.ndarray:
    """Fatigue of each category before each click, as `People` has it if only the clicked item is shown.

    Args:
        rows: categories of the clicked items in order, float32 [n, C].
        days: times of the clicks, float [n].
        memory: share that remains after a click.
        recovery: days after which a fraction 1/e is left.

    Returns:
        float32 [n, C].
    """
    fatigue = np.zeros(rows.shape[1], np.float32)
    before = np.zeros_like(rows)
    for place in range(1, len(rows)):
        fatigue = memory * fatigue + (1 - memory) * rows[place - 1]
        fatigue *= np.exp(-(days[place] - days[place - 1]) / recovery)
        before[place] = fatigue
    return before


@dataclass(frozen=True)
class LogFacts:
    """What fixes the probabilities of choices beside the tastes.

    Attributes:
        first: position at which each user first took each item, see `first_positions`, int32 [U, N].
        satiation: categories of each item times the utility that a fatigue of 1 costs, float32 [N, C].
    """

    first: np.ndarray
    satiation: np.ndarray

    @property
    def num_users(self) -> int:
        """Number U of users."""
        return self.first.shape[0]

    @property
    def num_items(self) -> int:
        """Number N of items."""
        return self.first.shape[1]

    def seen(self, chosen: Choices) -> np.ndarray:
        """Which items the user had taken before each choice, bool [M, N]."""
        return self.first[chosen.users] < chosen.positions[:, None]

    def loss(self, chosen: Choices) -> np.ndarray:
        """Utility that each item has lost by fatigue at each choice, float32 [M, N]."""
        return chosen.fatigue @ self.satiation.T


def first_positions(events: UserEvents) -> np.ndarray:
    """Position at which each user first took each item, int32 [U, N]; larger than any position if never."""
    first = np.full((len(events), events.num_items), np.iinfo(np.int32).max, np.int32)
    for user, items in enumerate(events.items):
        np.minimum.at(first[user], items, np.arange(len(items), dtype=np.int32))
    return first

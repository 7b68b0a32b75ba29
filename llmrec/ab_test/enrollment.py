"""Enrollment: who is in the test, in which arm and since when, and whether the log agrees with the assignment."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from llmrec.ab_test.assignment import Assigner
from llmrec.ab_test.log import NO_ARM, Events
from llmrec.config import ABTestConfig
from llmrec.errors import DataError

DAY = 86400
MAX_MIXED = 0.001  # largest share of users in two arms, or in another arm than their hash, that is left out silently
_PROPENSITY_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Enrollment:
    """The users of a test.

    Attributes:
        user: index of each enrolled user in `Events.ids`, int64 [U].
        arm: index of the user's arm, int64 [U].
        first: time of the user's first exposure in the test, seconds since 1970, int64 [U].
        start: first second of the test.
        until: end of the part of the log that counts, seconds since 1970.
        in_two_arms: number of users that were left out because two arms served them.
        in_other_arm: number of users that were left out because the hash assigns them to another arm.
    """

    user: np.ndarray
    arm: np.ndarray
    first: np.ndarray
    start: int
    until: int
    in_two_arms: int
    in_other_arm: int

    @property
    def day(self) -> np.ndarray:
        """Day of the first exposure since the start of the test, from 0, int64 [U]."""
        return (self.first - self.start) // DAY


def enroll(events: Events, config: ABTestConfig, until: int | None = None) -> Enrollment:
    """Finds the users whose first exposure lies in the test.

    Args:
        events: the log.
        config: the test.
        until: time at which the log is cut, seconds since 1970; None, or a later time, for its end.

    Raises:
        DataError: nobody is in the test, too many users are in two arms or in another arm than their hash, or the
            logged propensities are not the shares.
    """
    start = seconds_of(config.start)
    logged = int(events.time.max()) + 1
    until = logged if until is None else min(until, logged)
    closed = min(until, seconds_of(config.end) + DAY)
    exposed = np.flatnonzero((events.arm != NO_ARM) & (events.time >= start) & (events.time < closed))
    if not len(exposed):
        raise DataError(
            f"{events.source.path}: no row with an arm lies between {day_text(start)} and {day_text(closed)}; expected "
            "the exposures of the test. Check `data.columns.arm`, `start` and `end`."
        )
    _check_propensities(events, config, exposed)
    user, first_row = np.unique(events.user[exposed], return_index=True)  # rows are sorted by time within a user
    arm = events.arm[exposed][first_row]
    # Later rows of an enrolled user may lie after the end, where the other arm would also mix the two.
    served = np.flatnonzero((events.arm != NO_ARM) & (events.time >= start) & (events.time < until))
    served = served[np.isin(events.user[served], user)]
    own = arm[np.searchsorted(user, events.user[served])]
    mixed = np.isin(user, events.user[served][events.arm[served] != own])
    _check_share(int(mixed.sum()), len(user), _MIXED, str(events.source.path))
    other = np.zeros(len(user), dtype=bool)
    if config.salt is not None:
        other = ~mixed & (Assigner(config).indices(events.ids[user]) != arm)
        _check_share(int(other.sum()), len(user), _OTHER, str(events.source.path))
    kept = ~mixed & ~other
    return Enrollment(
        user=user[kept],
        arm=arm[kept],
        first=events.time[exposed][first_row][kept],
        start=start,
        until=until,
        in_two_arms=int(mixed.sum()),
        in_other_arm=int(other.sum()),
    )


_MIXED = (
    "are in two arms",
    "Find out why the assignment is not stable, and start a test of another name.",
)
_OTHER = (
    "are in another arm than the hash of salt, name and user id gives",
    "If `salt` or `arms` was changed in flight, restore it, or start a test of another name. If another system assigns "
    "users, set `salt: null`.",
)


def _check_share(count: int, users: int, problem: tuple[str, str], path: str) -> None:
    found, fix = problem
    if count > MAX_MIXED * users:
        raise DataError(f"{path}: {count:,} of {users:,} users {found}; expected at most {MAX_MIXED:.1%}. {fix}")


def _check_propensities(events: Events, config: ABTestConfig, exposed: np.ndarray) -> None:
    """Refuses logged propensities that are not the shares of the arms.

    Raises:
        DataError: a propensity differs.
    """
    shares = np.array(list(config.arms.values()))
    logged = events.propensity[exposed]
    expected = shares[events.arm[exposed]]
    wrong = np.flatnonzero(np.abs(logged - expected) > _PROPENSITY_TOLERANCE)  # false for unknown ones
    if len(wrong):
        row = exposed[wrong[0]]
        arm = list(config.arms)[events.arm[row]]
        raise DataError(
            f"{events.source.at(events.columns.index[row])}: the propensity of the arm `{arm}` is "
            f"{events.propensity[row]:g} ({len(wrong) - 1} more rows differ); expected its share, "
            f"{config.arms[arm]:g}. If the shares were changed in flight, restore them, or start a test of "
            "another name."
        )


def seconds_of(day: object) -> int:
    """First second of a day in UTC, since 1970."""
    return int(datetime.fromisoformat(str(day)).replace(tzinfo=UTC).timestamp())


def day_text(seconds: int) -> str:
    """The day in UTC of a time, as in 2026-03-01."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")

"""Outcomes: what each user did in the days of a metric, and in the days before the test."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from llmrec.ab_test.enrollment import DAY, Enrollment
from llmrec.ab_test.log import Events
from llmrec.ab_test.moments import Moments, moments_at_looks
from llmrec.config import ABMetricConfig
from llmrec.data.feedback import match_rules
from llmrec.errors import DataError

_NAMES = ("event_type",)  # columns of `Events` that have a fixed name


@dataclass(frozen=True)
class Outcomes:
    """One metric of all enrolled users.

    Attributes:
        values: numerator and denominator of the metric, then of its covariate, float64 [U, 4].
        ready: time at which the user's days are over, seconds since 1970, int64 [U].
    """

    values: np.ndarray
    ready: np.ndarray

    def moments(self, chosen: np.ndarray, looks: np.ndarray) -> Moments:
        """Moments of some users at each look; the center is that of all users.

        Args:
            chosen: the users, bool [U].
            looks: ascending times, seconds since 1970, [L].
        """
        return moments_at_looks(self.values[chosen], self.ready[chosen], looks, self.values.mean(0))


def measure(events: Events, enrollment: Enrollment, metric: ABMetricConfig, covariate_days: int | None) -> Outcomes:
    """Measures one metric for each enrolled user.

    Args:
        events: the log.
        enrollment: its enrolled users.
        metric: the metric.
        covariate_days: days before the first exposure from which the covariate is computed; None for no covariate.

    Raises:
        ConfigError: a rule names an event type or column that the log lacks.
        DataError: the column of a mean is missing or holds no numbers.
    """
    position = np.full(len(events.ids), -1)
    position[enrollment.user] = np.arange(len(enrollment.user))
    user = position[events.user]
    since = np.where(user >= 0, events.time - enrollment.first[user], 0)
    counts = (user >= 0) & (events.time < enrollment.until)
    inside = counts & (since >= 0) & (since < metric.window_days * DAY)
    before = counts & (since < 0) & (since >= -(covariate_days or 0) * DAY)
    values = np.empty((len(enrollment.user), 4))
    measurement = _Measurement(events, metric, user, len(values))
    values[:, :2] = measurement.metric_numbers(inside, since >= DAY)
    values[:, 2:] = measurement.covariate_numbers(before)
    return Outcomes(values, enrollment.first + metric.window_days * DAY)


@dataclass(frozen=True)
class _Measurement:
    """Sums of a metric's events over users.

    Attributes:
        events: the log.
        metric: the metric.
        user: index of the enrolled user of each row, -1 if the user is not enrolled, int64 [E].
        users: number of enrolled users.
    """

    events: Events
    metric: ABMetricConfig
    user: np.ndarray
    users: int

    def metric_numbers(self, rows: np.ndarray, later: np.ndarray) -> np.ndarray:
        """Numerator and denominator of the metric of each user, float64 [U, 2].

        Args:
            rows: rows that count, bool [E].
            later: rows a day or more after the first exposure, bool [E].
        """
        match self.metric.kind:
            case "conversion":
                pair = self._sum(rows & self._matching("event")) > 0, np.ones(self.users)
            case "retention":
                pair = self._sum(rows & later) > 0, np.ones(self.users)
            case _:
                pair = self._ratio(rows)
        return np.stack(pair, axis=1).astype(np.float64)

    def covariate_numbers(self, rows: np.ndarray) -> np.ndarray:
        """Numerator and denominator of the covariate of each user, float64 [U, 2].

        Ratios have the same ratio before the test as covariate. Conversion has the number of matching events, and
        retention the number of days with an event, because yes or no before the test says less.
        """
        match self.metric.kind:
            case "conversion":
                pair = self._sum(rows & self._matching("event")), np.ones(self.users)
            case "retention":
                pair = self._active_days(rows), np.ones(self.users)
            case _:
                pair = self._ratio(rows)
        return np.stack(pair, axis=1)

    def _ratio(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.metric.kind == "rate":
            return self._sum(rows & self._matching("event")), self._sum(rows & self._matching("per"))
        if self.metric.kind == "session_length":
            return self._sum(rows), self._sum(self._session_starts(rows))
        values = self._column()
        known = rows & ~np.isnan(values)
        return self._sum(known, values), self._sum(known)

    def _active_days(self, rows: np.ndarray) -> np.ndarray:
        chosen = np.flatnonzero(rows)
        user = self.user[chosen]
        day = self.events.time[chosen] // DAY
        new = (np.diff(user, prepend=-1) != 0) | (np.diff(day, prepend=-1) != 0)  # rows are sorted by user and time
        return np.bincount(user[new], minlength=self.users).astype(np.float64)

    def _sum(self, rows: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        chosen = None if weights is None else weights[rows]
        return np.bincount(self.user[rows], chosen, minlength=self.users).astype(np.float64)

    def _session_starts(self, rows: np.ndarray) -> np.ndarray:
        """Rows with which a session begins among `rows`, bool [E]; the first row of a user is one of them."""
        chosen = np.flatnonzero(rows)
        starts = np.zeros(len(rows), dtype=bool)
        starts[chosen] = self.events.session_starts[chosen] | (np.diff(self.user[chosen], prepend=-1) != 0)
        return starts

    def _matching(self, key: str) -> np.ndarray:
        """Rows that match the rule of a key, bool [E]; every row without a rule."""
        rule: str | None = getattr(self.metric, key)
        if rule is None:
            return np.ones(len(self.user), dtype=bool)
        return match_rules(self.events.columns, [rule], f"metrics.{self.metric.name}.{key}")

    def _column(self) -> np.ndarray:
        """The averaged column, float64 [E]; NaN where it is empty.

        Raises:
            DataError: the column is missing or holds other values.
        """
        name = str(self.metric.column)
        frame = self.events.columns
        key = f"metrics.{self.metric.name}.column"
        if name not in frame.columns:
            found = ", ".join(str(one) for one in frame.columns if one not in _NAMES) or "none"
            raise DataError(f"{self.events.source.path}: `{key}` is `{name}`; the log has {found}. Correct the key.")
        values = pd.to_numeric(frame[name], errors="coerce").astype("float64")
        bad = frame[name].notna() & ~np.isfinite(values)
        self.events.source.refuse(frame[name], bad, "a finite number", f"Correct the rows or `{key}`.")
        values = values.where(~bad)
        if values.isna().all():
            raise DataError(f"{self.events.source.path}: `{name}` holds no number; expected numbers. Correct `{key}`.")
        return values.to_numpy()

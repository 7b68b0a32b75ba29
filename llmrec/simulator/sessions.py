"""What a log says about sessions: how long they are, who comes back and when. Fitted with intervals."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llmrec.config.simulator import AssumptionsConfig
from llmrec.simulator.behavior import satisfaction
from llmrec.simulator.events import UserEvents
from llmrec.simulator.parameters import Parameter, Parameters
from llmrec.simulator.regression import logistic_regression

MIN_RETURNS = 20  # fewest sessions of which it is known whether the user came back, and fewest returns
QUANTILES = 21
ASSUMED_GAP = 7.0  # mean days until the return where the log has too few
ASSUMED_RETURN = 0.5  # probability of coming back where the log has too few sessions


@dataclass(frozen=True)
class Sessions:
    """Sessions of a log.

    Attributes:
        user: place of the user in the events, int64 [S].
        clicks: clicks of each session, int64 [S].
        purchases: purchases of each session, int64 [S].
        start: first and
        end: last click of each session, days since 1970, float64 [S].
        gap: days until the next session of the user, infinity for the last one, float64 [S].
    """

    user: np.ndarray
    clicks: np.ndarray
    purchases: np.ndarray
    start: np.ndarray
    end: np.ndarray
    gap: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def part(self, chosen: np.ndarray) -> "Sessions":
        """Some of the sessions."""
        return Sessions(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def sessions_of(events: UserEvents) -> Sessions:
    """The sessions of a log, by user and time."""
    rows = list(_rows(events))
    user, clicks, purchases, start, end, gap = (np.array(column) for column in zip(*rows, strict=True))
    return Sessions(user, clicks, purchases, start, end, gap)


def _rows(events: UserEvents) -> Iterator[tuple[int, int, int, float, float, float]]:
    for user, (numbers, bought, days) in enumerate(zip(events.sessions, events.purchases, events.days, strict=True)):
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        ends = np.append(starts[1:], len(numbers))
        for place, (first, last) in enumerate(zip(starts, ends, strict=True)):
            gap = float(days[last] - days[last - 1]) if place + 1 < len(starts) else np.inf
            yield user, last - first, int(bought[first:last].sum()), float(days[first]), float(days[last - 1]), gap


def session_parameters(events: UserEvents, assumed: AssumptionsConfig, horizon: float) -> Parameters:
    """Parameters of session ends and returns.

    Args:
        events: the users that are fitted.
        assumed: what the log cannot tell.
        horizon: days after which a return no longer counts.
    """
    found = sessions_of(events)
    purchased = np.concatenate(events.purchases)
    rate = float(np.clip(purchased.mean(), 0.01, 0.99))
    half = 1.96 * np.sqrt(rate * (1 - rate) / len(purchased))
    return {
        "purchase_rate": Parameter(rate, "fitted", "share of clicks that are purchases", (rate - half, rate + half),
                                   len(purchased)),
        **_end_parameters(found),
        **_return_parameters(found, rate, events.last_day, assumed, horizon),
    }  # fmt: skip


def _end_parameters(found: Sessions) -> Parameters:
    """The hazard of a session's end after each of its clicks."""
    step = np.concatenate([np.arange(1, clicks + 1) for clicks in found.clicks])
    is_last = np.zeros(len(step))
    is_last[np.cumsum(found.clicks) - 1] = 1.0
    weights, errors = logistic_regression(np.stack([np.ones(len(step)), np.log(step)], axis=1), is_last)
    source = "logistic regression of the end of a session on the logarithm of the click's number in it"
    return {
        name: Parameter(float(w), "fitted", source, (float(w - 1.96 * e), float(w + 1.96 * e)), len(step))
        for name, w, e in zip(("end_intercept", "end_log_step"), weights, errors, strict=True)
    }


def _return_parameters(
    found: Sessions, rate: float, last_day: float, assumed: AssumptionsConfig, horizon: float
) -> Parameters:
    """Who comes back within the horizon, and after how many days."""
    complete = found.part(found.end <= last_day - horizon)
    came_back = complete.gap <= horizon
    gaps = found.gap[found.gap <= horizon]
    slope = Parameter(float(assumed.return_satisfaction or 0.0), "assumed", "simulator.assumptions.return_satisfaction")
    if min(came_back.sum(), (~came_back).sum()) >= MIN_RETURNS:
        pleased = satisfaction(complete.purchases, complete.clicks, rate)
        length = np.log(complete.clicks)
        features = np.stack([np.ones(len(pleased)), pleased, length - length.mean()], axis=1)
        weights, errors = logistic_regression(features, came_back)
        source = "logistic regression of a return within the horizon on the satisfaction and log length of the session"
        low, high = weights - 1.96 * errors, weights + 1.96 * errors
        intercept = Parameter(float(weights[0]), "fitted", source, (float(low[0]), float(high[0])), len(pleased))
        estimate = (float(weights[1]), float(low[1]), float(high[1]))
        if assumed.return_satisfaction is None:
            slope = Parameter(estimate[0], "fitted", source, estimate[1:], len(pleased))
        else:
            slope = Parameter(slope.value, "assumed", slope.source, n=len(pleased), log_estimate=estimate)
    else:
        intercept = Parameter(
            float(np.log(ASSUMED_RETURN / (1 - ASSUMED_RETURN))),
            "assumed",
            f"the log has {int(came_back.sum())} returns after {len(complete)} sessions that ended {horizon:g} days or "
            f"more before its end; {MIN_RETURNS} returns and as many losses are needed",
        )
    if assumed.return_rate is not None:
        odds = float(np.log(assumed.return_rate / (1 - assumed.return_rate)))
        intercept = Parameter(odds, "assumed", "simulator.assumptions.return_rate")
    return {"return_intercept": intercept, "return_satisfaction": slope, "gap_quantiles": _gap_quantiles(gaps)}


def _gap_quantiles(gaps: np.ndarray) -> Parameter:
    levels = np.linspace(0.0, 1.0, QUANTILES)
    if len(gaps) >= MIN_RETURNS:
        values = np.quantile(gaps, levels).tolist()
        return Parameter(values, "fitted", "quantiles of the days between two sessions of a user", n=len(gaps))
    values = (-ASSUMED_GAP * np.log1p(-np.minimum(levels, 0.99))).tolist()
    source = f"exponential with mean {ASSUMED_GAP:g} days: the log has {len(gaps)} returns, {MIN_RETURNS} are needed"
    return Parameter(values, "assumed", source)

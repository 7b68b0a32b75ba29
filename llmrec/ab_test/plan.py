"""Plan of an A/B test: users and days that it needs, from a log of the time before it."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from llmrec.ab_test.enrollment import DAY, Enrollment, day_text, seconds_of
from llmrec.ab_test.estimates import linearized_variance, ratio
from llmrec.ab_test.log import Events
from llmrec.ab_test.moments import moments_at_looks
from llmrec.ab_test.outcomes import measure
from llmrec.ab_test.sequential import critical_value
from llmrec.config import ABMetricConfig, ABTestConfig
from llmrec.errors import DataError

MIN_HISTORY_USERS = 200  # users of the log from which a variance is estimated
_RECENT_DAYS = 7  # days whose new users a day stand for the future


@dataclass(frozen=True)
class MetricPlan:
    """What one metric needs.

    Attributes:
        metric: name of the metric.
        role: what the metric decides.
        baseline: its value in the log.
        deviation: standard deviation of one user's contribution, without CUPED.
        variance_reduction: share of the variance that CUPED removes; None without covariate.
        effect: absolute change that is to be found.
        users_one_look: users of all arms for one look at the end.
        users_always_valid: users of all arms for looks on every day, at most.
    """

    metric: str
    role: str
    baseline: float
    deviation: float
    variance_reduction: float | None
    effect: float
    users_one_look: int
    users_always_valid: int


@dataclass(frozen=True)
class Plan:
    """What the test needs.

    Attributes:
        name: name of the test.
        history: first and last day of the log that was used.
        history_users: users from whom baselines were estimated.
        new_users_a_day: new users a day in the last week of the log.
        metrics: what each metric needs.
        planned_users: users for the primary metric with looks on every day.
        days_one_look: days until enough users have entered for one look and their outcome is known.
        days_always_valid: the same for looks on every day, at most.
    """

    name: str
    history: tuple[str, str]
    history_users: int
    new_users_a_day: float
    metrics: list[MetricPlan]
    planned_users: int
    days_one_look: float
    days_always_valid: float

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return asdict(self)


def make_plan(events: Events, config: ABTestConfig) -> Plan:
    """Computes the users and days that a test needs, from the rows before its start.

    Users whose first row lies after the days of the covariate stand for the users of the test.

    Raises:
        ConfigError: a rule of a metric names what the log lacks.
        DataError: the log before the start is too short or has too few users, or a baseline is 0.
    """
    history = _history(events, config)
    plans: list[MetricPlan] = []
    for metric in config.metrics:
        outcomes = measure(events, history, metric, config.covariate_days)
        known = outcomes.ready <= history.until
        if known.sum() < MIN_HISTORY_USERS:
            raise DataError(
                f"{events.source.path}: {known.sum()} users have {metric.window_days} days behind them, as the metric "
                f"`{metric.name}` needs, in the log from {day_text(history.start)} to {day_text(history.until)}; "
                f"expected at least {MIN_HISTORY_USERS}. Use a longer log."
            )
        plans.append(plan_metric(outcomes.values[known], metric, config))
    primary_metric, primary = next(
        (metric, one) for metric, one in zip(config.metrics, plans, strict=True) if metric.role == "primary"
    )
    arrivals = np.sort(history.day)
    days = int(arrivals[-1]) + 1
    recent = int((arrivals >= days - _RECENT_DAYS).sum()) / min(_RECENT_DAYS, days)
    return Plan(
        name=config.name,
        history=(day_text(history.start), day_text(history.until)),
        history_users=len(history.user),
        new_users_a_day=recent,
        metrics=plans,
        planned_users=primary.users_always_valid,
        days_one_look=days_until(primary.users_one_look, arrivals, recent) + primary_metric.window_days,
        days_always_valid=days_until(primary.users_always_valid, arrivals, recent) + primary_metric.window_days,
    )


def _history(events: Events, config: ABTestConfig) -> Enrollment:
    """The users of the log before the test, as if a test had begun once the days of the covariate were over.

    Raises:
        DataError: the log before the test is shorter than these days.
    """
    until = min(seconds_of(config.start), int(events.time.max()) + 1)
    begin = int(events.time.min()) // DAY * DAY + (config.covariate_days or 0) * DAY
    rows = np.flatnonzero((events.time >= begin) & (events.time < until))
    if not len(rows):
        raise DataError(
            f"{events.source.path}: the log begins on {day_text(int(events.time.min()))} and has no row before the "
            f"start of the test, {config.start}, that follows the {config.covariate_days or 0} days of the covariate; "
            "expected a log of the time before the test. Use an earlier log, or lower `covariate_days`."
        )
    user, first_row = np.unique(events.user[rows], return_index=True)
    first = events.time[rows][first_row]
    return Enrollment(user, np.zeros(len(user), np.int64), first, begin, until, in_two_arms=0, in_other_arm=0)


def plan_metric(values: np.ndarray, metric: ABMetricConfig, config: ABTestConfig) -> MetricPlan:
    """What one metric needs, for the treatment arm that needs most.

    Args:
        values: numerator and denominator of metric and covariate of each user, float64 [U, 4].
        metric: the metric.
        config: the test.

    Raises:
        DataError: the metric is 0 or does not vary in the log.
    """
    moments = moments_at_looks(values, np.zeros(len(values)), np.zeros(1), values.mean(0))
    baseline = float(ratio(moments)[0])
    plain = float(linearized_variance(moments, cuped=False)[0])
    reduced = float(linearized_variance(moments, cuped=config.covariate_days is not None)[0])
    if not (baseline and plain > 0):
        raise DataError(
            f"The metric `{metric.name}` is {baseline:g} with variance {plain:g} in the log before the test; expected "
            "a value other than 0 that differs between users. Check its rule, or remove the metric."
        )
    effect = abs(baseline) * config.minimum_effect
    shares = list(config.arms.values())
    needed = max(users_for(reduced, effect, (shares[0], share), config.alpha, config.power) for share in shares[1:])
    return MetricPlan(
        metric=metric.name,
        role=metric.role,
        baseline=baseline,
        deviation=math.sqrt(plain),
        variance_reduction=None if config.covariate_days is None else 1 - reduced / plain,
        effect=effect,
        users_one_look=math.ceil(needed),
        users_always_valid=math.ceil(needed * price_of_looking(config.alpha, config.power)),
    )


def users_for(variance: float, effect: float, shares: tuple[float, float], alpha: float, power: float) -> float:
    """Users of all arms with which one look finds an effect with the given power, by the normal approximation.

    Args:
        variance: variance of one user's contribution.
        effect: absolute difference.
        shares: shares of control and treatment among all users.
        alpha: two-sided probability of a false positive.
        power: probability of finding the effect.
    """
    quantiles = float(stats.norm.isf(alpha / 2) + stats.norm.ppf(power))
    return variance * (1 / shares[0] + 1 / shares[1]) * (quantiles / effect) ** 2


def price_of_looking(alpha: float, power: float) -> float:
    """Factor by which looks on every day raise the largest number of users: 1.9 at alpha 0.05 and power 0.8.

    The confidence sequence is tuned to the planned number of users. Earlier looks can only end the test sooner.
    """
    z = stats.norm.ppf(power)
    return float(((critical_value(alpha) + z) / (stats.norm.isf(alpha / 2) + z)) ** 2)


def days_until(users: float, arrivals: np.ndarray, recent: float) -> float:
    """Days until a number of users has entered: as in the log, and then at the rate of its last week.

    Args:
        users: number of users.
        arrivals: day of each user's first row in the log, ascending, int64 [U].
        recent: new users a day in the last week of the log.
    """
    if users <= len(arrivals):
        return float(arrivals[math.ceil(users) - 1]) + 1
    return float(arrivals[-1]) + 1 + (users - arrivals.size) / recent

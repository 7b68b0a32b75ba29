"""Analysis of an A/B test: from the exposure log to estimates, verdicts and a decision for each arm."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from llmrec.ab_test import sequential
from llmrec.ab_test.enrollment import DAY, Enrollment, enroll
from llmrec.ab_test.estimates import Difference, difference
from llmrec.ab_test.log import Events
from llmrec.ab_test.outcomes import Outcomes, measure
from llmrec.ab_test.results import ABTestReport, Comparison, Decision, Look, Verdict
from llmrec.ab_test.sample_ratio import check_sample_ratio
from llmrec.config import ABMetricConfig, ABTestConfig
from llmrec.errors import ConfigError, DataError
from llmrec.evaluation.metrics import holm

MIN_USERS = 100  # of an arm; with fewer, normal approximations are poor and no number is given


def analyze(events: Events, config: ABTestConfig, until: int | None = None) -> ABTestReport:
    """Analyzes the log of a test.

    Args:
        events: the log.
        config: the test.
        until: time at which the log is cut, seconds since 1970; None for its end.

    Raises:
        ConfigError: `planned_users` is not set, or a rule of a metric names what the log lacks.
        DataError: the log does not agree with the test, or has no rows before it although CUPED is on.
    """
    if config.planned_users is None:
        raise ConfigError(
            "`planned_users` is null; expected the planned number of users, because the intervals are tightest there "
            "and it must be chosen before the first look. `llmrec ab-test plan` computes it."
        )
    enrollment = enroll(events, config, until)
    sample_ratio = check_sample_ratio(enrollment.arm, enrollment.day, config.arms)
    comparisons: list[Comparison] = []
    if not sample_ratio.is_wrong:
        outcomes = {one.name: measure(events, enrollment, one, config.covariate_days) for one in config.metrics}
        _check_history(events, enrollment, config)
        looks = look_times(enrollment)
        comparisons = compare_all(outcomes, enrollment.arm, looks, enrollment.start, config)
    return ABTestReport(
        name=config.name,
        alpha=config.alpha,
        from_day=str(config.start),
        until=datetime.fromtimestamp(enrollment.until, UTC).isoformat(),
        days=(enrollment.until - enrollment.start) / DAY,
        planned_users=config.planned_users,
        enrolled=len(enrollment.user),
        with_history=_with_history(events, enrollment, config),
        left_out=_left_out(events, enrollment),
        sample_ratio=sample_ratio,
        comparisons=comparisons,
        decisions=decide(comparisons, config),
        warnings=_warnings(comparisons, enrollment, config),
    )


def look_times(enrollment: Enrollment) -> np.ndarray:
    """The end of each day of the test, and the end of the log, seconds since 1970, int64 [L]."""
    ends = np.arange(enrollment.start + DAY, enrollment.until + 1, DAY)
    return np.unique(np.append(ends, enrollment.until))


def compare_all(
    outcomes: dict[str, Outcomes], arm: np.ndarray, looks: np.ndarray, start: int, config: ABTestConfig
) -> list[Comparison]:
    """Every metric of every treatment arm, with verdicts.

    Args:
        outcomes: outcomes of the users by metric.
        arm: index of each user's arm, int64 [U].
        looks: times of the looks, seconds since 1970, int64 [L].
        start: first second of the test.
        config: the test.
    """
    assert config.planned_users is not None  # checked by `analyze`
    days = (looks - start) / DAY
    shares = list(config.arms.values())
    comparisons: list[Comparison] = []
    families: dict[str, list[tuple[Comparison, np.ndarray, np.ndarray]]] = {"primary": [], "secondary": []}
    for metric in config.metrics:
        for index, name in enumerate(config.treatments, start=1):
            estimates, users = estimate(outcomes[metric.name], arm, index, looks, config)
            scale = sequential.mixture_scale(config.planned_users * (shares[0] + shares[index]), config.alpha)
            radius = sequential.radius(estimates.variance, estimates.users, scale, config.alpha)
            one = _comparison(metric, name, estimates, users, radius, days, config)
            comparisons.append(one)
            if metric.role == "guardrail":
                _judge_guardrail(one, estimates.value, radius, metric, days)
            else:
                p = sequential.p_values(estimates.value, estimates.variance, estimates.users, scale)
                families[metric.role].append((one, p, estimates.value * _sign(metric)))
    for family in families.values():
        _judge_family(family, days, config.alpha)
    return comparisons


def estimate(
    outcomes: Outcomes, arm: np.ndarray, treatment: int, looks: np.ndarray, config: ABTestConfig
) -> tuple[Difference, dict[str, int]]:
    """The difference between a treatment and the control at each look, and the users of both at the last look.

    Looks at which an arm has fewer than `MIN_USERS` are NaN.
    """
    control, treated = (outcomes.moments(arm == one, looks) for one in (0, treatment))
    found = difference(control, treated, cuped=config.covariate_days is not None)
    few = np.minimum(control.users, treated.users) < MIN_USERS
    for values in (found.value, found.variance, found.control, found.treatment):
        values[few] = np.nan
    names = list(config.arms)
    return found, {names[0]: int(control.users[-1]), names[treatment]: int(treated.users[-1])}


def _sign(metric: ABMetricConfig) -> int:
    return 1 if metric.better == "higher" else -1


def _comparison(
    metric: ABMetricConfig,
    arm: str,
    found: Difference,
    users: dict[str, int],
    radius: np.ndarray,
    days: np.ndarray,
    config: ABTestConfig,
) -> Comparison:
    """The numbers of a comparison, without its verdict."""
    low = found.value - radius
    high = found.value + radius
    looks = [
        Look(float(day), int(n), *((float(value), (float(a), float(b))) if np.isfinite(b) else (None, None)))
        for day, n, value, a, b in zip(days, found.users, found.value, low, high, strict=True)
    ]
    one = Comparison(metric.name, metric.role, arm, users, looks=looks)
    if looks[-1].interval is None:
        return one
    fixed_low, fixed_high = found.fixed_interval(config.alpha)
    one.control = float(found.control[-1])
    one.treatment = float(found.treatment[-1])
    one.difference = looks[-1].difference
    one.relative = float(found.value[-1] / found.control[-1]) if found.control[-1] else None
    one.interval = looks[-1].interval
    one.fixed_interval = (float(fixed_low[-1]), float(fixed_high[-1]))
    one.fixed_p = float(found.fixed_p_value()[-1])
    if config.covariate_days is not None:
        one.variance_reduction = float(1 - found.variance[-1] / found.unadjusted_variance[-1])
    one.verdict = "undecided"
    return one


def _judge_guardrail(
    one: Comparison, value: np.ndarray, radius: np.ndarray, metric: ABMetricConfig, days: np.ndarray
) -> None:
    """Sets the verdict of a guardrail: the first look at which its interval lies on one side of the margin decides."""
    assert metric.margin is not None  # checked by the config
    better = _sign(metric) * value
    holds = better - radius > -metric.margin
    violated = better + radius < -metric.margin
    decided = np.flatnonzero(holds | violated)
    if len(decided) and one.interval is not None:
        one.verdict = "holds" if holds[decided[0]] else "violated"
        one.decided_on = float(days[decided[0]])


def _judge_family(family: Sequence[tuple[Comparison, np.ndarray, np.ndarray]], days: np.ndarray, alpha: float) -> None:
    """Sets p-values and verdicts of comparisons that are corrected together.

    Args:
        family: each comparison with its p-values and its improvements, float64 [L] each.
        days: days of the looks, float64 [L].
        alpha: probability of a false positive in the family.
    """
    by_look = [holm([p[look] for _, p, _ in family]) for look in range(len(days))]
    for index, (one, p, improvement) in enumerate(family):
        if one.interval is None:
            continue
        adjusted = np.array([row[index] for row in by_look])
        one.p = float(p[-1])
        one.p_holm = float(adjusted[-1])
        decided = np.flatnonzero(adjusted < alpha)
        if len(decided):
            one.verdict = "better" if improvement[decided[0]] > 0 else "worse"
            one.decided_on = float(days[decided[0]])


def decide(comparisons: Sequence[Comparison], config: ABTestConfig) -> dict[str, Decision]:
    """What to do with each treatment arm.

    `ship`: the primary metric is better and every guardrail holds. `stop`: the primary metric is worse, or a guardrail
    is violated. `no difference`: the planned users have been reached without a verdict. `continue`: none of these.
    """
    decisions: dict[str, Decision] = {}
    for arm in config.treatments if comparisons else ():
        of_arm = [one for one in comparisons if one.arm == arm]
        primary = next(one for one in of_arm if one.role == "primary")
        guardrails: list[Verdict] = [one.verdict for one in of_arm if one.role == "guardrail"]
        planned = (config.planned_users or 0) * (config.arms[config.control] + config.arms[arm])
        if primary.verdict == "worse" or "violated" in guardrails:
            decisions[arm] = "stop"
        elif primary.verdict == "better" and all(one == "holds" for one in guardrails):
            decisions[arm] = "ship"
        elif primary.verdict == "undecided" and sum(primary.users.values()) >= planned:
            decisions[arm] = "no difference"
        else:
            decisions[arm] = "continue"
    return decisions


def _with_history(events: Events, enrollment: Enrollment, config: ABTestConfig) -> float | None:
    """Share of enrolled users with rows in the days of the covariate."""
    if config.covariate_days is None:
        return None
    first = np.full(len(events.ids), np.iinfo(np.int64).min)
    first[enrollment.user] = enrollment.first
    since = events.time - first[events.user]
    enrolled = np.isin(events.user, enrollment.user)
    known = enrolled & (since < 0) & (since >= -config.covariate_days * DAY)
    return len(np.unique(events.user[known])) / max(len(enrollment.user), 1)


def _check_history(events: Events, enrollment: Enrollment, config: ABTestConfig) -> None:
    if _with_history(events, enrollment, config) == 0:
        raise DataError(
            f"{events.source.path}: no user of the test has a row in the {config.covariate_days} days before the first "
            "exposure; expected a pre-period, from which CUPED takes its covariate. Add these rows, with an empty arm, "
            "or set `covariate_days: null`."
        )


def _left_out(events: Events, enrollment: Enrollment) -> dict[str, int]:
    counts = {
        "user in two arms": enrollment.in_two_arms,
        "user in another arm than the hash": enrollment.in_other_arm,
        **{f"row: {reason}": loss.count for reason, loss in events.source.losses.items()},
    }
    return {reason: count for reason, count in counts.items() if count}


def _warnings(comparisons: Sequence[Comparison], enrollment: Enrollment, config: ABTestConfig) -> list[str]:
    days = (enrollment.until - enrollment.start) / DAY
    few = {one.metric for one in comparisons if one.verdict == "too few"}
    found = [
        f"{metric.name}: an arm has fewer than {MIN_USERS} users whose {metric.window_days} days are over "
        f"(the log covers {days:.1f} days of the test), so no number is given."
        for metric in config.metrics
        if metric.name in few
    ]
    late = [one.metric for one in comparisons if one.role != "guardrail" and _overlaps_zero_again(one)]
    found += [
        f"{name}: the interval excluded 0 at an earlier look and includes it now. The earlier verdict stands; check "
        "whether the effect fades."
        for name in late
    ]
    return found


def _overlaps_zero_again(one: Comparison) -> bool:
    return one.decided_on is not None and one.interval is not None and one.interval[0] <= 0 <= one.interval[1]

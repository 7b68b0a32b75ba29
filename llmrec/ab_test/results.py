"""The result of an A/B test as typed records."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from llmrec.ab_test.sample_ratio import THRESHOLD, SampleRatio

Verdict = Literal["better", "worse", "holds", "violated", "undecided", "too few"]
Decision = Literal["ship", "stop", "continue", "no difference"]
Role = Literal["primary", "secondary", "guardrail"]


@dataclass(frozen=True)
class Look:
    """The estimate at the end of one day.

    Attributes:
        day: days since the start of the test.
        users: users of both arms whose outcome is known.
        difference: treatment minus control; None if an arm has too few users.
        interval: bounds of the confidence sequence.
    """

    day: float
    users: int
    difference: float | None
    interval: tuple[float, float] | None


@dataclass
class Comparison:
    """One metric of one arm against the control.

    Attributes:
        metric: name of the metric.
        role: what the metric decides.
        arm: the treatment arm.
        users: users of each of the two arms whose outcome is known.
        control: value of the metric in the control arm; None if an arm has too few users.
        treatment: value of the metric in the treatment arm, without CUPED.
        difference: treatment minus control, with CUPED if the test has a covariate.
        relative: the difference divided by `control`.
        interval: bounds of the confidence sequence, which hold at every look.
        p: p-value that holds at every look, the smallest until now.
        p_holm: `p` after Holm's correction over the comparisons of the same role; None for guardrails.
        fixed_interval: bounds that hold if the test is looked at once, on the planned day.
        fixed_p: p-value that holds if the test is looked at once.
        variance_reduction: share of the variance that CUPED removes.
        verdict: conclusion until now.
        decided_on: day since the start on which the verdict was reached; None while it is open.
        looks: estimates at the end of each day.
    """

    metric: str
    role: Role
    arm: str
    users: dict[str, int]
    control: float | None = None
    treatment: float | None = None
    difference: float | None = None
    relative: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None
    fixed_interval: tuple[float, float] | None = None
    fixed_p: float | None = None
    variance_reduction: float | None = None
    verdict: Verdict = "too few"
    decided_on: float | None = None
    looks: list[Look] = field(default_factory=list)


@dataclass(frozen=True)
class ABTestReport:
    """The result of an A/B test.

    Attributes:
        name: name of the test.
        alpha: probability of a false positive.
        from_day: first day of the test.
        until: time at which the log was cut, ISO 8601 in UTC.
        days: days since the start.
        planned_users: planned users of all arms.
        enrolled: users in the test.
        with_history: share of enrolled users that have rows before their first exposure; None without covariate.
        left_out: users that were left out and rows that could not be used, by reason.
        sample_ratio: users of each arm beside the expected number.
        comparisons: every metric of every treatment arm; empty if the sample ratio is wrong.
        decisions: conclusion for each treatment arm; empty if the sample ratio is wrong.
        warnings: what a reader of the numbers must know.
    """

    name: str
    alpha: float
    from_day: str
    until: str
    days: float
    planned_users: int
    enrolled: int
    with_history: float | None
    left_out: dict[str, int]
    sample_ratio: SampleRatio
    comparisons: list[Comparison]
    decisions: dict[str, Decision]
    warnings: list[str]

    @property
    def refusal(self) -> str | None:
        """Why the test must not be evaluated, or None."""
        found = self.sample_ratio
        if not found.is_wrong:
            return None
        counts = ", ".join(f"{arm} {n:,} (expected {found.expected[arm]:,.0f})" for arm, n in found.users.items())
        worst = found.worst_day
        day = "" if worst is None else f", and {found.worst_day_p:.2g} on day {worst + 1}, the worst"
        return (
            f"The arms of {self.name} do not have their shares of users: {counts}. p is {found.p:.2g} over the whole "
            f"test{day}; expected at least {THRESHOLD:g}. Find out which users are missing or double before any metric "
            "is read."
        )

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self) | {"refusal": self.refusal}

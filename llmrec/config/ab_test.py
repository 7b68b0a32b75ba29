"""The YAML file of an A/B test: arms, log, metrics and the statistical plan."""

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, Strict, field_validator, model_validator

from llmrec.config.section import Section

CALENDAR_DAY = Annotated[date, Strict(False)]  # YAML has dates, quoted dates are text


class ABTestColumnsConfig(Section):
    """Names of the columns in the exposure log. null: the log has no such column."""

    user_id: str = Field(default="user_id", description="Column of the user id.")
    timestamp: str = Field(default="timestamp", description="Column of the time, in the forms of `data.columns`.")
    arm: str = Field(
        default="arm", description="Column of the arm. It is empty in rows that no arm served, such as earlier ones."
    )
    event_type: str | None = Field(default=None, description="Column of the event type, such as `view` or `buy`.")
    session_id: str | None = Field(default=None, description="Column of the session id.")
    propensity: str | None = Field(
        default=None, description="Column of the probability, in (0, 1], with which the user was assigned to the arm."
    )


class ABTestDataConfig(Section):
    """The exposure log: one row for each exposure or event, in CSV, TSV, Parquet or JSONL."""

    path: str = Field(description="File of the exposure log. `package:NAME/FILE` reads from an installed package.")
    columns: ABTestColumnsConfig = Field(default=ABTestColumnsConfig(), description="Names of the log's columns.")
    separator: str | None = Field(default=None, min_length=1, description="Text between two fields of a line.")
    decimal: Literal[",", "."] | None = Field(
        default=None,
        description="Decimal sign of the numbers in text; the other separates thousands. null: each column shows its "
        "own.",
    )
    encoding: str | None = Field(default=None, description="Encoding of text files. null: UTF-8.")
    timestamp_format: str | None = Field(
        default=None, description="Format of the times in the codes of Python's `strptime`. null: numbers or ISO 8601."
    )
    bad_rows: Literal["error", "skip"] = Field(
        default="error",
        description="Treatment of rows that cannot be used. `error`: the first one is an error. `skip`: they are left "
        "out and counted by reason.",
    )


class ABMetricConfig(Section):
    """One metric, measured for each user in the days after the user's first exposure."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the metric.")
    kind: Literal["rate", "conversion", "mean", "retention", "session_length"] = Field(
        description="`rate`: events that match `event`, per event that matches `per`. `conversion`: share of users "
        "with an event that matches `event`. `mean`: mean of `column`. `retention`: share of users with an event a day "
        "or more after the first exposure. `session_length`: events per session."
    )
    event: str | None = Field(
        default=None, description="Rule of the counted events: an event type, or a comparison such as `click>=1`."
    )
    per: str | None = Field(default=None, description="Rule of the events of the denominator. null: every event.")
    column: str | None = Field(default=None, description="Column that is averaged. Empty fields do not count.")
    window_days: int = Field(
        default=7,
        ge=1,
        description="Days after the first exposure in which events count. A user counts when these days are over.",
    )
    role: Literal["primary", "secondary", "guardrail"] = Field(
        default="secondary",
        description="`primary`: decides the test. `secondary`: is tested with Holm's correction. `guardrail`: must not "
        "be worse than the control by more than `margin`.",
    )
    margin: float | None = Field(
        default=None, ge=0, description="Largest tolerated loss of a guardrail, in the units of the metric."
    )
    better: Literal["higher", "lower"] = Field(default="higher", description="Direction of an improvement.")

    @model_validator(mode="after")
    def _keys_fit_the_kind(self) -> Self:
        needed = {"rate": "event", "conversion": "event", "mean": "column"}.get(self.kind)
        allowed = {needed, "per"} if self.kind == "rate" else {needed}
        extra = [key for key in ("event", "per", "column") if getattr(self, key) is not None and key not in allowed]
        if extra or (needed is not None and getattr(self, needed) is None):
            found = f"has `{extra[0]}`" if extra else f"lacks `{needed}`"
            raise ValueError(
                f"metrics: `{self.name}` {found}; expected {f'`{needed}`' if needed else 'no such key'} for the kind "
                f"{self.kind}. {'Delete' if extra else 'Add'} the key."
            )
        if (self.margin is not None) != (self.role == "guardrail"):
            found = "no margin" if self.margin is None else "a margin"
            raise ValueError(
                f"metrics: `{self.name}` is {self.role} and has {found}; expected a margin for guardrails and for no "
                "other metric. Correct `role` or `margin`."
            )
        if self.kind == "retention" and self.window_days < 2:
            raise ValueError(
                f"metrics: `{self.name}` has window_days 1; expected at least 2, because retention counts events a day "
                "or more after the first exposure."
            )
        return self


class ABTestConfig(Section):
    """One A/B test. All but `data`, `end`, `power` and `minimum_effect` is fixed once the test has begun."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the test. It is hashed with the user id, so tests of other names assign independently.",
    )
    salt: str | None = Field(
        description="Secret text that is hashed with the user id. null: another system assigns users to arms."
    )
    arms: dict[str, float] = Field(
        min_length=2, description="Share of users of each arm. The shares add up to 1. The first arm is the control."
    )
    start: CALENDAR_DAY = Field(description="First day of the test, in UTC.")
    end: CALENDAR_DAY = Field(description="Last day on which new users enter the test, in UTC.")
    planned_users: int | None = Field(
        default=None,
        ge=200,
        description="Planned number of users in all arms, for which the intervals are tightest. `llmrec ab-test plan` "
        "computes it.",
    )
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="Probability of a false positive.")
    power: float = Field(default=0.8, gt=0.5, lt=1, description="Probability of finding `minimum_effect`.")
    minimum_effect: float = Field(
        default=0.05, gt=0, lt=10, description="Smallest relative change that the test should find, such as 0.05."
    )
    covariate_days: int | None = Field(
        default=28,
        ge=1,
        description="Days before a user's first exposure whose events reduce the variance (CUPED). null: no CUPED.",
    )
    output_dir: str = Field(default="runs/ab_test", description="Directory that holds the directories of tests.")
    data: ABTestDataConfig = Field(description="The exposure log.")
    metrics: list[ABMetricConfig] = Field(min_length=1, description="Metrics, exactly one of them primary.")

    @field_validator("arms")
    @classmethod
    def _shares_add_up(cls, arms: dict[str, float]) -> dict[str, float]:
        total = sum(arms.values())
        if not (min(arms.values()) > 0 and abs(total - 1) <= 1e-9):  # also true for NaN
            raise ValueError(f"the shares add up to {total:g}; expected positive shares that add up to 1.")
        if "" in {name.strip() for name in arms}:
            raise ValueError("an arm has an empty name; expected a name for each arm.")
        return arms

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        names = [metric.name for metric in self.metrics]
        primary = [metric.name for metric in self.metrics if metric.role == "primary"]
        if len(primary) != 1:
            raise ValueError(f"metrics: {len(primary)} are primary; expected exactly one. Set `role: primary` once.")
        if len(set(names)) != len(names):
            raise ValueError(f"metrics: the names are {', '.join(names)}; expected each name once.")
        if self.end < self.start:
            raise ValueError(f"end is {self.end}, before start, {self.start}; expected a later day. Correct one.")
        return self

    @property
    def control(self) -> str:
        """Name of the control arm."""
        return next(iter(self.arms))

    @property
    def treatments(self) -> list[str]:
        """Names of the other arms."""
        return list(self.arms)[1:]

"""Numbers with their uncertainty, and the rule that says whether two models differ."""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from llmrec.files import plain

ALPHA = 0.05  # significance level of every test; intervals cover 1 - ALPHA
HEADLINE_METRIC = "ndcg@10"  # the primary metric, named in advance: the only one that is tested
COMPARED_METRICS = ("hr@10", "ndcg@10", "mrr")  # metrics whose differences are reported with intervals
POWER = 0.8  # probability of finding the difference that a report calls detectable
POLICIES = ("sft", "ppo")
OPTIMUM = "optimum"  # exact maximum of PPO's objective; it is computed, so it is no model that could be deployed

Verdict = Literal["better", "worse", "no difference"]


def _finite(value: Any) -> Any:
    """NaN and infinity become None: JSON has neither, and readers treat None as undefined."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _bounded(value: Any) -> Any:
    """An interval with an undefined bound is undefined."""
    if isinstance(value, list | tuple) and any(_finite(bound) is None for bound in value):
        return None
    return value


Number = Annotated[int | float | None, BeforeValidator(_finite)]  # int first: counts stay whole numbers in the file
Interval = Annotated[tuple[float, float] | None, BeforeValidator(_bounded)]


class Section(BaseModel):
    """Part of `report.json`. Keys that this version does not know are kept."""

    model_config = ConfigDict(extra="allow", validate_by_name=True, validate_by_alias=True)

    def as_json(self) -> dict[str, Any]:
        """The section as it stands in the file: only keys that were set, by their names there; NaN becomes None."""
        return plain(self.model_dump(by_alias=True, exclude_unset=True))

    @property
    def unknown(self) -> dict[str, Any]:
        """Keys that this version does not know, with their values as JSON."""
        return self.model_extra or {}


class Measurement(Section):
    """A number that may be undefined, with its interval."""

    ci95: Interval = Field(
        default=None,
        description="Lower and upper end of the 95 % bootstrap interval over users, and over seeds if there are "
        "several; null if undefined.",
    )
    n: int | None = Field(default=None, description="Number of users, texts or events behind the number.")
    seeds: list[Number] | None = Field(default=None, description="The number under each seed, in the order of runs.")

    @property
    def number(self) -> float | None:
        """The number itself; None if it is undefined."""
        raise NotImplementedError


class Estimate(Measurement):
    """A mean with its interval."""

    value: Number = Field(
        default=None, description="The mean; null if it is undefined, for instance over an empty slice."
    )

    @property
    def number(self) -> float | None:
        """The mean."""
        return self.value


class Rate(Measurement):
    """A share."""

    rate: Number = Field(default=None, description="The share, between 0 and 1; null if nothing was counted.")

    @property
    def number(self) -> float | None:
        """The share."""
        return self.rate


class Count(Measurement):
    """A count."""

    count: int | None = Field(default=None, description="The count.")

    @property
    def number(self) -> float | None:
        """The count."""
        return self.count


class Comparison(Measurement):
    """Paired comparison of two models by one metric."""

    difference: Number = Field(
        default=None, description="Mean over users of the first model's value minus the second's."
    )
    p: Number = Field(
        default=None, description="Two-sided bootstrap p-value before correction; only for the primary metric."
    )
    p_holm: Number = Field(
        default=None,
        description="p-value after Holm's correction over all tested pairs of all splits; only for the primary metric.",
    )
    verdict: Verdict | None = Field(
        default=None,
        description="`better` or `worse` (the first model) if p_holm is below 0.05, else `no difference`. "
        "Over several seeds also `no difference` if the seeds differ in sign. Missing for descriptive metrics.",
    )
    detectable: Number = Field(
        default=None,
        description="Smallest true difference that this test would find with 80 % power at the strictest step of "
        "Holm's correction, in the normal approximation.",
    )

    @property
    def number(self) -> float | None:
        """The difference."""
        return self.difference

    @property
    def conclusion(self) -> Verdict | None:
        """The verdict, computed from p_holm if the file has none; None if the difference is undefined or untested."""
        if self.verdict is not None or self.difference is None or self.p_holm is None:
            return self.verdict
        return verdict_of(self.difference, self.p_holm)


def verdict_of(difference: float, p: float) -> Verdict:
    """The conclusion of a test at level `ALPHA`, for metrics of which more is better."""
    if p >= ALPHA or difference == 0:
        return "no difference"
    return "better" if difference > 0 else "worse"


def measurement(entry: Any) -> Measurement | None:
    """Reads a measurement of any kind from JSON values; None if the entry is not one."""
    if not isinstance(entry, dict):
        return None
    for key, kind in (("value", Estimate), ("rate", Rate), ("count", Count), ("difference", Comparison)):
        if key in entry:
            return kind.model_validate(entry)
    return None

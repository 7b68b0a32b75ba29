"""Numbers with their uncertainty, and the rule that says whether two models differ."""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

ALPHA = 0.05  # significance level of every test; intervals cover 1 - ALPHA
COMPARED_METRICS = ("hr@10", "ndcg@10", "mrr")  # the family of Holm's correction for one pair of models on one split
HEADLINE_METRIC = "ndcg@10"
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
        """The section as it stands in the file: only keys that were set, under their names in the file."""
        return self.model_dump(by_alias=True, exclude_unset=True)

    @property
    def unknown(self) -> dict[str, Any]:
        """Keys that this version does not know, with their values as JSON."""
        return self.model_extra or {}


class Measurement(Section):
    """A number that may be undefined, with its interval."""

    ci95: Interval = Field(
        default=None, description="Lower and upper end of the 95 % bootstrap interval over users; null if undefined."
    )
    n: int | None = Field(default=None, description="Number of users, texts or events behind the number.")
    seeds: list[Number] | None = Field(
        default=None, description="The number under each training seed, in the order of runs."
    )

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
    p_holm: Number = Field(
        default=None,
        description="Two-sided bootstrap p-value after Holm's correction over the compared metrics of one pair.",
    )
    verdict: Verdict | None = Field(
        default=None,
        description="`better` or `worse` (the first model) if p_holm is below 0.05, else `no difference`. "
        "Over several seeds also `no difference` if the seeds differ in sign.",
    )

    @property
    def number(self) -> float | None:
        """The difference."""
        return self.difference

    @property
    def conclusion(self) -> Verdict | None:
        """The verdict, computed from p_holm or else from the interval if the file has none; None if undefined."""
        if self.verdict is not None or self.difference is None:
            return self.verdict
        if self.p_holm is not None:
            return verdict_of(self.difference, self.p_holm)
        excludes_zero = self.ci95 is not None and (self.ci95[0] > 0 or self.ci95[1] < 0)
        return verdict_of(self.difference, 0.0 if excludes_zero else 1.0)


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

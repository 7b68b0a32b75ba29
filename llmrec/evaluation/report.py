"""`report.json` as typed records: what the evaluation measured, for every reader of a run's results.

Old files load with defaults for keys that they lack. Keys that this version does not know are kept. A number that is
undefined is None.
"""

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, RootModel, ValidationError

from llmrec.errors import RunError
from llmrec.evaluation.estimates import (
    ALPHA,
    COMPARED_METRICS,
    HEADLINE_METRIC,
    OPTIMUM,
    POLICIES,
    POWER,
    Comparison,
    Count,
    Estimate,
    Interval,
    Measurement,
    Number,
    Rate,
    Section,
    Verdict,
    measurement,
    verdict_of,
)
from llmrec.evaluation.request_records import RequestReport
from llmrec.evaluation.stage_reports import (
    DatasetCard,
    DatasetSource,
    DatasetSplit,
    DataWarning,
    EventQuality,
    ExposureQuality,
    GuardDecision,
    GuardDifference,
    GuardEvaluation,
    GuardReport,
    Reliability,
    RewardModelReport,
    RewardModelSplit,
)
from llmrec.files import read_json, write_json

__all__ = [
    "ALPHA",
    "COMPARED_METRICS",
    "HEADLINE_METRIC",
    "OPTIMUM",
    "POLICIES",
    "POWER",
    "BaselineReport",
    "Comparison",
    "Count",
    "DatasetCard",
    "DataWarning",
    "DatasetSource",
    "DatasetSplit",
    "Environment",
    "Estimate",
    "EventQuality",
    "Example",
    "ExampleAnswer",
    "ExposureQuality",
    "Faithfulness",
    "GenerationReport",
    "GuardDecision",
    "GuardDifference",
    "GuardEvaluation",
    "GuardReport",
    "Interval",
    "Measurement",
    "Number",
    "OptimumReport",
    "PartTime",
    "PurchaseReport",
    "Rate",
    "Reliability",
    "Report",
    "RequestReport",
    "RewardChange",
    "RewardModelReport",
    "RewardModelSplit",
    "RewardReport",
    "Section",
    "SeedsReport",
    "SplitReport",
    "Statement",
    "Verdict",
    "measurement",
    "verdict_of",
]


def _estimated(value: Any) -> Any:
    """A ratio without interval, as earlier versions wrote it, as an estimate."""
    return {"value": value} if value is None or isinstance(value, int | float) else value


Ratio = Annotated[Estimate, BeforeValidator(_estimated)]


class OptimumReport(Section):
    """The exact maximum of PPO's item objective, and how close PPO came to it."""

    beta: float = Field(default=0.0, description="Weight of KL(policy, SFT), `ppo.item_kl_coef`.")
    alpha: float = Field(default=0.0, description="Weight of the entropy of the policy, `ppo.item_entropy_coef`.")
    objective: dict[str, Estimate] = Field(
        default={},
        description="E[reward] - beta KL(policy, SFT) + alpha H(policy) of `sft`, `ppo` and `optimum`, in nats.",
    )
    gap_closed: dict[str, Ratio] = Field(
        default={},
        description="(ppo - sft) / (optimum - sft) in `objective` and `ndcg@10`, with a paired bootstrap interval. Its "
        "value is null if the interval of optimum - sft is not above 0.",
    )


class PurchaseReport(Section):
    """Rankings for purchases at one weight of log P(purchase | click)."""

    models: dict[str, dict[str, Estimate]] = Field(
        default={},
        description="Metrics of `optimum` (the exact maximum of PPO's objective at this weight), `sft_reranked` (SFT "
        "times P(purchase given click) to the power of the weight) and `reward_model` (the reward at this weight).",
    )
    differences: dict[str, Comparison] = Field(
        default={},
        description="NDCG@10 of purchased targets: `optimum` minus each of the others, without a test.",
    )


class SplitReport(Section):
    """Results on the test part of one split."""

    models: dict[str, dict[str, Estimate]] = Field(
        default={}, description="Metrics of each model, by model and metric. See the reference of metrics."
    )
    comparisons: dict[str, dict[str, Comparison]] = Field(
        default={}, description="Paired comparisons, by pair (`ONE_vs_TWO`) and metric."
    )
    slices: dict[str, dict[str, dict[str, Estimate]]] = Field(
        default={}, description="HR@10 and NDCG@10 on subsets of the targets, by slice, model and metric."
    )
    optimum: OptimumReport | None = Field(
        default=None,
        description="The exact maximum of PPO's objective. Missing unless `ppo.advantage` is `exact` with a fixed "
        "KL or entropy weight above 0.",
    )
    purchases: dict[str, PurchaseReport] = Field(
        default={},
        description="Rankings for purchases, by weight of log P(purchase given click). Empty without purchases or "
        "without `optimum`.",
    )
    targets: int | None = Field(default=None, description="Number of test targets.")
    users: int | None = Field(default=None, description="Number of users of the test targets.")
    users_with_training: int | None = Field(
        default=None, description="How many of these users have training clicks. The others joined later."
    )

    def metric(self, model: str, metric: str) -> Estimate | None:
        """One metric of one model; None if it was not measured."""
        return self.models.get(model, {}).get(metric)

    def comparison(self, one: str, two: str, metric: str) -> Comparison | None:
        """The comparison of two models by a metric; None if they were not compared."""
        return self.comparisons.get(f"{one}_vs_{two}", {}).get(metric)

    @property
    def deployable(self) -> dict[str, dict[str, Estimate]]:
        """Metrics of the models that exist, which excludes the computed optimum."""
        return {name: metrics for name, metrics in self.models.items() if name != OPTIMUM}

    @property
    def sliced_metrics(self) -> list[str]:
        """Metrics of the slices, in order of appearance."""
        found = (metrics for models in self.slices.values() for metrics in models.values())
        return list(dict.fromkeys(metric for metrics in found for metric in metrics))


class BaselineReport(Section):
    """How the settings of one baseline were chosen."""

    chosen: dict[str, Any] = Field(default={}, description="Settings with the highest NDCG@10 on validation.")
    grid: list[dict[str, Any]] = Field(default=[], description="Every setting tried, with its `valid_ndcg@10`.")
    refitted: bool = Field(
        default=False,
        description="Whether it was fitted again with the validation items. No other model of the report was.",
    )
    seconds: Number = Field(
        default=None,
        description="Wall-clock time of fitting and tuning, in seconds, with that of the baselines it consists of.",
    )
    cpu_seconds: Number = Field(default=None, description="Process time of the same, over all threads, in seconds.")

    @property
    def valid_ndcg(self) -> float | None:
        """NDCG@10 of the chosen settings on validation; None if it was not measured."""
        found = [one["valid_ndcg@10"] for one in self.grid if one.get("valid_ndcg@10") is not None]
        return max(found, default=None)


class Faithfulness(Section):
    """Whether recommendations depend on the items that their justifications cite."""

    share: Rate | None = Field(
        default=None, description="Share of recommendations whose log-probability falls without the cited items."
    )
    fall: Estimate | None = Field(
        default=None, description="Mean fall of the log-probability without the cited items, in nats."
    )
    fall_of_others: Estimate | None = Field(
        default=None, description="Mean fall without as many random other items of the history, in nats."
    )


class GenerationReport(Section):
    """Quality of the recommendations that one policy wrote, one each for at most 10,000 users."""

    validity: Rate | None = Field(
        default=None, description="Share of completions that end by themselves and name an item of the catalogue."
    )
    unseen: Rate | None = Field(
        default=None,
        description="Share of completions that name an item the user has not seen; missing if repeats are kept.",
    )
    seen: Rate | None = Field(
        default=None,
        description="Share of completions that name an item the user has seen; only if repeats are kept.",
    )
    groundedness: Rate | None = Field(
        default=None, description="Share of justifications that cite the history, state a fact and state nothing false."
    )
    repeats: Rate | None = Field(
        default=None, description="Share of justifications that contain a pair of words twice."
    )
    factual_precision: Rate | None = Field(default=None, description="Share of true statements among all statements.")
    distinct_1: Rate | None = Field(default=None, description="Distinct words divided by all words.")
    distinct_2: Rate | None = Field(default=None, description="Distinct word pairs divided by all word pairs.")
    unique_sentences: Rate | None = Field(
        default=None, description="Distinct justifications divided by all justifications."
    )
    feature_coverage: Rate | None = Field(default=None, description="Distinct facts stated divided by all facts.")
    distinct_wordings: Count | None = Field(
        default=None, description="Number of distinct justifications after titles and facts are removed."
    )
    mean_words: Estimate | None = Field(default=None, description="Mean number of words per justification.")
    faithfulness: Faithfulness | None = Field(
        default=None, description="Dependence of recommendations on cited items, on a seeded sample of users."
    )

    @property
    def measurements(self) -> dict[str, Measurement]:
        """Every measurement by its name; those of `faithfulness` as `faithfulness: NAME`."""
        return dict(_measurements(self))


def _measurements(section: Section, prefix: str = "") -> Iterator[tuple[str, Measurement]]:
    for name, value in section:
        found = value if isinstance(value, Measurement) else measurement(value)
        if found is not None:
            yield prefix + name, found
        elif isinstance(value, Section):
            yield from _measurements(value, f"{prefix}{name}: ")


class RewardChange(Section):
    """One part of the reward before and after RL."""

    before: Estimate | None = Field(default=None, description="Mean of the SFT policy.")
    after: Estimate | None = Field(default=None, description="Mean of the PPO policy.")
    difference: Estimate | None = Field(default=None, description="Paired difference, PPO minus SFT.")


class RewardReport(RootModel[dict[str, Estimate]]):
    """Mean rewards of the policies on validation users, under keys `PART_before`, `PART_after`, `PART_difference`.

    The keys `before`, `after` and `difference` alone belong to the total reward of sampled completions.
    """

    root: dict[str, Estimate] = {}

    def __bool__(self) -> bool:
        return bool(self.root)

    @property
    def parts(self) -> dict[str, RewardChange]:
        """The change of each part, in order of appearance; the total is under an empty name."""
        found: dict[str, dict[str, Estimate]] = {}
        for key, estimate in self.root.items():
            part, _, moment = key.rpartition("_")
            found.setdefault(part, {})[moment] = estimate
        return {part: RewardChange.model_validate(moments) for part, moments in found.items()}

    def difference(self, part: str = "") -> Estimate | None:
        """PPO minus SFT in one part; of the total reward by default."""
        return self.root.get(f"{part}_difference" if part else "difference")


class Statement(Section):
    """A piece of a justification."""

    text: str = Field(default="", description="The text.")
    true: bool | None = Field(
        default=None, description="Whether the statement is true; null if the text states nothing."
    )


class ExampleAnswer(Section):
    """What one policy recommends to an example user."""

    item: str | None = Field(
        default=None, description="Title of the recommended item; null if the completion names none."
    )
    justification: list[Statement] = Field(default=[], description="The justification, in pieces.")
    grounded: bool = Field(default=False, description="Whether the justification is grounded.")


class Example(Section):
    """A test user, drawn at random, with the answers of the policies."""

    user: str = Field(default="", description="Id of the user.")
    history: list[str] = Field(default=[], description="Titles of the newest seen items, oldest first.")
    took: str | None = Field(default=None, description="Title of the item that the user clicked next.")
    sft: ExampleAnswer | None = Field(default=None, description="Answer of the policy before RL.")
    ppo: ExampleAnswer | None = Field(default=None, description="Answer of the policy after RL.")

    @property
    def answers(self) -> dict[str, ExampleAnswer]:
        """Answers by policy."""
        found = {"sft": self.sft, "ppo": self.ppo}
        return {name: answer for name, answer in found.items() if answer is not None}


class Environment(Section):
    """Versions, seed and machine of the evaluation."""

    versions: dict[str, str] = Field(
        default={}, description="Version of llmrec and of each library that results depend on."
    )
    python: str | None = Field(default=None, description="Version of Python, in early reports only; see `versions`.")
    machine: str | None = Field(default=None, description="Operating system and processor architecture.")
    device: str | None = Field(default=None, description="Device that all models ran on: `cuda` or `cpu`.")
    threads: int | None = Field(default=None, description="Number of CPU threads of torch.")
    seed: int | None = Field(default=None, description="`seed` of the config.")


class PartTime(Section):
    """Time of one part of a stage, without the parts inside it."""

    seconds: Number = Field(default=None, description="Wall-clock time in seconds.")
    cpu_seconds: Number = Field(default=None, description="Process time of all threads, in seconds.")


class Report(Section):
    """Everything that the evaluation of one run measured."""

    splits: dict[str, SplitReport] = Field(
        default={}, description="Results by split: `temporal`, `leave_one_out` or `given`."
    )
    best_rival: str | None = Field(
        default=None,
        description="The baseline with the highest NDCG@10 on validation, which both policies are tested against.",
    )
    baselines: dict[str, BaselineReport] = Field(default={}, description="Choice of settings, by baseline.")
    generation: dict[str, GenerationReport] = Field(
        default={}, description="Quality of written recommendations, by policy."
    )
    requests: dict[str, dict[str, RequestReport]] = Field(
        default={},
        description="How well the policies follow requests in words on test targets, by policy, and by kind of request "
        "with its number of conditions. Empty if they were trained without requests.",
    )
    reward: RewardReport = Field(
        default=RewardReport(),
        description="Mean rewards on validation users before and after RL. `list_reward` and `list_judge` are means "
        "over the ten best items, by the learned reward and by the judge. All other parts belong to completions "
        "sampled with the same random numbers for both policies.",
    )
    reward_model: RewardModelReport | None = Field(default=None, description="Quality of the reward model.")
    guard: GuardReport | None = Field(default=None, description="Selection of the PPO adapter on validation users.")
    examples: list[Example] = Field(default=[], description="Answers to a few test users.")
    data: DatasetCard | None = Field(default=None, description="Counts and rules of the prepared data.")
    environment: Environment | None = Field(default=None, description="Versions, seed and machine.")
    commands: list[str] = Field(default=[], description="Commands that reproduce the run, in order.")
    seconds: dict[str, Number] = Field(default={}, description="Duration of each earlier stage, in seconds.")
    parts: dict[str, dict[str, PartTime]] = Field(
        default={},
        description="Time of each part of each stage. `other` is the time outside of named parts. The evaluation ends "
        "with this file.",
    )

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Reads a report.

        Raises:
            RunError: the file is missing, truncated or not a report.
        """
        try:
            return cls.model_validate(read_json(path))
        except (OSError, ValueError) as error:
            raise RunError(
                f"{path} cannot be read as a report ({_reason(error)}). Write it again with `llmrec evaluate`."
            ) from None

    def write(self, path: str | PathLike[str]) -> None:
        """Writes the report atomically."""
        write_json(Path(path), self.as_json())

    def without(self, *keys: str) -> Self:
        """A copy that lacks some top-level keys."""
        return type(self).model_validate({key: value for key, value in self.as_json().items() if key not in keys})

    @property
    def fell_back(self) -> bool:
        """Whether the guard kept the SFT adapter because it accepted no PPO adapter."""
        return self.guard is not None and self.guard.fell_back_to_sft


def _reason(error: OSError | ValueError) -> str:
    """The first fault in one line, with the key that it concerns."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
    return str(error).partition("\n")[0]


class SeedsReport(Report):
    """What several runs of one experiment that differ in their seeds have in common."""

    runs: list[str] = Field(default=[], description="Run directories, in the order of `seeds`.")
    fell_back_to_sft: list[bool] = Field(default=[], description="Whether the guard kept the SFT adapter, by run.")

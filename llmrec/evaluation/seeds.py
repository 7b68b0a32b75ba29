"""Means and spread over several runs of one experiment that share data and targets but differ in the training seed.

Each user's metric is averaged over seeds. The interval is a bootstrap over these user means. It leaves out the variance
between seeds. `seeds` holds the value of every seed.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from llmrec.config import Config
from llmrec.errors import RunError
from llmrec.evaluation.metrics import per_user
from llmrec.evaluation.optimum import gaps_closed
from llmrec.evaluation.ranking import RANKS
from llmrec.evaluation.report import (
    POLICIES,
    Comparison,
    Estimate,
    GenerationReport,
    Measurement,
    OptimumReport,
    Rate,
    Report,
    RewardReport,
    SeedsReport,
    SplitReport,
)
from llmrec.evaluation.split_report import COMPARISONS, accuracy_columns, compare, user_mean
from llmrec.run import Run

TARGET_COLUMNS = ["split", "user", "position"]  # columns of the table of ranks that identify a target


def seeded(config: Config, count: int) -> list[Config]:
    """`count` configs that differ in the training seed and in the name, so that each has its own run directory."""
    seeds = range(config.seed, config.seed + count)
    return [config.model_copy(update={"seed": seed, "name": f"{config.name}-seed{seed}"}) for seed in seeds]


def seeds_report(runs: Sequence[Run]) -> SeedsReport:
    """Combines the reports of evaluated runs of one experiment.

    Args:
        runs: runs with a finished evaluation and the same test targets.

    Returns:
        A report without slices and examples. Every number is the mean over runs, with the number of each run under
        `seeds`. Metrics of lists, rewards and generation have no interval. A comparison is `no difference` if the seeds
        differ in sign.

    Raises:
        RunError: a run has not been evaluated, or has other test targets.
    """
    for run in runs:
        run.require("evaluate")
    reports = [Report.load(run.report_path) for run in runs]
    ranks = _ranks_of(runs)
    return SeedsReport(
        splits={
            split: _split_report(
                [table.loc[table["split"] == split] for table in ranks],
                [report.splits[split] for report in reports],
                runs[0].config,
            )
            for split in reports[0].splits
        },
        reward=RewardReport(_mean_estimates([report.reward.root for report in reports])),
        generation={
            name: _mean_generation([report.generation[name] for report in reports])
            for name in POLICIES
            if all(name in report.generation for report in reports)
        },
        fell_back_to_sft=[report.fell_back for report in reports],
        runs=[str(run.directory) for run in runs],
    )


def _ranks_of(runs: Sequence[Run]) -> list[pd.DataFrame]:
    """The rank of every test target by every model, a table per run.

    Raises:
        RunError: the runs have different test targets.
    """
    ranks = [pd.read_parquet(run.path("evaluate", RANKS)) for run in runs]
    for run, table in zip(runs, ranks, strict=True):
        if not table[TARGET_COLUMNS].equals(ranks[0][TARGET_COLUMNS]):
            raise RunError(
                f"{run.directory} has other test targets than {runs[0].directory}. Give all runs the same data and "
                "the same `data.seed`, and evaluate them again."
            )
    return ranks


def _split_report(ranks: Sequence[pd.DataFrame], reports: Sequence[SplitReport], config: Config) -> SplitReport:
    """Combines one split.

    Args:
        ranks: ranks of the split's M targets, a table per run.
        reports: reports of the split, one per run.
        config: config of the first run.
    """
    users = ranks[0]["user"].to_numpy()
    names = [name for name in ranks[0].columns if name not in TARGET_COLUMNS]
    columns = {
        name: [accuracy_columns(table[name].to_numpy(), config.evaluation.ks) for table in ranks] for name in names
    }
    means = {name: _mean_columns(of_seeds) for name, of_seeds in columns.items()}
    values = {name: [_user_means(one, users) for one in of_seeds] for name, of_seeds in columns.items()}
    models: dict[str, dict[str, Estimate]] = {}
    for name in names:
        models[name] = _mean_estimates([report.models[name] for report in reports])
        for metric, column in means[name].items():
            estimate = user_mean(column, users, config.evaluation.bootstrap, config.seed)
            estimate.seeds = [one[metric] for one in values[name]]
            models[name][metric] = estimate
    comparisons = {
        f"{one}_vs_{two}": _with_seeds(
            compare(means[one], means[two], users, config.evaluation.bootstrap, config.seed), values[one], values[two]
        )
        for one, two in COMPARISONS
        if one in names and two in names
    }
    split = SplitReport(models=models, comparisons=comparisons)
    optima = [report.optimum for report in reports if report.optimum is not None]
    if len(optima) == len(reports):
        split.optimum = _mean_optimum(optima, models)
    return split


def _mean_columns(of_seeds: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Means over seeds of each metric, [M] each."""
    return {metric: np.mean([one[metric] for one in of_seeds], axis=0) for metric in of_seeds[0]}


def _user_means(columns: Mapping[str, np.ndarray], users: np.ndarray) -> dict[str, float]:
    """Mean over users of each metric, [M] each."""
    return {metric: float(per_user(column, users)[1].mean()) for metric, column in columns.items()}


def _with_seeds(
    comparisons: dict[str, Comparison], one: Sequence[Mapping[str, float]], two: Sequence[Mapping[str, float]]
) -> dict[str, Comparison]:
    """Adds the differences of each seed, and withdraws the verdict where they differ in sign.

    Args:
        comparisons: comparisons of two models, by metric.
        one: metrics of the first model, one mapping per seed.
        two: metrics of the second model, one mapping per seed.
    """
    for metric, comparison in comparisons.items():
        differences = [first[metric] - second[metric] for first, second in zip(one, two, strict=True)]
        comparison.seeds = [*differences]
        if min(differences) * max(differences) <= 0:
            comparison.verdict = "no difference"
    return comparisons


def _mean_optimum(optima: Sequence[OptimumReport], models: Mapping[str, Mapping[str, Estimate]]) -> OptimumReport:
    """Combines the objectives; the gaps are those of the means."""
    objective = _mean_estimates([one.objective for one in optima])
    return OptimumReport(
        beta=optima[0].beta, alpha=optima[0].alpha, objective=objective, gap_closed=gaps_closed(objective, models)
    )


def _mean_estimates(of_seeds: Sequence[Mapping[str, Estimate]]) -> dict[str, Estimate]:
    """Means over seeds of the estimates that every seed has."""
    result = {}
    for name in of_seeds[0]:
        numbers = _numbers([estimates.get(name) for estimates in of_seeds])
        if numbers is not None:
            result[name] = Estimate(value=float(np.mean(numbers)), seeds=[*numbers])
    return result


def _mean_generation(of_seeds: Sequence[GenerationReport]) -> GenerationReport:
    """Means over seeds of the rates that every seed has."""
    result = {}
    for name, measurement in of_seeds[0].measurements.items():
        if ":" in name or not isinstance(measurement, Rate):
            continue
        numbers = _numbers([report.measurements.get(name) for report in of_seeds])
        if numbers is not None:
            result[name] = Rate(rate=float(np.mean(numbers)), seeds=[*numbers])
    return GenerationReport(**result)


def _numbers(measurements: Sequence[Measurement | None]) -> list[float] | None:
    """The numbers of all seeds; None if one is missing or undefined."""
    numbers = [one.number for one in measurements if one is not None and one.number is not None]
    return numbers if len(numbers) == len(measurements) else None

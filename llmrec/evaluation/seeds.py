"""Means and spread over several runs of one experiment that differ in their seeds.

A seed varies the training (`seed`) and the data (`data.seed`): the order of tied events, and with it the targets.
Users are matched by their id. Intervals and tests resample users and seeds (`metrics.resampled_means`). A few seeds say
little about the variance between seeds: three show two thirds of it on average. `seeds` holds the value of every seed.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from llmrec.config import Config
from llmrec.errors import RunError
from llmrec.evaluation.comparisons import best_rival, compare, compared_pairs, correct, mean_estimate
from llmrec.evaluation.metrics import ndcg, user_matrix
from llmrec.evaluation.optimum import optimum_report
from llmrec.evaluation.purchases import purchase_columns
from llmrec.evaluation.ranking import OBJECTIVES, RANKS, TARGET_COLUMNS
from llmrec.evaluation.report import (
    POLICIES,
    BaselineReport,
    Estimate,
    GenerationReport,
    Measurement,
    OptimumReport,
    PurchaseReport,
    Rate,
    Report,
    RewardReport,
    SeedsReport,
    SplitReport,
)
from llmrec.evaluation.split_report import accuracy_columns
from llmrec.run import Run


def seeded(config: Config, count: int) -> list[Config]:
    """`count` configs that differ in both seeds and in the name, so that each has its own run directory and data."""
    return [
        config.model_copy(
            update={
                "seed": config.seed + number,
                "name": f"{config.name}-seed{config.seed + number}",
                "data": config.data.model_copy(update={"seed": config.data.seed + number}),
            }
        )
        for number in range(count)
    ]


def seeds_report(runs: Sequence[Run]) -> SeedsReport:
    """Combines the reports of evaluated runs of one experiment.

    Args:
        runs: runs with a finished evaluation and the same splits.

    Returns:
        A report without slices and examples. Every number is the mean over runs, with the number of each run under
        `seeds`. Metrics of lists, rewards and generation have no interval. A comparison is `no difference` if the seeds
        differ in sign.

    Raises:
        RunError: a run has not been evaluated, or was evaluated by an earlier version, or the splits differ.
    """
    for run in runs:
        run.require("evaluate")
    reports = [Report.load(run.report_path) for run in runs]
    ranks = [_table(run, RANKS) for run in runs]
    objectives = [_table(run, OBJECTIVES) for run in runs if run.path("evaluate", OBJECTIVES).is_file()]
    for run, report in zip(runs, reports, strict=True):
        if list(report.splits) != list(reports[0].splits):
            raise RunError(
                f"{run.directory} has the splits {list(report.splits)}, but {runs[0].directory} has "
                f"{list(reports[0].splits)}. Give all runs the same `data.splits`, and evaluate them again."
            )
    rival = best_rival(_mean_baselines(reports))
    splits = {
        split: _split_report(
            _of_split(ranks, split),
            [report.splits[split] for report in reports],
            runs[0].config,
            rival,
        )
        for split in reports[0].splits
    }
    if len(objectives) == len(runs):
        for split, combined in splits.items():
            combined.optimum = _optimum(_of_split(objectives, split), _of_split(ranks, split), runs[0].config)
    correct(splits)
    return SeedsReport(
        splits=splits,
        best_rival=rival,
        reward=RewardReport(_mean_estimates([report.reward.root for report in reports])),
        generation={
            name: _mean_generation([report.generation[name] for report in reports])
            for name in POLICIES
            if all(name in report.generation for report in reports)
        },
        fell_back_to_sft=[report.fell_back for report in reports],
        runs=[str(run.directory) for run in runs],
    )


def _table(run: Run, name: str) -> pd.DataFrame:
    """A table of numbers by target and model.

    Raises:
        RunError: the table lacks what identifies a user under every seed.
    """
    table = pd.read_parquet(run.path("evaluate", name))
    if "user_id" not in table:
        raise RunError(f"{run.path('evaluate', name)} has no column `user_id`. Evaluate {run.directory} again.")
    return table


def _of_split(tables: Sequence[pd.DataFrame], split: str) -> list[pd.DataFrame]:
    return [table.loc[table["split"] == split] for table in tables]


def _split_report(
    ranks: Sequence[pd.DataFrame], reports: Sequence[SplitReport], config: Config, rival: str | None
) -> SplitReport:
    """Combines one split, without its optimum.

    Args:
        ranks: ranks of the split's targets, a table per run.
        reports: reports of the split, one per run.
        config: config of the first run.
        rival: the strongest baseline on validation.
    """
    samples = config.evaluation.bootstrap
    columns = {name: _by_user(ranks, name, config.evaluation.ks) for name in _models(ranks)}
    models: dict[str, dict[str, Estimate]] = {}
    for name, metrics in columns.items():
        models[name] = _mean_estimates([report.models.get(name, {}) for report in reports])
        for metric, values in metrics.items():
            models[name][metric] = mean_estimate(values, samples, config.seed)
    return SplitReport(
        models=models,
        comparisons={
            f"{one}_vs_{two}": compare(columns[one], columns[two], samples, config.seed)
            for one, two in compared_pairs(columns, rival)
        },
        purchases=_mean_purchases([report.purchases for report in reports]),
        users=len({user for table in ranks for user in table["user_id"]}),
    )


def _models(tables: Sequence[pd.DataFrame]) -> list[str]:
    """The models that every run measured, in the order of the first run."""
    others = {"split", *TARGET_COLUMNS}
    return [name for name in tables[0].columns if name not in others and all(name in table for table in tables)]


def _by_user(ranks: Sequence[pd.DataFrame], model: str, ks: list[int]) -> dict[str, np.ndarray]:
    """Metrics of one model by seed and user, [S, U] each. Those of purchases are missing if nothing was purchased."""
    of_seeds = []
    for table in ranks:
        rank = table[model].to_numpy(dtype=np.float64)
        purchased = table["purchased"].to_numpy(dtype=bool)
        of_purchases = purchase_columns(rank, purchased) if purchased.any() else {}
        of_seeds.append(accuracy_columns(rank, ks) | of_purchases)
    shared = [metric for metric in of_seeds[0] if all(metric in columns for columns in of_seeds)]
    return {metric: _matrix(ranks, [columns[metric] for columns in of_seeds]) for metric in shared}


def _matrix(tables: Sequence[pd.DataFrame], values: Sequence[np.ndarray]) -> np.ndarray:
    """Means of the users of each seed, [S, U], from the values of each seed's targets, [M_s] each."""
    return user_matrix(values, [table["user_id"].to_numpy(dtype=str) for table in tables])[1]


def _optimum(objectives: Sequence[pd.DataFrame], ranks: Sequence[pd.DataFrame], config: Config) -> OptimumReport:
    """The objective and the gap that PPO closed, from the values of every seed's targets."""
    names = _models(objectives)
    return optimum_report(
        {name: _matrix(objectives, [table[name].to_numpy(dtype=np.float64) for table in objectives]) for name in names},
        {name: _matrix(ranks, [ndcg(table[name].to_numpy(), 10) for table in ranks]) for name in names},
        section=config.ppo,
        samples=config.evaluation.bootstrap,
        seed=config.seed,
    )


def _mean_baselines(reports: Sequence[Report]) -> dict[str, BaselineReport]:
    """Mean validation NDCG@10 of the baselines that every run has, in the form of `BaselineReport`."""
    found = {}
    for name in reports[0].baselines:
        values = [report.baselines[name].valid_ndcg for report in reports if name in report.baselines]
        known = [value for value in values if value is not None]
        if len(known) == len(reports):
            mean = {"valid_ndcg@10": float(np.mean(known))}
            found[name] = BaselineReport(grid=[mean], refitted=reports[0].baselines[name].refitted)
    return found


def _mean_purchases(of_seeds: Sequence[Mapping[str, PurchaseReport]]) -> dict[str, PurchaseReport]:
    """Means over seeds of the purchase rankings, without intervals."""
    weights = [weight for weight in of_seeds[0] if all(weight in found for found in of_seeds)]
    return {
        weight: PurchaseReport(
            models={
                name: _mean_estimates([found[weight].models.get(name, {}) for found in of_seeds])
                for name in of_seeds[0][weight].models
            }
        )
        for weight in weights
    }


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

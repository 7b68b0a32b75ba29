"""One experiment under several training seeds: the same data and targets, everything after them drawn anew.

The interval beside a mean is over users, of each user's mean over seeds; `seeds` shows the spread that no resampling of
users can.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from llmrec.config import Config
from llmrec.errors import RunError
from llmrec.evaluation.metrics import per_user
from llmrec.evaluation.optimum import NAMES, gap_closed
from llmrec.evaluation.ranking import RANKS
from llmrec.evaluation.split_report import COMPARED_METRICS, COMPARISONS, accuracy_columns, comparison, interval
from llmrec.files import read_json
from llmrec.run import Run

ASKED = ["split", "user", "position"]  # columns of the ranks that say which target a row is


def seeded(config: Config, count: int) -> list[Config]:
    """`count` configs that differ in the training seed and, so that each has its own run directory, the name."""
    seeds = range(config.seed, config.seed + count)
    return [config.model_copy(update={"seed": seed, "name": f"{config.name}-seed{seed}"}) for seed in seeds]


def seeds_report(runs: Sequence[Run]) -> dict:
    """What evaluated runs of one experiment have in common.

    Args:
        runs: their evaluate stage has finished; they ask the same targets.

    Returns:
        `splits` as in `report.json` but for slices, each metric also with `seeds`, its value by run (what is of lists,
        such as coverage, has no interval), and a comparison whose seeds differ in sign has the verdict `no difference`;
        `gap_closed` is of the means; `reward` and `generation`, by metric, the mean `value` or
        `rate` and `seeds`; `runs`, the directories; `fell_back_to_sft`, by run.

    Raises:
        RunError: one has not been evaluated, or was asked other targets.
    """
    for run in runs:
        run.require("evaluate")
    reports = [read_json(run.report_path) for run in runs]
    ranks = [pd.read_parquet(run.path("evaluate", RANKS)) for run in runs]
    config = runs[0].config
    for run, table in zip(runs, ranks, strict=True):
        if not table[ASKED].equals(ranks[0][ASKED]):
            raise RunError(
                f"{run.directory} was asked other targets than {runs[0].directory}: give all the same data and "
                "`data.seed`, and evaluate them again."
            )
    splits = {
        split: _split(
            [table[table["split"] == split] for table in ranks], [report["splits"][split] for report in reports], config
        )
        for split in reports[0]["splits"]
    }
    return {
        "splits": splits,
        "reward": _means([report["reward"] for report in reports], "value"),
        "generation": {
            name: _means([report["generation"][name] for report in reports], "rate") for name in ("sft", "ppo")
        },
        "fell_back_to_sft": [report["guard"]["fell_back_to_sft"] for report in reports],
        "runs": [str(run.directory) for run in runs],
    }


def _split(ranks: Sequence[pd.DataFrame], reports: Sequence[dict], config: Config) -> dict:
    users, settings = ranks[0]["user"].to_numpy(), {"samples": config.evaluation.bootstrap, "seed": config.seed}
    names = [name for name in ranks[0].columns if name not in ASKED]
    columns = {
        name: [accuracy_columns(table[name].to_numpy(), config.evaluation.ks) for table in ranks] for name in names
    }
    means = {
        name: {metric: np.mean([one[metric] for one in of_seeds], axis=0) for metric in of_seeds[0]}
        for name, of_seeds in columns.items()
    }
    values = {
        name: [{metric: float(per_user(one[metric], users)[1].mean()) for metric in one} for one in of_seeds]
        for name, of_seeds in columns.items()
    }
    models = {
        name: _means([report["models"][name] for report in reports], "value")
        | {
            metric: interval(column, users, **settings) | {"seeds": [one[metric] for one in values[name]]}
            for metric, column in means[name].items()
        }
        for name in names
    }
    comparisons = {}
    for one, two in COMPARISONS:
        if one in names and two in names:
            found = comparison(means[one], means[two], users, **settings)
            for metric in COMPARED_METRICS:
                pairs = zip(values[one], values[two], strict=True)
                seeds = [first[metric] - second[metric] for first, second in pairs]
                found[metric]["seeds"] = seeds
                if min(seeds) * max(seeds) <= 0:  # users agree, seeds do not
                    found[metric]["verdict"] = "no difference"
            comparisons[f"{one}_vs_{two}"] = found
    optima = [report.get("optimum") for report in reports]
    return {"models": models, "comparisons": comparisons} | (_optimum(optima, models) if all(optima) else {})


def _optimum(optima: Sequence[dict], models: dict) -> dict:
    objective = _means([one["objective"] for one in optima], "value")
    pairs = {"objective": objective, "ndcg@10": {name: models[name]["ndcg@10"] for name in NAMES}}
    closed = {metric: gap_closed(*(found[name]["value"] for name in NAMES)) for metric, found in pairs.items()}
    weights = {name: optima[0].get(name, 0.0) for name in ("beta", "alpha")}  # older reports know no alpha
    return {"optimum": {**weights, "objective": objective, "gap_closed": closed}}


def _means(reports: Sequence[dict], key: str) -> dict:
    """Of metrics `{key: number, ...}` that all reports have: their mean, and `seeds`."""
    result = {}
    for name, entry in reports[0].items():
        shared = isinstance(entry, dict) and all(name in report for report in reports)
        seeds = [report[name].get(key) for report in reports] if shared else [None]
        if None not in seeds:
            result[name] = {key: float(np.mean(seeds)), "seeds": seeds}
    return result

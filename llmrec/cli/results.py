"""Tables of results: the report of a run and the quality of its reward models."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from llmrec.cli.output import measured_cell, measured_text, print_line, print_table
from llmrec.evaluation.report import (
    Comparison,
    EventQuality,
    ExposureQuality,
    GenerationReport,
    OptimumReport,
    Report,
    RewardModelReport,
    RewardReport,
    SplitReport,
)
from llmrec.report import tables
from llmrec.report.format import measured_percent, number, percent
from llmrec.report.glossary import GUARANTEES, label
from llmrec.report.verdict import fallback_remark, sensitivity, sentence

# Columns of the tables, as keys of report.json.
SHOWN_METRICS = ("hr@10", "ndcg@10", "mrr", "coverage")
SHOWN_PURCHASES = ("purchase_hr@10", "purchase_ndcg@10", "purchases@10", "expected_purchases@10")
SHOWN_COMPARISONS = ("hr@10", "ndcg@10")
SHOWN_RATES = ("repeats", "unique_sentences")

# Columns of the table of a reward model, as fields of EventQuality.
SHOWN_QUALITY = ("auc", "log_loss", "brier", "ece")
POPULARITY_MATCHED = ("auc_popularity_matched", "lift_auc_popularity_matched")


# --- report.json ----------------------------------------------------------------------------------


def print_report(console: Console, report: Report) -> None:
    """Prints the tables of a report. Parts that the report lacks are omitted."""
    for split in report.splits:
        _print_split(console, report, split)
    for adapter, generation in report.generation.items():
        print_line(console, f"guarantees of the mask, {label(adapter)}: {_rates(generation, GUARANTEES)}")
        print_line(console, f"completions of {label(adapter)}: {_rates(generation, SHOWN_RATES)}")
    if report.requests:
        print_table(console, _as_rich(tables.requests_table(report.requests)))
    if report.reward:
        print_line(console, f"reward: {_reward_changes(report.reward)}")
    if report.fell_back:
        print_line(console, fallback_remark(report))
    if report.parts:
        print_table(console, _as_rich(tables.times_table(report.parts)))


def _print_split(console: Console, report: Report, name: str) -> None:
    """Prints the results on one split: models, purchases, comparisons, the verdict and the optimum."""
    split = report.splits[name]
    print_table(console, _models_table(f"{label(name)} split: value [95 % interval]", split, SHOWN_METRICS))
    if any(metric in metrics for metrics in split.models.values() for metric in SHOWN_PURCHASES):
        title = f"{label(name)} split, purchases: value [95 % interval]"
        print_table(console, _models_table(title, split, SHOWN_PURCHASES))
    if split.purchases:
        print_table(console, _as_rich(tables.purchases_table(name, split.purchases)))
    if split.comparisons:
        print_table(console, _comparisons_table(name, split, report.best_rival))
    for line in (sentence(report, name), sensitivity(name, split)):
        if line:
            print_line(console, line)
    if split.optimum is not None:
        print_line(console, _gap_closed(split.optimum))


def _models_table(title: str, split: SplitReport, metrics: Sequence[str]) -> Table:
    """One row a model, one column a metric."""
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for metric in metrics:
        table.add_column(label(metric), justify="right")
    for model in split.models:
        table.add_row(label(model), *(measured_cell(split.metric(model, metric)) for metric in metrics))
    return table


def _as_rich(shown: tables.Table) -> Table:
    """A table of the report page for the terminal, intervals below their numbers."""
    table = Table(title=shown.caption, title_justify="left")
    table.add_column(shown.corner)
    for column in shown.columns:
        table.add_column(column, justify="right")
    for row in shown.rows:
        table.add_row(row.heading, *("\n".join(filter(None, (one.text, one.interval))) for one in row.cells))
    return table


def _comparisons_table(name: str, split: SplitReport, rival: str | None) -> Table:
    """One row a pair of models: difference, interval and verdict of each shown metric."""
    title = f"{label(name)} split: difference [95 % interval], verdict on NDCG@10 after Holm's correction"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for metric in SHOWN_COMPARISONS:
        table.add_column(label(metric), justify="right")
    for pair, metrics in split.comparisons.items():
        shown = (_comparison(metrics.get(key)) for key in SHOWN_COMPARISONS)
        table.add_row(tables.pair_label(pair, rival, " vs "), *shown)
    return table


def _comparison(comparison: Comparison | None) -> str:
    verdict = comparison.conclusion if comparison is not None else None
    return measured_cell(comparison, f" {verdict}" if verdict else "")


def _gap_closed(optimum: OptimumReport) -> str:
    """The objective of each policy, and the share of the gap from SFT to the exact optimum that PPO closed."""
    shares = ", ".join(
        f"{label(metric)} "
        f"{'undefined (the optimum is not above SFT)' if share.value is None else measured_percent(share)}"
        for metric, share in optimum.gap_closed.items()
    )
    values = ", ".join(f"{label(policy)} {measured_text(value)}" for policy, value in optimum.objective.items())
    entropy = f" + {optimum.alpha} H" if optimum.alpha else ""
    return f"E[reward] - {optimum.beta} KL{entropy}: {values}; gap from SFT to the optimum closed by PPO: {shares}"


def _rates(generation: GenerationReport, names: Sequence[str]) -> str:
    measurements = generation.measurements
    shown = {name: measurements[name].number for name in names if name in measurements}
    return ", ".join(f"{label(name)} {percent(rate)}" for name, rate in shown.items() if rate is not None)


def _reward_changes(reward: RewardReport) -> str:
    """The total reward before and after RL, and the change of each of its parts."""
    keys = [key for key in reward.root if key in ("before", "after") or key.endswith("difference")]
    return ", ".join(f"{label(key)} {measured_text(reward.root[key])}" for key in keys)


# --- reward models --------------------------------------------------------------------------------


def print_reward(console: Console, report: RewardModelReport, directory: Path) -> None:
    """Prints the quality of the reward models: tables of clicks and purchases by split, and one of exposures.

    Args:
        console: Console to print on.
        report: Metrics of the reward stage.
        directory: Directory of the reward stage, which holds the diagrams.
    """
    for name, split in report.splits.items():
        for kind, quality in (("click", split.click), ("purchase", split.purchase)):
            if quality is not None:
                title = f"{kind}, {label(name)} {split.part} split: value [95 % interval over users]"
                print_table(console, _quality_table(title, quality))
        ranking = ", ".join(f"{label(metric)} {number(value, 4)}" for metric, value in split.ranking.items())
        print_line(console, f"ranking of the whole catalogue, {label(name)} split: {ranking}")
    if report.exposures is not None and report.exposures.n:
        print_table(console, _quality_table("click on a shown item, held-out exposures", report.exposures))
        print_line(console, _exposure_weights(report.exposures))
    print_line(console, f"diagrams: {directory / 'roc.png'}, {directory / 'reliability.png'}")


def _exposure_weights(exposures: ExposureQuality) -> str:
    biases = ", ".join(
        f"{position}: {number(bias, 3, sign=True)}" for position, bias in exposures.position_bias.items()
    )
    return (
        f"effective sample size {number(exposures.effective_sample_size, 0)} of {exposures.n} exposures, "
        f"{percent(exposures.propensities_clipped)} of the propensities clipped; position bias {biases}"
    )


def _quality_table(title: str, quality: EventQuality) -> Table:
    """AUC, log-loss, Brier score and calibration error of a model, its baselines and its slices."""
    table = Table(title=title, title_justify="left")
    columns = SHOWN_QUALITY
    if quality.auc_popularity_matched is not None:
        columns = ("auc", *POPULARITY_MATCHED, *SHOWN_QUALITY[1:])
    table.add_column("")
    table.add_column("n", justify="right")
    for column in (*columns, "ece_floor"):
        table.add_column(label(column), justify="right")
    rows = {"model": quality, **quality.baselines, **quality.slices}
    for name, row in rows.items():
        values = [measured_cell(getattr(row, column), interval_below=True) for column in columns]
        table.add_row(label(name), number(row.n), *values, number(row.ece_floor), end_section=name == "model")
    return table

"""Tables of results: the report of a run and the quality of its reward models."""

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
from llmrec.report.format import number, percent
from llmrec.report.glossary import label
from llmrec.report.verdict import fallback_remark

# Columns of the tables, as keys of report.json.
SHOWN_METRICS = ("hr@10", "ndcg@10", "mrr", "coverage")
SHOWN_COMPARISONS = ("hr@10", "ndcg@10")
SHOWN_RATES = ("validity", "unseen", "groundedness", "factual_precision", "repeats", "unique_sentences")

# Columns of the table of a reward model, as fields of EventQuality.
SHOWN_QUALITY = ("auc", "log_loss", "brier", "ece")
POPULARITY_MATCHED = ("auc_popularity_matched", "lift_auc_popularity_matched")


# --- report.json ----------------------------------------------------------------------------------


def print_report(console: Console, report: Report) -> None:
    """Prints the tables of a report. Parts that the report lacks are omitted."""
    for name, split in report.splits.items():
        print_table(console, _models_table(name, split))
        if split.comparisons:
            print_table(console, _comparisons_table(name, split))
        if split.optimum is not None:
            print_line(console, _gap_closed(split.optimum))
    for adapter, generation in report.generation.items():
        print_line(console, f"completions of {label(adapter)}: {_rates(generation)}")
    if report.reward:
        print_line(console, f"reward: {_reward_changes(report.reward)}")
    if report.fell_back:
        print_line(console, fallback_remark(report))


def _models_table(name: str, split: SplitReport) -> Table:
    """One row a model, one column a metric."""
    table = Table(title=f"{label(name)} split: value [95 % interval]", title_justify="left")
    table.add_column("model")
    for metric in SHOWN_METRICS:
        table.add_column(label(metric), justify="right")
    for model in split.models:
        table.add_row(label(model), *(measured_cell(split.metric(model, metric)) for metric in SHOWN_METRICS))
    return table


def _comparisons_table(name: str, split: SplitReport) -> Table:
    """One row a pair of models: difference, interval and verdict of each shown metric."""
    title = f"{label(name)} split: difference [95 % interval], verdict after Holm's correction"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for metric in SHOWN_COMPARISONS:
        table.add_column(label(metric), justify="right")
    for pair, metrics in split.comparisons.items():
        models = " vs ".join(map(label, pair.split("_vs_")))
        table.add_row(models, *(_comparison(metrics.get(key)) for key in SHOWN_COMPARISONS))
    return table


def _comparison(comparison: Comparison | None) -> str:
    verdict = comparison.conclusion if comparison is not None else None
    return measured_cell(comparison, f" {verdict}" if verdict else "")


def _gap_closed(optimum: OptimumReport) -> str:
    """The objective of each policy, and the share of the gap from SFT to the exact optimum that PPO closed."""
    shares = ", ".join(
        f"{label(metric)} {'undefined (the optimum is not above SFT)' if share is None else percent(share, 0)}"
        for metric, share in optimum.gap_closed.items()
    )
    values = ", ".join(f"{label(policy)} {measured_text(value)}" for policy, value in optimum.objective.items())
    entropy = f" + {optimum.alpha} H" if optimum.alpha else ""
    return f"E[reward] - {optimum.beta} KL{entropy}: {values}; gap from SFT to the optimum closed by PPO: {shares}"


def _rates(generation: GenerationReport) -> str:
    measurements = generation.measurements
    shown = {name: measurements[name].number for name in SHOWN_RATES if name in measurements}
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
    biases = ", ".join(f"{position}: {bias:+.3f}" for position, bias in exposures.position_bias.items())
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

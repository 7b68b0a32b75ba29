"""Tables of a report, whatever models, metrics, slices and comparisons it has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmrec.evaluation.estimates import Number
from llmrec.evaluation.report import (
    OPTIMUM,
    POLICIES,
    Comparison,
    DatasetCard,
    DataWarning,
    Estimate,
    EventQuality,
    GenerationReport,
    Measurement,
    OptimumReport,
    PartTime,
    PurchaseReport,
    RequestReport,
    RewardReport,
)
from llmrec.report.format import ABSENT, UNDEFINED, digits_for, interval, measured_percent, number, percent, seeds
from llmrec.report.glossary import GUARANTEES, better, is_of_purchases, is_ranking, label
from llmrec.timing import OTHER

HEADLINE_K = 10
SHOWN_SHARE = 0.01  # of all time; smaller parts of a stage are added up
QUALITY = ("auc", "auc_popularity_matched", "log_loss", "brier", "ece", "ece_floor")  # columns for a reward model


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: the rounded number or the words.
        interval: its 95 % interval in brackets.
        seeds: the values of the training seeds.
        raw: the unrounded number.
        best: whether it is the best of its column.
        tone: `better`, `worse` or empty; the page colors it.
    """

    text: str
    interval: str = ""
    seeds: str = ""
    raw: float | None = None
    best: bool = False
    tone: str = ""


@dataclass(frozen=True)
class Row:
    """One row of a table; `ours` marks a policy of this run."""

    heading: str
    cells: list[Cell]
    ours: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows.
        corner: heading of the row headings.
        columns: headings of the cells.
        rows: its rows.
    """

    caption: str
    corner: str
    columns: list[str]
    rows: list[Row]


def cell(measurement: Measurement | None, digits: int, sign: bool = False) -> Cell:
    """The cell of a measurement."""
    if measurement is None:
        return Cell(ABSENT)
    shown = seeds(measurement, digits, sign)
    return Cell(
        text=number(measurement.number, digits, sign),
        interval=interval(measurement.ci95, digits, sign),
        seeds=f"seeds {shown}" if shown else "",
        raw=measurement.number,
    )


def models_table(
    caption: str, models: Mapping[str, Mapping[str, Measurement]], metrics: Sequence[str], corner: str = "model"
) -> Table:
    """A row per model and a column per metric, with the best number of each column marked."""
    names = list(models)
    columns = [_column(metric, names, [values.get(metric) for values in models.values()]) for metric in metrics]
    rows = [Row(label(name), [column[row] for column in columns], name in POLICIES) for row, name in enumerate(names)]
    return Table(caption, corner, [label(metric) for metric in metrics], rows)


def _column(
    metric: str, names: Sequence[str], measurements: Sequence[Measurement | None], digits: int | None = None
) -> list[Cell]:
    """Cells of the models `names`, the best marked. The computed optimum is never the best."""
    cells = [cell(one, digits or digits_for(measurements)) for one in measurements]
    known = [one.raw for one, name in zip(cells, names, strict=True) if one.raw is not None and name != OPTIMUM]
    if len(set(known)) < 2 or better(metric) == "neither":
        return cells
    best = min(known) if better(metric) == "lower" else max(known)
    return [replace(one, best=one.raw == best and name != OPTIMUM) for one, name in zip(cells, names, strict=True)]


def ranking_tables(split: str, models: Mapping[str, Mapping[str, Estimate]]) -> tuple[Table | None, list[Table]]:
    """The headline table (ranking metrics at 10), and tables of purchases, other metrics and other cut-offs."""
    metrics = list(dict.fromkeys(metric for values in models.values() for metric in values))
    ranking = [metric for metric in metrics if is_ranking(metric)]
    headline = [metric for metric in ranking if "@" not in metric or metric.endswith(f"@{HEADLINE_K}")]
    purchases = [metric for metric in metrics if is_of_purchases(metric)]
    groups = {
        "ranking": headline,
        "purchases": purchases,
        "beyond accuracy": [metric for metric in metrics if metric not in ranking and metric not in purchases],
        "other cut-offs": [metric for metric in ranking if metric not in headline],
    }
    tables = [models_table(f"{label(split)}: {what}", models, names) for what, names in groups.items() if names]
    return (tables[0], tables[1:]) if headline else (None, tables)


def comparisons_table(
    split: str, comparisons: Mapping[str, Mapping[str, Comparison]], rival: str | None = None
) -> Table:
    """A row per pair of models and metric: difference, p after Holm's correction, and verdict.

    Descriptive metrics have an interval alone. `rival` is the best baseline on validation; its rows say so.
    """
    rows = []
    for pair, metrics in comparisons.items():
        for metric, comparison in metrics.items():
            conclusion = comparison.conclusion
            p = comparison.p_holm
            untested = conclusion is None and comparison.difference is not None
            shown = ABSENT if untested else conclusion or UNDEFINED
            cells = [
                Cell(label(metric)),
                cell(comparison, 4, sign=True),
                Cell(ABSENT if untested else "< 0.001" if p is not None and p < 0.001 else number(p), raw=p),
                Cell(shown, tone=conclusion if conclusion in ("better", "worse") else ""),
            ]
            rows.append(Row(pair_label(pair, rival), cells))
    return Table(f"{label(split)}: comparisons", "pair", ["metric", "difference", "p (Holm)", "verdict"], rows)


def pair_label(pair: str, rival: str | None, between: str = " − ") -> str:
    """The names of two compared models; the best baseline on validation is marked as such."""
    one, _, two = pair.partition("_vs_")
    return f"{label(one)}{between}{label(two)}" + (" (best on validation)" if two == rival else "")


def optimum_table(split: str, optimum: OptimumReport) -> Table:
    """PPO's objective of SFT, PPO and the exact optimum, and the share of the gap that PPO closed."""
    names = (*POLICIES, OPTIMUM)
    rows = []
    for measure, closed in optimum.gap_closed.items():
        values = optimum.objective if measure == "objective" else {}
        share = "optimum not above SFT" if closed.value is None else measured_percent(closed)
        shown = Cell(share, seeds=seeds(closed), raw=closed.value)
        rows.append(Row(label(measure), [*(cell(values.get(name), 3) for name in names), shown]))
    entropy, weight = (" + α H(policy)", f", α = {number(optimum.alpha, 2)}") if optimum.alpha else ("", "")
    caption = (
        f"{label(split)}: E[reward] − β KL(policy, SFT){entropy}, β = {number(float(optimum.beta), 2)}{weight}, nats"
    )
    return Table(caption, "", [*map(label, names), "gap closed"], rows)


def purchases_table(split: str, purchases: Mapping[str, PurchaseReport]) -> Table:
    """A row per weight of purchases and ranking: its metrics, and how far the optimum is above it."""
    rows = []
    first = next((models for one in purchases.values() for models in one.models.values()), {})
    for weight, found in purchases.items():
        for name, metrics in found.models.items():
            cells = [cell(metrics.get(metric), 3) for metric in first]
            rows.append(Row(f"{weight}: {label(name)}", [*cells, cell(found.differences.get(name), 4, sign=True)]))
    caption = f"{label(split)}: rankings for purchases, by weight of log P(purchase given click)"
    columns = [*map(label, first), f"optimum minus this, {label('purchase_ndcg@10')}"]
    return Table(caption, "weight: ranking", columns, rows)


def requests_table(requests: Mapping[str, Mapping[str, RequestReport]]) -> Table:
    """A row per kind of request and policy: satisfied items and NDCG@10, beside the controls."""
    columns = {
        "requests": "requests",
        "satisfied": "satisfied, top 10",
        "satisfied_without": "without request",
        "ndcg": label("ndcg@10"),
        "ndcg_without": "without request",
        "ndcg_oracle": "oracle filter",
        "ndcg_popular": "popular, oracle filter",
        "of_oracle": "share of oracle filter",
    }
    kinds = list(dict.fromkeys(kind for of_policy in requests.values() for kind in of_policy))
    rows: list[Row] = []
    for kind in kinds:
        for policy, of_policy in requests.items():
            if kind not in of_policy:
                continue
            found = of_policy[kind]
            cells = [Cell(number(found.requests, 0)), *(cell(getattr(found, key), 3) for key in list(columns)[1:])]
            name, _, conditions = kind.rpartition("_")
            rows.append(Row(f"{label(name)}, {conditions}: {label(policy)}", cells))
    return Table("Requests in words, by kind and number of conditions", "request: policy", [*columns.values()], rows)


def times_table(parts: Mapping[str, Mapping[str, PartTime]]) -> Table:
    """A row per stage and per part that took at least `SHOWN_SHARE` of all time: seconds, process time and share."""
    whole = sum(one.seconds or 0.0 for of_stage in parts.values() for one in of_stage.values())
    rows: list[Row] = []
    for stage, of_stage in parts.items():
        rows.append(_time_row(stage, list(of_stage.values()), whole))
        by_time = sorted(of_stage.items(), key=lambda item: -(item[1].seconds or 0.0))
        large = {name: one for name, one in by_time if (one.seconds or 0.0) >= SHOWN_SHARE * whole and name != OTHER}
        rest = [one for name, one in by_time if name not in large]
        rows += [_time_row(f"{stage}: {name}", [one], whole) for name, one in large.items()]
        if large and rest:
            rows.append(_time_row(f"{stage}: {OTHER}", rest, whole))
    rows.append(_time_row("all", [one for of_stage in parts.values() for one in of_stage.values()], whole))
    return Table("Time of each stage and part", "stage: part", ["seconds", "process seconds", "share"], rows)


def _time_row(heading: str, times: Sequence[PartTime], whole: float) -> Row:
    seconds = sum(one.seconds or 0.0 for one in times)
    cpu_seconds = sum(one.cpu_seconds or 0.0 for one in times)
    share = percent(seconds / whole) if whole else UNDEFINED
    return Row(heading, [Cell(number(seconds, 1)), Cell(number(cpu_seconds, 1)), Cell(share)])


def slices_tables(split: str, slices: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> list[Table]:
    """A table per metric, NDCG first, with a row per slice and a column per model."""
    values = [metrics for models in slices.values() for metrics in models.values()]
    metrics = list(dict.fromkeys(metric for one in values for metric in one))
    metrics.sort(key=lambda metric: not metric.startswith("ndcg"))
    names = list(dict.fromkeys(name for models in slices.values() for name in models))
    return [_slices_table(split, slices, metric, names, digits_for(one.get(metric) for one in values))
            for metric in metrics]  # fmt: skip


def _slices_table(
    split: str,
    slices: Mapping[str, Mapping[str, Mapping[str, Estimate]]],
    metric: str,
    names: list[str],
    digits: int,
) -> Table:
    rows = []
    for name, models in slices.items():
        found = [models.get(model, {}).get(metric) for model in names]
        size = next((one.n for one in found if one is not None and one.n is not None), None)
        sizes = Cell(ABSENT if size is None else number(size), raw=size)
        rows.append(Row(label(name), [sizes, *_column(metric, names, found, digits)]))
    return Table(f"{label(split)}: {label(metric)} by slice", "slice", ["n", *map(label, names)], rows)


def reward_table(reward: RewardReport) -> Table:
    """A row per part of the reward: before RL, after it, and the difference."""
    rows = [
        Row(
            label(part) or "reward",
            [cell(change.before, 3), cell(change.after, 3), cell(change.difference, 3, sign=True)],
        )
        for part, change in reward.parts.items()
    ]
    caption = (
        "Reward in nats of the ten best items (list) and of sampled completions; penalties and groundedness are shares"
    )
    return Table(caption, "part", ["SFT", "PPO", "difference"], rows)


def generation_tables(generation: Mapping[str, GenerationReport]) -> tuple[Table | None, Table | None]:
    """What the mask guarantees, and what training can change: a row per metric and a column per policy each.

    Either is None if it has no rows.
    """
    found = {name: report.measurements for name, report in generation.items()}
    metrics = list(dict.fromkeys(metric for measurements in found.values() for metric in measurements))
    guaranteed = [metric for metric in metrics if metric in GUARANTEES]
    others = [metric for metric in metrics if metric not in GUARANTEES]
    return (
        _generation_table("Guarantees of the mask", found, guaranteed) if guaranteed else None,
        _generation_table("One recommendation for every user", found, others) if others else None,
    )


def _generation_table(caption: str, found: Mapping[str, Mapping[str, Measurement]], metrics: Sequence[str]) -> Table:
    rows = []
    for metric in metrics:
        entries = [measurements.get(metric) for measurements in found.values()]
        sizes = {one.n for one in entries if one is not None and one.n is not None}
        size = Cell(" / ".join(number(size) for size in sorted(sizes)))
        rows.append(Row(label(metric), [*(cell(one, 3) for one in entries), size]))
    return Table(caption, "", [*map(label, found), "n"], rows)


def quality_tables(what: str, quality: EventQuality) -> list[Table]:
    """How well a reward model predicts events: beside its baselines, and by slices."""
    metrics = [metric for metric in QUALITY if metric in quality.model_fields_set]
    groups = {"": {"reward model": quality, **quality.baselines}, " by slice": quality.slices}
    return [
        models_table(f"{what}{suffix}", {name: _measurements(one) for name, one in rows.items()}, metrics, corner="")
        for suffix, rows in groups.items()
        if rows
    ]


def _measurements(quality: EventQuality) -> dict[str, Measurement]:
    """The metrics that were measured; one that is null counts as undefined."""
    found = {metric: getattr(quality, metric) for metric in QUALITY if metric in quality.model_fields_set}
    return {metric: one if isinstance(one, Estimate) else Estimate(value=one) for metric, one in found.items()}


def pairs(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON values as dotted keys with their text, for lists of plain facts."""
    result = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            result += pairs(value, f"{prefix}{key}.")
        else:
            result.append((f"{prefix}{key}", _text(value)))
    return result


def _text(value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,d}" if isinstance(value, int) else str(value)


def counted_targets(card: DatasetCard, split: str) -> str:
    """How many test targets the counts of a split were measured on, as the end of a heading; empty if unknown."""
    sizes = card.counted.get(split)
    if sizes is None:
        return ""
    sampled = "" if sizes.users == sizes.of_users else f" sampled from {sizes.of_users:,}"
    return f", {sizes.targets:,} targets of {sizes.users:,} users{sampled}"


def card_facts(card: DatasetCard) -> list[tuple[str, str]]:
    """A dataset card as dotted keys with their text; of its warnings, the text with harm and reason."""
    warnings = [f"{harm_of(warning)} {warning.text}".strip() for warning in card.warnings]
    return pairs(card.as_json() | ({"warnings": warnings} if warnings else {}))


def harm_of(warning: DataWarning) -> str:
    """How much a warning about a log harms and why, as the beginning of a line; empty if its card does not say."""
    if warning.harm is None or warning.why is None:
        return ""
    share = "" if warning.share is None else f", {percent(warning.share, 0 if warning.share >= 0.01 else 2)}"
    return f"{warning.harm}{share}: {warning.why}."


def data_checks(card: DatasetCard) -> list[tuple[str, str]]:
    """The checks of a dataset card for people: what was measured, and the share or time."""
    shares = {"clicks at the time of a click of the user on another item": card.tied_events}
    times: dict[str, Number] = {}
    propensities: dict[str, Number] = {}
    if card.checks is not None:
        checks = card.checks
        shares |= {
            "histories in order of item id": checks.sorted_histories,
            "the same by chance": checks.sorted_by_chance,
            "clicks that repeat an item of the user": checks.repeated_clicks,
            "test rows that repeat a training row": checks.test_rows_seen_in_training,
            "clicks of the most active user": checks.largest_user,
            "clicks on the most clicked item": checks.largest_item,
        }
        shares |= {f"{label(s)}: targets on the day of the item before": v for s, v in checks.same_day_targets.items()}
        shares |= {f"{label(s)}: test sequences known from training": v for s, v in checks.known_sequences.items()}
        times = {
            f"{label(s)}: median time before the target": v for s, v in checks.median_seconds_before_target.items()
        }
        if checks.exposures is not None:
            shares |= {
                "exposures that were clicked": checks.exposures.click_rate,
                "exposures without a propensity": checks.exposures.without_propensity,
                "effective exposures of a uniform policy": checks.exposures.uniform_sample_size,
            }
            propensities = {
                "smallest propensity": checks.exposures.smallest_propensity,
                "median propensity": checks.exposures.median_propensity,
            }
    if card.items and card.items_with_a_repeated_title is not None:
        shares["items with the title of another item"] = card.items_with_a_repeated_title / card.items
    return [
        ("users, items, clicks", f"{card.users:,}, {card.items:,}, {card.clicks:,}"),
        *((name, ABSENT if share is None else percent(share)) for name, share in shares.items()),
        *((name, ABSENT if seconds is None else f"{seconds:,.0f} s") for name, seconds in times.items()),
        *((name, ABSENT if value is None else f"{value:.3g}") for name, value in propensities.items()),
    ]

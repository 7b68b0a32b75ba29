"""Tables of a `report.json`, whatever models, metrics, slices and comparisons it has.

A measured value is a dict with its number under `value`, `rate`, `count` or `difference`, and perhaps `ci95`, `n` and
`seeds` (the value of each training seed).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

NUMBERS = ("value", "rate", "count", "difference")
RANKING = ("hr", "ndcg", "mrr", "recall")  # metrics of the headline, without their cut-off
HEADLINE_K = 10
LOWER_IS_BETTER = frozenset({"gini", "miscalibration", "log_loss", "brier", "ece"})
UNMARKED = frozenset({"ece_floor", "popularity_bias"})  # more of it is neither better nor worse
TRUST = ("auc", "auc_popularity_matched", "log_loss", "brier", "ece", "ece_floor")
ALPHA = 0.05
OURS = ("sft", "ppo")
OPTIMUM = "optimum"  # of the objective, computed, not trained
LABELS = {
    "sft": "SFT",
    "ppo": "PPO",
    "ease": "EASE",
    "sasrec": "SASRec",
    "markov": "Markov",
    "itemknn": "ItemKNN",
    "hr": "HR",
    "ndcg": "NDCG",
    "mrr": "MRR",
    "auc": "AUC",
    "ece": "ECE",
    "ece_floor": "ECE, perfect model",
    "auc_popularity_matched": "AUC, popular negatives",
    "log_loss": "log-loss",
    "brier": "Brier",
    "gini": "Gini",
    "leave_one_out": "leave-one-out",
}


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what is shown.
        interval: its 95 % interval, in brackets.
        seeds: the values of the training seeds, in words.
        raw: the unrounded number.
        best: the best of its column.
        tone: `better`, `worse` or nothing.
    """

    text: str
    interval: str = ""
    seeds: str = ""
    raw: float | None = None
    best: bool = False
    tone: str = ""


@dataclass(frozen=True)
class Row:
    """One row; `ours` is a policy of this run."""

    heading: str
    cells: list[Cell]
    ours: bool = False


@dataclass(frozen=True)
class Table:
    """A table; `columns` heads its cells, `corner` its row headings."""

    caption: str
    corner: str
    columns: list[str]
    rows: list[Row]


def label(name: str) -> str:
    """What people call a model, a metric or a slice: `ndcg@10` is `NDCG@10`, `reward_model` is `reward model`."""
    stem, at, k = name.partition("@")
    return LABELS.get(stem, stem.replace("_", " ")) + at + k


def number_of(entry: Any) -> float | None:
    """The number of a measured value, None if it has none."""
    if isinstance(entry, Mapping):
        entry = next((entry[key] for key in NUMBERS if key in entry), None)
    return entry if isinstance(entry, int | float) and not isinstance(entry, bool) else None


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """A number for people: integers in full, others to `digits` decimals; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if isinstance(value, int):
        return f"{value:{'+' if sign else ''},d}"
    return f"{value:{'+' if sign else ''},.{digits}f}".replace("-", "−")


def digits_for(entries: Iterable[Any]) -> int:
    """Decimals of a column: one more where all numbers are small."""
    sizes = [abs(value) for value in map(number_of, entries) if value is not None and math.isfinite(value)]
    return 4 if max(sizes, default=1.0) < 0.05 else 3


def interval(entry: Any, digits: int, sign: bool = False) -> str:
    """The 95 % interval of a measured value in brackets; empty if it has none."""
    bounds = entry.get("ci95") if isinstance(entry, Mapping) else None
    return f"[{', '.join(number(bound, digits, sign) for bound in bounds)}]" if bounds else ""


def cell(entry: Any, digits: int, sign: bool = False) -> Cell:
    """A measured value."""
    value = number_of(entry)
    seeds = entry.get("seeds") if isinstance(entry, Mapping) else None
    shown = ", ".join(number(seed, digits, sign) for seed in seeds or [])
    return Cell(number(value, digits, sign), interval(entry, digits, sign), shown and f"seeds {shown}", value)


def models_table(caption: str, models: Mapping[str, Mapping], metrics: list[str], corner: str = "model") -> Table:
    """One row a model, one column a metric, the best of each column marked."""
    entries = {metric: [values.get(metric) for values in models.values()] for metric in metrics}
    columns = {metric: _column(metric, found, digits_for(found), list(models)) for metric, found in entries.items()}
    rows = [
        Row(label(name), [columns[metric][number] for metric in metrics], name in OURS)
        for number, name in enumerate(models)
    ]
    return Table(caption, corner, [label(metric) for metric in metrics], rows)


def _column(metric: str, entries: list[Any], digits: int, names: list[str]) -> list[Cell]:
    """Cells of the models `names`, the best marked; the optimum is no model that could be."""
    cells = [cell(entry, digits) for entry in entries]
    known = [one.raw for one, name in zip(cells, names, strict=True) if one.raw is not None and name != OPTIMUM]
    if len(set(known)) < 2 or metric in UNMARKED:
        return cells
    best = min(known) if metric.partition("@")[0] in LOWER_IS_BETTER else max(known)
    return [replace(one, best=one.raw == best and name != OPTIMUM) for one, name in zip(cells, names, strict=True)]


def ranking_tables(split: str, models: Mapping[str, Mapping]) -> tuple[Table | None, list[Table]]:
    """The headline (ranking metrics at 10), and tables of what else was measured: other metrics, other cut-offs."""
    metrics = list(dict.fromkeys(metric for values in models.values() for metric in values))
    ranking = [metric for metric in metrics if metric.partition("@")[0] in RANKING]
    headline = [metric for metric in ranking if "@" not in metric or metric.endswith(f"@{HEADLINE_K}")]
    other = [metric for metric in metrics if metric not in ranking]
    deeper = [metric for metric in ranking if metric not in headline]
    tables = [
        models_table(f"{label(split)}: {what}", models, names)
        for what, names in (("ranking", headline), ("beyond accuracy", other), ("other cut-offs", deeper))
        if names
    ]
    return (tables[0], tables[1:]) if headline else (None, tables)


def difference_in_words(entry: Mapping, metric: str = "") -> str:
    """`better`, `worse` or `no difference`, of a comparison `{difference, ci95, p_holm}`: by p where there is one, else
    by whether the interval excludes 0.
    """
    difference, bounds, p = entry.get("difference"), entry.get("ci95"), entry.get("p_holm")
    clear = p < ALPHA if p is not None else bool(bounds) and (bounds[0] > 0 or bounds[1] < 0)
    if not clear or not difference:
        return "no difference"
    lower_is_better = metric.partition("@")[0] in LOWER_IS_BETTER
    return "better" if (difference > 0) != lower_is_better else "worse"


def comparisons_table(split: str, comparisons: Mapping[str, Mapping[str, Mapping]]) -> Table:
    """One row a pair and metric: difference, p after Holm's correction, and what that means."""
    rows = []
    for pair, metrics in comparisons.items():
        one, _, two = pair.partition("_vs_")
        for metric, entry in metrics.items():
            words = entry.get("verdict") or difference_in_words(entry, metric)
            tone = difference_in_words(entry, metric).replace("no difference", "")
            p = entry.get("p_holm")
            cells = [
                Cell(label(metric)),
                cell(entry, 4, sign=True),
                Cell(number(p, 3) if p is None or p >= 0.001 else "< 0.001", raw=p),
                Cell(str(words), tone=tone),
            ]
            rows.append(Row(f"{label(one)} − {label(two)}", cells))
    return Table(f"{label(split)}: comparisons", "pair", ["metric", "difference", "p (Holm)", "verdict"], rows)


def optimum_table(split: str, optimum: Mapping) -> Table:
    """What PPO's item decisions maximise, of SFT, PPO and the exact optimum, and how much of the gap PPO closed."""
    names = ("sft", "ppo", OPTIMUM)
    rows = []
    for measure, closed in optimum["gap_closed"].items():
        values = optimum["objective"] if measure == "objective" else {}
        share = Cell("not above SFT" if closed is None else f"{number(100 * closed, 0)} %", raw=closed)
        rows.append(Row(label(measure), [*(cell(values.get(name), 3) for name in names), share]))
    alpha = optimum.get("alpha", 0)
    spread = (" + α H(policy)", f", α = {number(alpha, 2)}") if alpha else ("", "")
    weights = f"β = {number(optimum['beta'], 2)}{spread[1]}"
    caption = f"{label(split)}: E[reward] − β KL(policy, SFT){spread[0]}, {weights}, nats"
    return Table(caption, "", [*map(label, names), "gap closed"], rows)


def slices_tables(split: str, slices: Mapping[str, Mapping[str, Mapping]]) -> list[Table]:
    """One table a metric: a row a slice, a column a model."""
    metrics = list(dict.fromkeys(m for models in slices.values() for values in models.values() for m in values))
    metrics.sort(key=lambda metric: not metric.startswith("ndcg"))
    names = list(dict.fromkeys(name for models in slices.values() for name in models))
    tables = []
    for metric in metrics:
        rows = []
        digits = digits_for(values.get(metric) for models in slices.values() for values in models.values())
        for one, models in slices.items():
            cells = _column(metric, [models.get(name, {}).get(metric) for name in names], digits, names)
            sizes = (models[name].get(metric) for name in models)
            size = next((entry["n"] for entry in sizes if isinstance(entry, Mapping) and "n" in entry), None)
            rows.append(Row(label(one), [Cell(number(size, 0), raw=size), *cells]))
        caption = f"{label(split)}: {label(metric)} by slice"
        tables.append(Table(caption, "slice", ["n", *map(label, names)], rows))
    return tables


def reward_table(reward: Mapping[str, Mapping]) -> Table:
    """Reward before and after RL, a row a part, from keys `before`, `judge_before`, `judge_after`, ..."""
    moments = ("before", "after", "difference")
    parts: dict[str, dict] = {}
    for key, entry in reward.items():
        part, _, moment = key.rpartition("_")
        parts.setdefault(part, {})[moment] = entry
    rows = [
        Row(label(part) or "reward", [cell(entries.get(m), 3, sign=m == "difference") for m in moments])
        for part, entries in parts.items()
    ]
    return Table(
        "Reward of the ten best items (list) and of sampled completions, nats; shares of faults and of the grounded",
        "part",
        ["SFT", "PPO", "difference"],
        rows,
    )


def generation_table(generation: Mapping[str, Mapping]) -> Table:
    """What the policies wrote: a row a rate, a column a policy; nested values under dotted names."""
    flat = {name: _flat(rates) for name, rates in generation.items()}
    keys = list(dict.fromkeys(key for rates in flat.values() for key in rates))
    rows = []
    for key in keys:
        entries = [flat[name].get(key) for name in flat]
        sizes = {entry["n"] for entry in entries if entry and "n" in entry}
        size = Cell(" / ".join(number(size, 0) for size in sorted(sizes)))
        rows.append(Row(label(key), [*(cell(entry, 3) for entry in entries), size]))
    return Table("Written for every user", "", [*map(label, flat), "n"], rows)


def _flat(values: Mapping, prefix: str = "") -> dict[str, Mapping]:
    result: dict[str, Mapping] = {}
    for key, entry in values.items():
        if isinstance(entry, Mapping) and number_of(entry) is None and not any(name in entry for name in NUMBERS):
            result |= _flat(entry, f"{prefix}{key}: ")
        elif isinstance(entry, Mapping):
            result[prefix + key] = entry
    return result


def trust_tables(what: str, quality: Mapping) -> list[Table]:
    """How far a reward model can be trusted: beside its baselines, and by slices."""
    tables = [("", {"reward model": quality, **quality.get("baselines", {})}), (" by slice", quality.get("slices", {}))]
    return [
        models_table(f"{what}{suffix}", rows, [metric for metric in TRUST if metric in quality], corner="")
        for suffix, rows in tables
        if rows
    ]


def pairs(values: Mapping, prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as dotted keys with what they hold, for lists of plain facts."""
    result = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            result += pairs(value, f"{prefix}{key}.")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else _plain(value)
            result.append((prefix + key, shown))
    return result


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,d}" if type(value) is int else str(value)

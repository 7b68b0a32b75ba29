"""Geometry of the page's charts. `templates/macros.html` writes it as SVG, and the style sheet colors it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from matplotlib.ticker import MaxNLocator

from llmrec.evaluation.report import POLICIES, Estimate, GuardEvaluation, RewardModelReport
from llmrec.report.format import typeset
from llmrec.report.glossary import label

# Sizes in pixels of the SVG's own coordinates.
WIDTH = 360
HEIGHT = 220
LEFT = 60
RIGHT = 12
TOP = 10
BOTTOM = 38
ROW = 22  # height of a row of an interval chart
NAMES = 104  # width of the names in an interval chart

Point = tuple[float, float]


def ticks(low: float, high: float, count: int = 5, integer: bool = False) -> list[float]:
    """Round numbers that enclose a range."""
    if low == high:
        margin = (abs(low) or 1) * 0.1
        low, high = low - margin, high + margin
    return list(map(float, MaxNLocator(count, integer=integer, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)))


def tick_label(value: float, marks: Sequence[float]) -> str:
    """The number at a tick, with as many decimals as distinguish it from its neighbors."""
    step = abs(marks[1] - marks[0])
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    digits += round(step, digits) != step and not math.isclose(round(step, digits), step)
    return typeset(f"{round(value, digits) + 0.0:,.{digits}f}")


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: its name in the legend.
        points: pairs of x and y in order of x.
        kept: the x of emphasized points.
    """

    name: str
    points: Sequence[Point]
    kept: frozenset[float] = frozenset()


@dataclass(frozen=True)
class LineChart:
    """Curves over one x axis.

    Attributes:
        title: what the chart shows.
        x: what its x axis is.
        y: what its y axis is.
        lines: at least one line, each with at least one point.
        note: a remark below the chart.
        unit: whether both axes go from 0 to 1, with the diagonal drawn.
    """

    title: str
    x: str
    y: str
    lines: list[Line]
    note: str = ""
    unit: bool = False

    @cached_property
    def y_ticks(self) -> list[float]:
        """Values at which the y axis has ticks."""
        values = [y for line in self.lines for _, y in line.points]
        return [0.0, 0.25, 0.5, 0.75, 1.0] if self.unit else ticks(min(values), max(values))

    @cached_property
    def x_ticks(self) -> list[float]:
        """Values at which the x axis has ticks."""
        if self.unit:
            return self.y_ticks
        low, high = self._x_range
        return [mark for mark in ticks(low, high, integer=True) if low <= mark <= high]

    @cached_property
    def _x_range(self) -> Point:
        if self.unit:
            return 0.0, 1.0
        values = [x for line in self.lines for x, _ in line.points]
        return min(values), max(values) if max(values) > min(values) else min(values) + 1

    def at_x(self, x: float) -> float:
        """Horizontal position in the drawing, in pixels."""
        low, high = self._x_range
        return round(LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT), 2)

    def at_y(self, y: float) -> float:
        """Vertical position in the drawing, in pixels."""
        low = self.y_ticks[0]
        high = self.y_ticks[-1]
        return round(HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 2)

    def path(self, line: Line) -> str:
        """The points of a line for `<polyline>`."""
        return " ".join(f"{self.at_x(x)},{self.at_y(y)}" for x, y in line.points)

    @property
    def numbers(self) -> list[tuple[float, list[float | None]]]:
        """The drawn numbers as rows: x, and the y of each line."""
        values = [dict(line.points) for line in self.lines]
        return [(x, [one.get(x) for one in values]) for x in sorted(set().union(*values))]


@dataclass(frozen=True)
class IntervalRow:
    """A dot with its 95 % interval; `ours` marks a policy of this run."""

    name: str
    value: float
    low: float
    high: float
    ours: bool


@dataclass(frozen=True)
class IntervalChart:
    """One dot with its 95 % interval per model.

    Attributes:
        title: what the chart shows.
        rows: at least one row.
    """

    title: str
    rows: list[IntervalRow]

    @property
    def height(self) -> int:
        """Height of the drawing, in pixels."""
        return ROW * len(self.rows) + BOTTOM - 8

    @cached_property
    def marks(self) -> list[float]:
        """Values at which the axis has ticks."""
        return ticks(min(row.low for row in self.rows), max(row.high for row in self.rows), 4)

    def at(self, value: float) -> float:
        """Horizontal position in the drawing, in pixels."""
        low = self.marks[0]
        high = self.marks[-1]
        return round(NAMES + (value - low) / (high - low) * (WIDTH - NAMES - 2 * RIGHT), 2)


def interval_chart(title: str, models: Mapping[str, Mapping[str, Estimate]], metric: str) -> IntervalChart | None:
    """Models by one metric; None if none of them has an interval."""
    rows = []
    for name, metrics in models.items():
        estimate = metrics.get(metric)
        if estimate is not None and estimate.value is not None and estimate.ci95 is not None:
            low, high = estimate.ci95
            rows.append(IntervalRow(label(name), estimate.value, low, high, name in POLICIES))
    return IntervalChart(title, rows) if rows else None


def line_of(name: str, entries: Iterable[Mapping[str, Any]], key: str) -> Line:
    """The curve of one key of a training log over its steps; entries without a finite number are left out."""
    return Line(name, [(entry["step"], entry[key]) for entry in entries if _is_number(entry.get(key))])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def sft_charts(log: Sequence[Mapping[str, Any]]) -> list[LineChart]:
    """Losses of supervised fine-tuning."""
    keys = [key for key in (log[0] if log else {}) if key.endswith("loss")]
    lines = [line_of("sum" if key == "loss" else label(key).removesuffix(" loss"), log, key) for key in keys]
    return _drawable([LineChart("SFT loss", "optimizer step", "loss, nats", lines)])


def guard_charts(history: Sequence[GuardEvaluation]) -> list[LineChart]:
    """Validation during PPO: NDCG@10, and the change since SFT of the reward and the judge for the ten best items."""
    ndcg = [(one.step, one.ndcg) for one in history if one.ndcg is not None]
    kept = frozenset(one.step for one in history if one.kept)
    reward = _change([(one.step, one.reward) for one in history])
    judge = _change([(one.step, one.judge) for one in history])
    return _drawable(
        [
            LineChart(
                title="NDCG@10 on validation",
                x="PPO update",
                y="NDCG@10",
                lines=[Line("NDCG@10", ndcg, kept)],
                note="A ring marks an adapter that was the best so far. Update 0 is the SFT start.",
            ),
            LineChart(
                title="Reward and judge on validation",
                x="PPO update",
                y="change since SFT, nats",
                lines=[Line("learned reward", reward), Line("independent judge", judge)],
                note="Means over the ten best items. A learned reward that rises while the judge's falls would be "
                "reward hacking.",
            ),
        ]
    )


def _change(values: Sequence[tuple[float, float | None]]) -> list[Point]:
    """Change of values since the first one; no points if the first is undefined."""
    start = values[0][1] if values else None
    return [] if start is None else [(step, value - start) for step, value in values if value is not None]


def ppo_charts(log: Sequence[Mapping[str, Any]]) -> list[LineChart]:
    """Reward, its parts and the KL divergence of the rollouts."""
    has_item_kl = any("objective/item_kl" in entry for entry in log)
    kl = [line_of("text" if has_item_kl else "completion", log, "objective/kl"),
          line_of("text", log, "text/kl"),
          line_of("item", log, "objective/item_kl")]  # fmt: skip
    parts = sorted({key for entry in log for key in entry if key.startswith("reward/")})
    moving = [key for key in parts if any(entry.get(key) for entry in log)]
    names = {key: label(key.removeprefix("reward/")) for key in parts}
    constant = ", ".join(names[key] for key in parts if key not in moving)
    note = f"Parts that were 0 throughout: {constant}." if constant else ""
    reward = [line_of("reward", log, "objective/scores")]
    return _drawable(
        [
            LineChart("Reward of rollouts", "PPO update", "nats", reward, note),
            LineChart("KL from SFT", "PPO update", "nats", kl),
            *(
                LineChart(f"Part: {names[key]}", "PPO update", "mean", [line_of(names[key], log, key)])
                for key in moving
            ),
        ]
    )


def reliability_charts(reward_model: RewardModelReport | None) -> list[LineChart]:
    """Predicted probability against the observed share, for clicks and purchases of each split."""
    charts = []
    for split, results in reward_model.splits.items() if reward_model else ():
        lines = [
            Line(what, quality.reliability.points)
            for what, quality in (("click", results.click), ("purchase", results.purchase))
            if quality is not None and quality.reliability is not None
        ]
        title = f"Reliability, {label(split)}"
        charts.append(LineChart(title, "predicted probability", "observed share", lines, unit=True))
    return _drawable(charts)


def _drawable(charts: Iterable[LineChart]) -> list[LineChart]:
    """The charts with only the lines that have points; a chart without such lines is left out."""
    result = []
    for chart in charts:
        lines = [line for line in chart.lines if line.points]
        if lines:
            result.append(LineChart(chart.title, chart.x, chart.y, lines, chart.note, chart.unit))
    return result

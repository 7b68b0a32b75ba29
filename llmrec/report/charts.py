"""Charts as geometry; `templates/macros.html` writes it as SVG, coloured by the page's style sheet."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from matplotlib.ticker import MaxNLocator

from llmrec.report.tables import label, number_of

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 10, 38  # margins
ROW = 22  # height of a row of an interval chart
NAMES = 104  # width of its names

Point = tuple[float, float]


def ticks(low: float, high: float, count: int = 5, integer: bool = False) -> list[float]:
    """Round numbers that enclose a range."""
    if low == high:
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    return MaxNLocator(count, integer=integer, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high).tolist()


def tick_label(value: float, marks: Sequence[float]) -> str:
    """A tick's number, with the decimals that tell it from its neighbours."""
    step = abs(marks[1] - marks[0])
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    digits += round(step, digits) != step and not math.isclose(round(step, digits), step)
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")


@dataclass(frozen=True)
class Line:
    """One curve: points in order of x, and the x that are emphasised."""

    name: str
    points: list[Point]
    kept: frozenset[float] = frozenset()


@dataclass(frozen=True)
class LineChart:
    """Curves over one x axis.

    Attributes:
        title, x, y: what it shows and what its axes are.
        lines: at least one, each with at least one point.
        note: said below it.
        unit: both axes go from 0 to 1, with the diagonal.
    """

    title: str
    x: str
    y: str
    lines: list[Line]
    note: str = ""
    unit: bool = False

    @cached_property
    def y_ticks(self) -> list[float]:
        values = [y for line in self.lines for _, y in line.points]
        return [0.0, 0.25, 0.5, 0.75, 1.0] if self.unit else ticks(min(values), max(values))

    @cached_property
    def x_ticks(self) -> list[float]:
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
        """Horizontal place in the drawing."""
        low, high = self._x_range
        return round(LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT), 2)

    def at_y(self, y: float) -> float:
        """Vertical place in the drawing."""
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return round(HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 2)

    def path(self, line: Line) -> str:
        """A line's points for `<polyline>`."""
        return " ".join(f"{self.at_x(x)},{self.at_y(y)}" for x, y in line.points)

    @property
    def numbers(self) -> list[tuple[float, list[float | None]]]:
        """What is drawn, as rows: x, and y of each line."""
        values = [dict(line.points) for line in self.lines]
        return [(x, [one.get(x) for one in values]) for x in sorted(set().union(*values))]


@dataclass(frozen=True)
class IntervalChart:
    """A dot with its 95 % interval for each of some names.

    Attributes:
        rows: name, value, low, high, and whether it is a policy of this run.
    """

    title: str
    rows: list[tuple[str, float, float, float, bool]]

    @property
    def height(self) -> int:
        return ROW * len(self.rows) + BOTTOM - 8

    @cached_property
    def marks(self) -> list[float]:
        return ticks(min(low for _, _, low, _, _ in self.rows), max(high for *_, high, _ in self.rows), 4)

    def at(self, value: float) -> float:
        """Horizontal place in the drawing."""
        low, high = self.marks[0], self.marks[-1]
        return round(NAMES + (value - low) / (high - low) * (WIDTH - NAMES - 2 * RIGHT), 2)


def line_of(name: str, entries: Iterable[Mapping], key: str, x: str = "step", kept: str | None = None) -> Line:
    """The curve of one key of a log; entries without it, or where it is not a number, are left out."""
    found = [(entry[x], entry[key], kept and entry.get(kept)) for entry in entries if _known(entry.get(key))]
    return Line(name, [(step, value) for step, value, _ in found], frozenset(step for step, _, keep in found if keep))


def _known(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def interval_chart(title: str, models: Mapping[str, Mapping], metric: str, ours: Sequence[str]) -> IntervalChart | None:
    """Models by one metric; None if none of them has an interval."""
    rows = []
    for name, metrics in models.items():
        entry = metrics.get(metric) or {}
        if entry.get("ci95") and number_of(entry) is not None:
            rows.append((label(name), number_of(entry), *entry["ci95"], name in ours))
    return IntervalChart(title, rows) if rows else None


def sft_charts(log: Sequence[Mapping]) -> list[LineChart]:
    """Losses of supervised fine-tuning."""
    keys = [key for key in (log[0] if log else {}) if key.endswith("loss")]
    lines = [line_of("sum" if key == "loss" else label(key).removesuffix(" loss"), log, key) for key in keys]
    return _charts(("SFT loss", "optimiser step", "loss, nats", lines, "", False))


def guard_charts(history: Sequence[Mapping]) -> list[LineChart]:
    """What the guard saw on validation: NDCG@10, and reward and judge of the ten best items as change since SFT."""
    start = history[0] if history else {}
    changes = [
        line_of(name, _shifted(history, key, start.get(key)), key)
        for name, key in (("learned reward", "eval/reward"), ("independent judge", "eval/judge"))
    ]
    ndcg = line_of("NDCG@10", history, "eval/ndcg@10", kept="kept")
    note = "Ringed: an adapter that the guard kept. Step 0 is the SFT start."
    gap = "Means over the ten best items. Learned reward up while the judge stays or falls would be reward hacking."
    return _charts(
        ("NDCG@10 on validation", "PPO update", "NDCG@10", [ndcg], note, False),
        ("Reward and judge on validation", "PPO update", "change since SFT, nats", changes, gap, False),
    )


def _shifted(entries: Sequence[Mapping], key: str, start: float | None) -> list[Mapping]:
    if not _known(start):
        return []
    return [{**entry, key: entry[key] - start} for entry in entries if _known(entry.get(key))]


def ppo_charts(log: Sequence[Mapping]) -> list[LineChart]:
    """Reward, its parts and KL of the rollouts."""
    exact = any("objective/item_kl" in entry for entry in log)
    kl = [("text" if exact else "completion", "objective/kl"), ("item", "objective/item_kl")]
    parts = sorted({key for entry in log for key in entry if key.startswith("reward/")})
    moving = [key for key in parts if any(entry.get(key) for entry in log)]
    still = ", ".join(label(key.removeprefix("reward/")) for key in parts if key not in moving)
    note = f"Parts that were 0 throughout: {still}." if still else ""
    return _charts(
        ("Reward of rollouts", "PPO update", "nats", [line_of("reward", log, "objective/scores")], note, False),
        ("KL from SFT", "PPO update", "nats", [line_of(name, log, key) for name, key in kl], "", False),
        *(
            (f"Part: {name}", "PPO update", "mean", [line_of(name, log, key)], "", False)
            for name, key in ((label(key.removeprefix("reward/")), key) for key in moving)
        ),
    )


def reliability_charts(reward_model: Mapping) -> list[LineChart]:
    """Predicted probability against the share that happened, of clicks and of purchases."""
    charts = []
    for split, results in reward_model.get("splits", {}).items():
        lines = []
        for what in ("click", "purchase"):
            bins = (results.get(what) or {}).get("reliability")
            if bins:
                lines.append(Line(what, sorted(zip(bins["predicted"], bins["observed"], strict=True))))
        title = f"Reliability, {label(split)}"
        charts += _charts((title, "predicted probability", "share that happened", lines, "", True))
    return charts


def _charts(*described: tuple[str, str, str, list[Line], str, bool]) -> list[LineChart]:
    """Charts of the lines that have points; a chart without any is left out."""
    charts = []
    for title, x, y, lines, note, unit in described:
        drawn = [line for line in lines if line.points]
        if drawn:
            charts.append(LineChart(title, x, y, drawn, note, unit))
    return charts

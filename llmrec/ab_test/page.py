"""Files that a person reads: the page of a test and the plot of its effects over time."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # draws without a screen

import matplotlib.pyplot as plt

from llmrec.ab_test.results import ABTestReport, Comparison
from llmrec.files import write_text, write_with
from llmrec.report.charts import Line, LineChart
from llmrec.report.format import ABSENT, interval, number, percent
from llmrec.report.page import templates
from llmrec.report.tables import Cell, Row, Table

COLUMNS = ["control", "treatment", "difference", "p", "one look", "CUPED", "verdict"]
_TONES = {"better": "better", "holds": "better", "worse": "worse", "violated": "worse"}


def write_page(report: ABTestReport, path: Path) -> None:
    """Writes the page of a test as one HTML file."""
    write_text(path, page_of(report))


def page_of(report: ABTestReport) -> str:
    """The page of a test as HTML."""
    found = report.sample_ratio
    rows = [Row(arm, [Cell(number(n), raw=n), Cell(number(found.expected[arm], 0))]) for arm, n in found.users.items()]
    return (
        templates()
        .get_template("ab_test.html")
        .render(
            report=report,
            verdict=report.refusal or conclusion(report),
            results=[results_table(arm, report) for arm in report.decisions],
            charts=[effect_chart(one) for one in report.comparisons if one.interval is not None],
            users=Table("Users by arm", "arm", ["users", "expected"], rows),
            facts=facts(report),
        )
    )


def conclusion(report: ABTestReport) -> str:
    """The decision for each treatment arm as one line."""
    words = {
        "ship": "the primary metric is better and every guardrail holds",
        "stop": "the primary metric is worse, or a guardrail is violated",
        "continue": "no decision yet",
        "no difference": "no significant difference at the planned number of users",
    }
    return ". ".join(f"{arm}: {decision} ({words[decision]})" for arm, decision in report.decisions.items()) + "."


def results_table(arm: str, report: ABTestReport) -> Table:
    """One row for each metric of a treatment arm."""
    rows = [Row(f"{one.metric} ({one.role})", _cells(one)) for one in report.comparisons if one.arm == arm]
    return Table(f"{arm} against {next(iter(report.sample_ratio.users))}", "metric", COLUMNS, rows)


def _cells(one: Comparison) -> list[Cell]:
    if one.interval is None:
        counts = ", ".join(f"{n:,}" for n in one.users.values())
        return [Cell(ABSENT)] * (len(COLUMNS) - 1) + [Cell(f"too few users ({counts})")]
    p = one.p_holm
    return [
        Cell(number(one.control, 4), raw=one.control),
        Cell(number(one.treatment, 4), raw=one.treatment),
        Cell(_difference_text(one), interval(one.interval, 4, sign=True), raw=one.difference),
        Cell(ABSENT if p is None else p_text(p), raw=p),
        Cell(interval(one.fixed_interval, 4, sign=True)),
        Cell(ABSENT if one.variance_reduction is None else percent(one.variance_reduction, 0)),
        Cell(verdict_text(one), tone=_TONES.get(one.verdict, "")),
    ]


def _difference_text(one: Comparison) -> str:
    shown = number(one.difference, 4, sign=True)
    return shown if one.relative is None else f"{shown} ({100 * one.relative:+.1f} %)"


def p_text(p: float) -> str:
    """A p-value for people."""
    return "< 0.001" if p < 0.001 else number(p)


def verdict_text(one: Comparison) -> str:
    """The verdict with the day on which it was reached."""
    return one.verdict if one.decided_on is None else f"{one.verdict}, day {one.decided_on:.3g}"


def facts(report: ABTestReport) -> list[tuple[str, str]]:
    """Facts about the users and the log."""
    found = report.sample_ratio
    values = [
        ("days", f"{report.days:.1f} (from {report.from_day} to {report.until})"),
        ("users", f"{report.enrolled:,} of {report.planned_users:,} planned"),
        ("sample ratio, p", f"{found.p:.3g}"),
        ("sample ratio of the worst day, p", ABSENT if found.worst_day_p is None else f"{found.worst_day_p:.3g}"),
        ("users with rows before the test", ABSENT if report.with_history is None else percent(report.with_history)),
        ("probability of a false positive", f"{report.alpha:g}"),
    ]
    return values + [(f"left out: {reason}", f"{count:,}") for reason, count in report.left_out.items()]


def effect_chart(one: Comparison) -> LineChart:
    """The difference and the bounds of its confidence sequence over the days."""
    seen = [(look.day, look.difference, look.interval) for look in one.looks]
    drawn = [(day, value, bounds) for day, value, bounds in seen if value is not None and bounds is not None]
    return LineChart(
        title=f"{one.metric}, {one.arm}",
        x="day of the test",
        y="difference",
        lines=[
            Line("difference", [(day, value) for day, value, _ in drawn]),
            Line("lower bound", [(day, low) for day, _, (low, _) in drawn]),
            Line("upper bound", [(day, high) for day, _, (_, high) in drawn]),
        ],
        note=f"{one.role}, {verdict_text(one)}",
    )


def write_plot(report: ABTestReport, path: Path) -> None:
    """Writes the effects with their confidence sequences over time as PNG, one panel for each metric."""
    drawn = [one for one in report.comparisons if one.interval is not None]
    metrics = list(dict.fromkeys(one.metric for one in drawn))
    figure, axes = plt.subplots(len(metrics), 1, figsize=(7, 2.6 * len(metrics)), squeeze=False, layout="constrained")
    for axis, metric in zip(axes[:, 0], metrics, strict=True):
        for index, one in enumerate(each for each in drawn if each.metric == metric):
            lines = effect_chart(one).lines
            days, values = zip(*lines[0].points, strict=True)
            low, high = ([bound for _, bound in line.points] for line in lines[1:])
            axis.plot(days, values, color=f"C{index}", marker=".", label=f"{one.arm}: {verdict_text(one)}")
            axis.fill_between(days, low, high, color=f"C{index}", alpha=0.2)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_title(metric)
        axis.set_ylabel("difference")
        axis.legend(fontsize="small")
    axes[-1, 0].set_xlabel("day of the test")
    write_with(path, lambda file: figure.savefig(file, format="png", dpi=120))
    plt.close(figure)

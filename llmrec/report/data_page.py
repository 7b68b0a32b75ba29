"""`data.html`, the page about a prepared log that a person looks at before anything is trained."""

from llmrec.evaluation.report import DatasetCard
from llmrec.report.charts import Line, LineChart
from llmrec.report.format import ABSENT, interval, number, percent
from llmrec.report.glossary import label
from llmrec.report.page import templates
from llmrec.report.tables import Cell, Row, Table, counted_targets, data_checks, harm_of, pairs

HARMS = {
    "wrong": "results say something else than they seem to",
    "weak": "results are right, but models learn less or the result holds for less",
    "odd": "results hardly change",
}


def data_page(card: DatasetCard, name: str) -> str:
    """The page as HTML.

    Args:
        card: the dataset card, with `counts` and `curves`.
        name: name of the run.
    """
    facts = card.as_json()
    for shown in ("warnings", "counts", "counted", "curves", "losses", "checks"):
        facts.pop(shown, None)
    return (
        templates()
        .get_template("data.html")
        .render(
            name=name,
            verdict=f"{card.users or 0:,} users, {card.items or 0:,} items, {card.clicks or 0:,} clicks",
            warnings=[(harm_of(warning), warning.text) for warning in card.warnings],
            harms=HARMS,
            charts=data_charts(card),
            losses=losses_table(card),
            counts=[counts_table(split, card) for split in card.counts],
            checks=data_checks(card),
            facts=pairs(facts),
        )
    )


def data_charts(card: DatasetCard) -> list[LineChart]:
    """The curves of a card as charts; a curve that the log cannot have gives none."""
    begin = card.time.get("first", "")[:10]
    charts = [
        LineChart("Clicks over time", f"days since {begin}", "clicks a day", _lines(card, "clicks_by_day")),
        LineChart(
            title="Who has the clicks",
            x="share of users or items, the largest first",
            y="share of the clicks",
            lines=_lines(card, "clicks_of_"),
            note="On the diagonal all have equally many.",
            unit=True,
        ),
        LineChart(
            title="Length of sessions",
            x="clicks, at most",
            y="share of the sessions",
            lines=_lines(card, "sessions"),
            note="A session ends where no click follows within 30 minutes. 20 stands for 20 or more.",
        ),
        LineChart(
            title="Time between two clicks of a user",
            x="less than 10 to this power of seconds",
            y="share of the gaps",
            lines=_lines(card, "gaps"),
            note="0 is the same second. A minute is at 1.8, a day at 4.9, a year at 7.5.",
        ),
        LineChart(
            "Test targets on rare items",
            "training clicks of the item, at most",
            "share of targets",
            _lines(card, "cold_"),
        ),
        LineChart(
            title="Propensities of exposures",
            x="at most 10 to this power",
            y="share of the exposures",
            lines=_lines(card, "propensities"),
            note=_without_propensity(card),
        ),
        LineChart(
            title="Clicks by position",
            x="position",
            y="share of the exposures clicked",
            lines=_lines(card, "click_rate"),
            note="Positions up to 20. A fall shows where users look, and what the logging policy placed first.",
        ),
    ]
    return [chart for chart in charts if chart.lines]


def _without_propensity(card: DatasetCard) -> str:
    found = card.checks.exposures if card.checks is not None else None
    if found is None or found.smallest_propensity is None:
        return ""
    return (
        f"-1 is 0.1. The smallest is {found.smallest_propensity:.3g}; {percent(found.without_propensity)} of the "
        "exposures have none."
    )


def _lines(card: DatasetCard, prefix: str) -> list[Line]:
    return [
        Line(label(name.removeprefix(prefix)) or label(name), curve)
        for name, curve in card.curves.items()
        if name.startswith(prefix) and curve
    ]


def losses_table(card: DatasetCard) -> Table:
    """Rows that were left out, by table and reason."""
    rows = [
        Row(f"{key.removesuffix('_left_out')}: {reason}", [Cell(number(count), raw=count)])
        for key, counts in card.losses.items()
        if key.endswith("_left_out")
        for reason, count in counts.items()
    ]
    read = card.losses.get("events_read")
    rows.insert(0, Row("events read", [Cell(ABSENT if read is None else number(read), raw=read)]))
    return Table("Rows that were left out", "table and reason", ["rows"], rows)


def counts_table(split: str, card: DatasetCard) -> Table:
    """What plain counts reach on the test targets of a split."""
    columns = ["HR@10", "NDCG@10", "HR@10, refitted", "NDCG@10, refitted"]
    rows = []
    for name, fits in card.counts[split].items():
        cells = []
        for one in (fits["train"], fits["refitted"]):
            for value, bounds in ((one.hr, one.hr_interval), (one.ndcg, one.ndcg_interval)):
                cells.append(Cell(number(value, 4), interval(bounds, 4) if bounds else "", raw=value))
        rows.append(Row(label(name), cells))
    return Table(f"{label(split)}: what counts reach{counted_targets(card, split)}", "counts of", columns, rows)

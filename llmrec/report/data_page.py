"""`data.html`, the page about a prepared log that a person looks at before anything is trained."""

from llmrec.evaluation.report import DatasetCard
from llmrec.report.charts import Line, LineChart
from llmrec.report.format import ABSENT, number
from llmrec.report.glossary import label
from llmrec.report.page import templates
from llmrec.report.tables import Cell, Row, Table, data_checks, pairs


def data_page(card: DatasetCard, name: str) -> str:
    """The page as HTML.

    Args:
        card: the dataset card, with `counts` and `curves`.
        name: name of the run.
    """
    losses = card.losses
    facts = card.as_json()
    for shown in ("warnings", "counts", "curves", "losses", "checks"):
        facts.pop(shown, None)
    return (
        templates()
        .get_template("data.html")
        .render(
            name=name,
            verdict=f"{card.users or 0:,} users, {card.items or 0:,} items, {card.clicks or 0:,} clicks",
            remarks=[*losses.get("warnings", []), *card.warnings],
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
    ]
    return [chart for chart in charts if chart.lines]


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
        values = [value for key in ("train", "refitted") for value in (fits[key].hr, fits[key].ndcg)]
        rows.append(Row(label(name), [Cell(number(value, 4), raw=value) for value in values]))
    return Table(f"{label(split)}: what counts reach", "counts of", columns, rows)

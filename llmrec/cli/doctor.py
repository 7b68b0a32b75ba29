"""`llmrec prepare --report`: what misleads about the data, what plain counts reach on it, and a page with plots."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from llmrec.cli.output import print_line, print_table
from llmrec.config import Config
from llmrec.evaluation.report import DatasetCard
from llmrec.files import read_json, write_json, write_text
from llmrec.progress.bars import bar
from llmrec.report.format import number
from llmrec.report.glossary import label
from llmrec.report.tables import counted_targets, data_checks, harm_of
from llmrec.run import Run

if TYPE_CHECKING:  # pandas takes half a second
    from llmrec.data.dataset import InteractionData

CHECKS_ARE_MISSING = "This data was prepared without checks. Delete the run's `data/` and prepare it again."


def data_report(run: Run) -> DatasetCard:
    """Measures the curves of a run's data and what counts reach on it, and writes its page.

    Both measurements are added to `data/card.json`, unless they are there.

    Args:
        run: a run whose data stage has finished.

    Returns:
        the card.
    """
    from llmrec.report.data_page import data_page

    path = run.path("data", "card.json")
    values: dict[str, Any] = read_json(path)
    if not {"counts", "counted", "curves"} <= set(values):
        from llmrec.data.curves import measure_curves
        from llmrec.data.dataset import load_data

        data = load_data(run.path("data"))
        values |= _measure_counts(data, run.config)
        values["curves"] = measure_curves(data, timed=bool(values.get("time")))
        write_json(path, values)
    card = DatasetCard.model_validate(values)
    write_text(page_path(run), data_page(card, run.config.name))
    return card


def _measure_counts(data: "InteractionData", config: Config) -> dict[str, Any]:
    """The keys `counts` and `counted` of a card, measured behind a progress bar."""
    from llmrec.recommenders.counts import accuracy_of_counts, fits_of, sampled_targets, sizes_of

    measured = sampled_targets(data, config)
    with bar("prepare") as progress:
        progress.start("ranking by counts", fits_of(data) * sum(map(len, measured.values())))
        found = accuracy_of_counts(data, measured, progress.advance)
    counts = {
        split: {name: {key: asdict(one) for key, one in fits.items()} for name, fits in models.items()}
        for split, models in found.items()
    }
    return {"counts": counts, "counted": sizes_of(data, measured)}


def page_path(run: Run) -> Path:
    """Where the page of a run's data lies."""
    return run.directory / "data.html"


def print_data_report(console: Console, card: DatasetCard) -> None:
    """Prints the checks, the accuracy of counts and the warnings of a dataset card."""
    print_table(console, _checks_table(card))
    for split, models in card.counts.items():
        title = f"{label(split)} split: what counts reach, HR@10 / NDCG@10{counted_targets(card, split)}"
        table = Table(title=title, title_justify="left")
        for column in ("counts", "fitted on training events", "refitted on all events before the test"):
            table.add_column(column, justify="left" if column == "counts" else "right")
        for name, fits in models.items():
            cells = (fits[key] for key in ("train", "refitted"))
            table.add_row(label(name), *(f"{number(one.hr, 4)} / {number(one.ndcg, 4)}" for one in cells))
        print_table(console, table)
    if card.checks is None:
        print_line(console, CHECKS_ARE_MISSING)
    for warning in card.warnings:
        print_line(console, f"warning, {harm_of(warning)} {warning.text}", style="yellow")


def _checks_table(card: DatasetCard) -> Table:
    table = Table(title="checks of the data", title_justify="left")
    table.add_column("check")
    table.add_column("value", justify="right")
    for name, value in data_checks(card):
        table.add_row(name, value)
    return table

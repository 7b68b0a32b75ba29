"""Output that several commands share: JSON on stdout, single lines and metrics with their interval."""

import json
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmrec.distributed import is_main_process
from llmrec.evaluation.report import Measurement
from llmrec.files import plain
from llmrec.progress.console import as_line, fits
from llmrec.report.format import measured, seeds

# JSON leaves these control characters as they are, and some terminals obey them.
_DELETED_OR_C1 = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}


def print_json(value: Any) -> None:
    """Prints a value as JSON on stdout; NumPy values become plain numbers and lists, NaN becomes null.

    Control characters, and characters that the encoding of stdout lacks, are printed as JSON escapes.
    """
    text = json.dumps(plain(value), indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(plain(value), indent=2)
    print(text.translate(_DELETED_OR_C1), flush=True)


def print_table(console: Console, table: Table) -> None:
    """Prints a table; if the console is too narrow for its columns, one `heading: value` line a cell instead."""
    if fits(console, table):
        console.print(table)
        return
    if table.title:
        console.print(table.title, style="bold")
    columns = [list(column.cells) for column in table.columns]
    headings = [as_line(column.header) for column in table.columns]
    for row in zip(*columns, strict=True):
        console.print(as_line(row[0]), style="bold", markup=False)
        for heading, cell in zip(headings[1:], row[1:], strict=True):
            if value := as_line(cell):
                console.print(f"  {heading}: {value}", markup=False)


def print_line(console: Console, line: str, style: str = "") -> None:
    """Prints one line without wrapping it and without reading `[...]` as markup."""
    console.print(Text(line, style=style), soft_wrap=True)


def line_printer(console: Console) -> Callable[[str], None]:
    """Returns a function that prints one line on `console`, in the main process only."""
    return lambda line: print_line(console, line) if is_main_process() else None


def measured_text(measurement: Measurement | None) -> str:
    """Formats a measurement on one line: value, interval and the values of several training seeds, if any."""
    values = seeds(measurement)
    return measured(measurement) + (f" (seeds: {values})" if values else "")


def measured_cell(measurement: Measurement | None, suffix: str = "", interval_below: bool = False) -> str:
    """Formats a measurement as a table cell: value and interval, then the values of the training seeds, if any.

    Args:
        measurement: Measurement of a report; None prints as `-`.
        suffix: Text after the interval.
        interval_below: Put the interval on a line of its own, for narrow columns.
    """
    shown = measured(measurement) + suffix
    if interval_below:
        shown = shown.replace(" [", "\n[")
    values = seeds(measurement)
    return f"{shown}\n{values}" if values else shown

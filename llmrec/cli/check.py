"""`llmrec prepare --check`: what the first lines of a log are, and a config that reads it."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from llmrec.cli.output import print_line, print_table
from llmrec.config import load_config
from llmrec.report.format import percent

if TYPE_CHECKING:
    from llmrec.data.check import ColumnCheck, LogCheck


def check_log_of(path: Path) -> "LogCheck":
    """Checks the log of a config or a run, or a log that has no config yet.

    Args:
        path: YAML config, run directory, event log or directory of a known data set.
    """
    from llmrec.data.check import check_config, check_file

    if (path / "config.yaml").is_file():
        path = path / "config.yaml"
    if path.suffix in (".yaml", ".yml"):
        return check_config(load_config(path).data)
    return check_file(path)


def print_log_check(console: Console, check: "LogCheck") -> None:
    """Prints columns, outcome, notes and the suggested config, which can be copied as it is."""
    if check.columns:
        _print_columns(console, f"columns in the first {check.rows:,} rows", check.columns)
    for table in check.tables:
        _print_columns(console, f"columns of {table.title}", table.columns)
    print_line(console, f"prepare would find: {check.outcome}")
    for note in check.notes:
        print_line(console, f"note: {note}", style="yellow")
    if check.config is not None:
        print_line(console, "\n# A config that reads this log: save it as NAME.yaml, then `llmrec prepare NAME.yaml`")
        print_line(console, _as_yaml(check.config))


def _print_columns(console: Console, title: str, columns: "list[ColumnCheck]") -> None:
    table = Table(title=title, title_justify="left")
    for heading in ("column", "use", "missing", "examples"):
        table.add_column(heading)
    for column in columns:
        table.add_row(column.name, column.use, percent(column.missing), ", ".join(column.examples))
    print_table(console, table)


def _as_yaml(values: dict[str, Any]) -> str:
    text = io.StringIO()
    YAML().dump(values, text)
    return text.getvalue().rstrip()

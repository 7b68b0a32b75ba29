"""Consoles for text that people read."""

import os
import sys
from typing import NoReturn

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

# Rich assumes 80 columns when the output is no terminal, which breaks the result tables in log files.
LOG_FILE_COLUMNS = 120


def console_for(stderr: bool = False) -> Console:
    """Returns a console on the current stdout or stderr.

    Args:
        stderr: Print on stderr instead of stdout.
    """
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else LOG_FILE_COLUMNS
    return Console(stderr=stderr, width=width, highlight=False)


def pass_on_broken_pipes() -> None:
    """Makes every rich console of this process raise BrokenPipeError if its reader has ended.

    Rich would exit with code 1, which stands for a bug. typer prints help and usage errors on consoles of its own.
    """

    def raise_again(self: Console) -> NoReturn:
        raise  # noqa: PLE0704  # rich calls this while it handles the error

    Console.on_broken_pipe = raise_again


def fits(console: Console, table: Table) -> bool:
    """Whether a console is wide enough for a table without cutting a word."""
    unlimited = console.options.update(max_width=10_000)
    return table.__rich_measure__(console, unlimited).minimum <= console.width


def as_line(cell: RenderableType) -> str:
    """The text of a table cell on one line. Only cells of strings and `Text` are supported."""
    text = cell if isinstance(cell, Text) else Text.from_markup(str(cell))
    return " ".join(text.plain.split())

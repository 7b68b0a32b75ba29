"""Consoles for text that people read."""

import os
import sys
from collections.abc import Iterable
from typing import NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

# Rich assumes 80 columns when the output is no terminal, which breaks the result tables in log files.
LOG_FILE_COLUMNS = 120
# Control characters other than line ends and tabs. A terminal would obey them, wherever they come from.
CONTROL_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def console_for(stderr: bool = False) -> Console:
    """Returns a console on the current stdout or stderr.

    Args:
        stderr: Print on stderr instead of stdout.
    """
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else LOG_FILE_COLUMNS
    return _Console(stderr=stderr, width=width, highlight=False)


class _Console(Console):
    """Prints control characters in titles, ids and file names as escapes."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else text.translate(CONTROL_ESCAPES), style, control)


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

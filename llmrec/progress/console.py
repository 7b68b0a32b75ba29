"""Consoles for text that people read."""

import os
import sys

from rich.console import Console

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

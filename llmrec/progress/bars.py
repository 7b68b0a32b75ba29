"""A progress bar with the time left, for stages that are not run by a `transformers.Trainer`."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from llmrec.progress.console import console_for

FULL_WIDTH = 80  # narrower consoles get steps, time left and description alone


class ProgressBar:
    """One line: the stage, a bar, steps done and in all, time elapsed and left, and what is being done.

    Args:
        progress: the running rich display.
        task: its only task.
    """

    def __init__(self, progress: Progress, task: TaskID):
        self._progress = progress
        self._task = task

    def start(self, description: str, total: int) -> None:
        """Sets the bar back to 0 of `total` steps, and the clock to 0."""
        self._progress.reset(self._task, total=total, description=description)

    def advance(self, steps: int = 1) -> None:
        """Moves the bar on."""
        self._progress.advance(self._task, steps)

    def update(self, completed: int, total: int, description: str) -> None:
        """Sets steps done, steps in all and the text, without a change to the clock."""
        self._progress.update(self._task, completed=completed, total=total, description=description)


@contextmanager
def bar(stage: str, console: Console | None = None) -> Iterator[ProgressBar]:
    """Shows a progress bar while the `with` block runs.

    Args:
        stage: the name at the start of the line.
        console: where the bar is shown; None for stderr.
    """
    console = console or console_for(stderr=True)
    wide = console.width >= FULL_WIDTH
    columns = (
        TextColumn(f"[bold]{stage}[/]"),
        *([BarColumn()] if wide else []),
        MofNCompleteColumn(),
        *([TimeElapsedColumn(), TextColumn("ETA")] if wide else []),
        TimeRemainingColumn(),
        TextColumn("{task.description}", table_column=Column(max_width=None if wide else console.width // 3)),
    )
    with Progress(*columns, console=console) as progress:
        yield ProgressBar(progress, progress.add_task("", total=None))

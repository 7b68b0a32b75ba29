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

from llmrec.progress.console import console_for


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
    columns = (
        TextColumn(f"[bold]{stage}[/]"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console or console_for(stderr=True)) as progress:
        yield ProgressBar(progress, progress.add_task("", total=None))

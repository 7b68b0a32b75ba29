"""The live table of a training stage: metrics, events, samples and the time left."""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from transformers import TrainerControl, TrainerState, TrainingArguments

from llmrec.progress.console import fits
from llmrec.progress.watcher import Sample, Watcher

SHOWN_ROWS = 10
SHOWN_EVENTS = 3
SHOWN_SAMPLES = 2
SECONDS_BETWEEN_LINES = 10


class LiveTable(Watcher):
    """Shows steps, time left, and the newest metrics, events and samples.

    On a terminal it is a display that is redrawn in place. Elsewhere it prints lines.

    Args:
        stage: name of the stage.
        columns: name of a metric to its heading. A cell is blank where the metric was not measured.
        console: where the table is shown.
    """

    def __init__(self, stage: str, columns: dict[str, str], console: Console):
        self.stage = stage
        self.columns = columns
        self.console = console
        self.rows: list[tuple[int, dict[str, str]]] = []  # (step, heading to value)
        self.events: list[Text] = []
        self.samples: list[Text] = []
        self.unprinted: dict[str, str] = {}  # the newest values since the last printed line
        self.last_line = 0.0
        self.live: Live | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the clock, and the display if the console is a terminal."""
        self.step = state.global_step
        self.first_step = state.global_step
        self.max_steps = state.max_steps
        self.started = time.monotonic()
        self.stepped = self.started
        # FORCE_COLOR makes rich believe that a file is a terminal, so the file itself is asked as well.
        if self.console.is_interactive and self.console.file.isatty():
            self.live = Live(console=self.console, get_renderable=self.render, refresh_per_second=2)
            self.live.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Updates the number of steps and the time left."""
        self._step_to(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Adds logged metrics to the row of their step."""
        logs = logs or {}
        values = {heading: f"{logs[name]:.4g}" for name, heading in self.columns.items() if name in logs}
        if not values:
            return
        if state.global_step > self.step:  # trainers log a step before they call `on_step_end`
            self._step_to(state.global_step)
        rows = self.rows
        if rows and rows[-1][0] == state.global_step:
            values = rows[-1][1] | values
            rows = rows[:-1]
        # A new list, because another thread may be drawing the old one.
        self.rows = [*rows, (state.global_step, values)][-SHOWN_ROWS:]
        self.unprinted |= values
        if time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self._print_metrics()

    def on_samples(self, samples: Sequence[Sample]) -> None:
        """Shows the first few samples."""
        self.samples = [_describe(sample) for sample in samples[:SHOWN_SAMPLES]]
        self._print(*self.samples)

    def on_event(self, step: int, text: str) -> None:
        """Shows an event."""
        event = Text(f"{self.stage} {step}: {text}", style="yellow")
        self.events = [*self.events, event][-SHOWN_EVENTS:]
        self._print(event)

    def close(self) -> None:
        """Ends the display, or prints the metrics that were not printed yet."""
        if self.live is not None:
            self.live.stop()
        elif self.unprinted:
            self._print_metrics()

    def render(self) -> Group:
        """Returns the display as it is now."""
        bar = Table.grid(padding=(0, 1))
        width = min(30, self.console.width // 4)
        bar.add_row(self.stage, ProgressBar(self.max_steps, self.step, width=width), self._progress())
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("step", *self.columns.values()):
            table.add_column(heading, justify="right")
        for step, values in self.rows:
            table.add_row(str(step), *(values.get(heading, "") for heading in self.columns.values()))
        lines = [*self.events, *self.samples]
        for line in lines:
            line.no_wrap = True  # the display must fit the screen
            line.overflow = "ellipsis"
        return Group(bar, table if fits(self.console, table) else self._newest(), *lines)

    def _newest(self) -> Text:
        """The newest value of every metric, for consoles that are too narrow for the table."""
        newest = {heading: value for _, values in self.rows for heading, value in values.items()}
        return Text(", ".join(f"{heading} {value}" for heading, value in newest.items()))

    def _step_to(self, step: int) -> None:
        self.step = step
        self.stepped = time.monotonic()

    def _print_metrics(self) -> None:
        values = ", ".join(f"{heading} {value}" for heading, value in self.unprinted.items())
        self._print(Text(f"{self.stage} {self._progress()}: {values}"))
        self.unprinted = {}
        self.last_line = time.monotonic()

    def _print(self, *lines: Text) -> None:
        """Prints lines, unless the live display shows them."""
        if self.live is None:
            for line in lines:
                self.console.print(line, soft_wrap=True)

    def _progress(self) -> str:
        """Steps, elapsed time and time left, estimated from the steps of this process."""
        now = time.monotonic()
        done = self.step - self.first_step
        left = "?"
        if done:
            seconds = (self.stepped - self.started) / done * (self.max_steps - self.step)
            left = _clock(max(0.0, seconds - (now - self.stepped)))
        return f"{self.step}/{self.max_steps}, {_clock(now - self.started)} elapsed, ETA {left}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _describe(sample: Sample) -> Text:
    rewards = ", ".join(f"{part} {value:.3g}" for part, value in sample.rewards.items())
    newest = ", ".join(sample.history[-2:])
    return Text.assemble(
        f"after ... {newest}: ", (sample.item, "bold"), f"\n    {sample.text}", (f"  [{rewards}]", "dim")
    )

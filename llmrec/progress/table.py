"""What a person sees while a stage trains."""

import time
from collections.abc import Sequence
from datetime import timedelta

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llmrec.progress.watcher import Sample, Watcher

SHOWN_ROWS = 10
SHOWN_EVENTS = 3
SHOWN_SAMPLES = 2
SECONDS_BETWEEN_LINES = 10


class LiveTable(Watcher):
    """Steps, time left, the newest metrics, events and samples: a live display on a terminal, else lines.

    Args:
        stage: its name.
        columns: name of a metric to its heading; a cell stays blank where the metric was not measured.
        console: where it is shown.
    """

    def __init__(self, stage: str, columns: dict[str, str], console: Console):
        self.stage = stage
        self.columns = columns
        self.console = console
        self.rows: list[tuple[int, dict[str, str]]] = []  # step, and heading to value
        self.events: list[Text] = []
        self.samples: list[Text] = []
        self.unsaid: dict[str, str] = {}  # newest values since the last line
        self.last_line = 0.0
        self.live: Live | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.step = self.first_step = state.global_step
        self.max_steps = state.max_steps
        self.started = self.stepped = time.monotonic()
        if self.console.is_interactive and self.console.file.isatty():  # FORCE_COLOR makes no terminal of a file
            self.live = Live(console=self.console, get_renderable=self.render, refresh_per_second=2)
            self.live.start()

    def on_step_end(self, args, state, control, **kwargs):
        self.step, self.stepped = state.global_step, time.monotonic()

    def on_log(self, args, state, control, logs=None, **kwargs):
        values = {heading: f"{logs[name]:.4g}" for name, heading in self.columns.items() if name in logs}
        if not values:
            return
        if state.global_step > self.step:
            self.on_step_end(args, state, control)  # trainers log before they say that the step is over
        rows, step = self.rows, state.global_step
        if rows and rows[-1][0] == step:
            values, rows = rows[-1][1] | values, rows[:-1]
        self.rows = [*rows, (step, values)][-SHOWN_ROWS:]  # new lists: another thread draws the old ones
        self.unsaid |= values
        if time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self._say_metrics()

    def on_samples(self, samples: Sequence[Sample]) -> None:
        self.samples = [_describe(sample) for sample in samples[:SHOWN_SAMPLES]]
        self._say(*self.samples)

    def on_event(self, step: int, text: str) -> None:
        event = Text(f"{self.stage} {step}: {text}", style="yellow")
        self.events = [*self.events, event][-SHOWN_EVENTS:]
        self._say(event)

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()
        elif self.unsaid:
            self._say_metrics()

    def render(self) -> Group:
        """The display as it is now."""
        bar = Table.grid(padding=(0, 1))
        bar.add_row(self.stage, ProgressBar(self.max_steps, self.step, width=30), self._progress())
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("step", *self.columns.values()):
            table.add_column(heading, justify="right")
        for step, values in self.rows:
            table.add_row(str(step), *(values.get(heading, "") for heading in self.columns.values()))
        lines = [*self.events, *self.samples]
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"  # the display must not outgrow the screen
        return Group(bar, table, *lines)

    def _say_metrics(self) -> None:
        values = ", ".join(f"{heading} {value}" for heading, value in self.unsaid.items())
        self._say(Text(f"{self.stage} {self._progress()}: {values}"))
        self.unsaid, self.last_line = {}, time.monotonic()

    def _say(self, *lines: Text) -> None:
        """Prints lines where there is no live display."""
        if self.live is None:
            for line in lines:
                self.console.print(line, soft_wrap=True)

    def _progress(self) -> str:
        """Steps, time elapsed and time left, as far as the steps of this session tell."""
        now, done = time.monotonic(), self.step - self.first_step
        left = "?"
        if done:
            seconds = (self.stepped - self.started) / done * (self.max_steps - self.step)
            left = _clock(max(0.0, seconds - (now - self.stepped)))
        return f"{self.step}/{self.max_steps}, {_clock(now - self.started)} elapsed, ETA {left}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _describe(sample: Sample) -> Text:
    rewards = ", ".join(f"{part} {value:.3g}" for part, value in sample.rewards.items())
    after = ", ".join(sample.history[-2:])
    return Text.assemble(
        f"after ... {after}: ", (sample.item, "bold"), f"\n    {sample.text}", (f"  [{rewards}]", "dim")
    )

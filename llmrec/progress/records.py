"""Stores samples, events and metrics of a training stage as JSON lines, in TensorBoard or in trackio.

A resumed run repeats the steps after its checkpoint. In JSON lines and TensorBoard, the new records replace the old
ones. In trackio, which cannot discard steps, the resumed stage is a run of its own.
"""

import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerControl, TrainerState, TrainingArguments

from llmrec.files import write_text
from llmrec.progress.watcher import Sample, Watcher


class RecordFiles(Watcher):
    """Writes `samples.jsonl` and `events.jsonl`.

    Args:
        directory: where the files are written.
    """

    def __init__(self, directory: Path):
        self.files = {"samples": directory / "samples.jsonl", "events": directory / "events.jsonl"}
        self.records: dict[str, list[dict[str, Any]]] = {"samples": [], "events": []}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keeps the records of an earlier process up to the step that training resumes from."""
        for kind, file in self.files.items():
            if file.exists():
                lines = file.read_text(encoding="utf-8").split("\n")  # a text may hold other line ends, such as U+2028
                records = [json.loads(line) for line in lines if line]
                self.records[kind] = [record for record in records if 0 < state.global_step >= record["step"]]
                self._add(kind, [])

    def on_samples(self, samples: Sequence[Sample]) -> None:
        """Adds samples to `samples.jsonl`."""
        self._add("samples", [asdict(sample) for sample in samples])

    def on_event(self, step: int, text: str) -> None:
        """Adds an event to `events.jsonl`."""
        self._add("events", [{"step": step, "event": text}])

    def _add(self, kind: str, records: list[dict[str, Any]]) -> None:
        self.records[kind] += records
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in self.records[kind]]
        write_text(self.files[kind], "".join(lines))


class TensorBoard(Watcher):
    """Writes metrics under the trainer's names for them, and samples and events as text.

    Args:
        directory: where TensorBoard's files are written.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._writer: SummaryWriter | None = None

    @property
    def writer(self) -> SummaryWriter:
        """The writer, which training has opened."""
        if self._writer is None:
            raise RuntimeError("on_train_begin has not been called")
        return self._writer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Opens the writer. What an earlier process recorded after the resumed step is discarded."""
        next_step = state.global_step + 1 if state.global_step else 0
        self._writer = SummaryWriter(str(self.directory), purge_step=next_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes metrics."""
        for name, value in (logs or {}).items():
            self.writer.add_scalar(name, value, state.global_step)
        self.writer.flush()

    def on_samples(self, samples: Sequence[Sample]) -> None:
        """Writes samples as a Markdown table."""
        self.writer.add_text("samples", as_markdown(samples), samples[0].step)
        self.writer.flush()

    def on_event(self, step: int, text: str) -> None:
        """Writes an event."""
        self.writer.add_text("events", _escape(text), step)
        self.writer.flush()

    def close(self) -> None:
        """Closes the writer if training has opened it."""
        if self._writer is not None:
            self._writer.close()


class Trackio(Watcher):
    """Writes to trackio in a local directory. `TRACKIO_DIR=<directory> trackio show` displays it.

    The callback of transformers is not used: it restarts the numbers of a resumed run, and pushes its logs to a hub.

    Args:
        directory: where trackio stores its database, unless the user has set TRACKIO_DIR.
        project: trackio's project: the name of the run.
        stage: name of the stage.
    """

    def __init__(self, directory: Path, project: str, stage: str):
        os.environ.setdefault("TRACKIO_DIR", str(directory.absolute()))  # trackio reads it when it is imported
        import trackio  # pyright: ignore[reportMissingImports]

        self.trackio: Any = trackio
        self.project = project
        self.stage = stage
        self.run: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begins a run of trackio. Trackio cannot discard steps, so a resumed stage is a run of its own."""
        name = f"{self.stage}-from-{state.global_step}" if state.global_step else self.stage
        with redirect_stdout(sys.stderr):  # trackio prints a greeting
            self.run = self.trackio.init(self.project, name, embed=False, auto_log_cpu=False, auto_log_gpu=False)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes metrics."""
        self.run.log(logs or {}, state.global_step)

    def on_samples(self, samples: Sequence[Sample]) -> None:
        """Writes samples as a Markdown table."""
        self.run.log({"samples": self.trackio.Markdown(as_markdown(samples))}, samples[0].step)

    def on_event(self, step: int, text: str) -> None:
        """Writes an event."""
        self.run.log({"events": self.trackio.Markdown(_escape(text))}, step)

    def close(self) -> None:
        """Ends the run of trackio if training has begun it."""
        if self.run is not None:
            with redirect_stdout(sys.stderr):
                self.trackio.finish()


def as_markdown(samples: Sequence[Sample]) -> str:
    """Formats samples as a Markdown table."""
    lines = ["| user | after | recommended | because | reward |", "|---|---|---|---|---|"]
    for sample in samples:
        rewards = ", ".join(f"{part} {value:.3g}" for part, value in sample.rewards.items())
        cells = (sample.profile, "; ".join(sample.history), sample.item, sample.text, rewards)
        lines.append(f"| {' | '.join(map(_escape, cells))} |")
    return "\n".join(lines)


def _escape(text: str) -> str:
    """Text that Markdown shows unchanged in one cell of a table, for titles such as M*A*S*H."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))

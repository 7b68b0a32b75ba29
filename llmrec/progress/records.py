"""Records of a training stage: JSON lines, TensorBoard and trackio.

In the first two, a resumed run replaces what an earlier attempt recorded of the steps that it runs again.
"""

import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from llmrec.files import write_text
from llmrec.progress.watcher import Sample, Watcher


class RecordFiles(Watcher):
    """`samples.jsonl` and `events.jsonl` in a directory."""

    def __init__(self, directory: Path):
        self.files = {"samples": directory / "samples.jsonl", "events": directory / "events.jsonl"}
        self.records: dict[str, list[dict]] = {"samples": [], "events": []}

    def on_train_begin(self, args, state, control, **kwargs):
        for kind, file in self.files.items():
            if file.exists():
                lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
                self.records[kind] = [line for line in lines if 0 < state.global_step >= line["step"]]
                self._add(kind, [])

    def on_samples(self, samples: Sequence[Sample]) -> None:
        self._add("samples", [asdict(sample) for sample in samples])

    def on_event(self, step: int, text: str) -> None:
        self._add("events", [{"step": step, "event": text}])

    def _add(self, kind: str, records: list[dict]) -> None:
        self.records[kind] += records
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in self.records[kind]]
        write_text(self.files[kind], "".join(lines))


class TensorBoard(Watcher):
    """Scalars under the names that the trainer gives them; samples and events as text."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.writer: SummaryWriter | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        again = state.global_step + 1 if state.global_step else 0
        self.writer = SummaryWriter(str(self.directory), purge_step=again)

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name, value in logs.items():
            self.writer.add_scalar(name, value, state.global_step)
        self.writer.flush()

    def on_samples(self, samples: Sequence[Sample]) -> None:
        self.writer.add_text("samples", as_markdown(samples), samples[0].step)
        self.writer.flush()

    def on_event(self, step: int, text: str) -> None:
        self.writer.add_text("events", _escape(text), step)
        self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class Trackio(Watcher):
    """A run of trackio in a local directory; to look at it: `TRACKIO_DIR=<directory> trackio show`.

    transformers' own callback numbers the logs of a resumed run anew, and sends them to the hub with a push.
    """

    def __init__(self, directory: Path, project: str, stage: str):
        # trackio reads the variable once, when it is imported. A user's own choice of a place goes first.
        os.environ.setdefault("TRACKIO_DIR", str(directory.absolute()))
        import trackio

        self.trackio = trackio
        self.project = project
        self.stage = stage
        self.run: trackio.Run | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        # trackio cannot take back the steps that are run again, so what is resumed is a run beside the first.
        name = f"{self.stage}-from-{state.global_step}" if state.global_step else self.stage
        with redirect_stdout(sys.stderr):  # it greets
            self.run = self.trackio.init(self.project, name, embed=False, auto_log_cpu=False, auto_log_gpu=False)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.run.log(logs, state.global_step)

    def on_samples(self, samples: Sequence[Sample]) -> None:
        self.run.log({"samples": self.trackio.Markdown(as_markdown(samples))}, samples[0].step)

    def on_event(self, step: int, text: str) -> None:
        self.run.log({"events": self.trackio.Markdown(_escape(text))}, step)

    def close(self) -> None:
        if self.run is not None:
            with redirect_stdout(sys.stderr):
                self.trackio.finish()


def as_markdown(samples: Sequence[Sample]) -> str:
    """A table of samples."""
    lines = ["| user | after | recommended | because | reward |", "|---|---|---|---|---|"]
    for sample in samples:
        rewards = ", ".join(f"{part} {value:.3g}" for part, value in sample.rewards.items())
        cells = (sample.profile, "; ".join(sample.history), sample.item, sample.text, rewards)
        lines.append(f"| {' | '.join(map(_escape, cells))} |")
    return "\n".join(lines)


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line of a table: think of M*A*S*H."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))

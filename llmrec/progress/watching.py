"""Attaches the live table and the records to a trainer."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from transformers import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from llmrec.distributed import is_main_process
from llmrec.progress.console import console_for
from llmrec.progress.records import RecordFiles, TensorBoard, Trackio
from llmrec.progress.table import LiveTable
from llmrec.progress.watcher import TrainingLog, Watcher
from llmrec.run import Run
from llmrec.run.requirements import check_trackers


@contextmanager
def watch(trainer: Trainer, run: Run, stage: str, columns: dict[str, str]) -> Iterator[TrainingLog]:
    """Replaces a trainer's own output with a `LiveTable` and reports where the config's `report_to` says.

    Everything is closed at the end of the `with`, however it ends, so that Ctrl-C leaves the terminal as it was.
    On all processes but the main one nobody watches.

    Args:
        columns: of the table: name of a metric to its heading.

    Raises:
        ConfigError: a package that `report_to` needs is not installed.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    watchers = _watchers(run, stage, columns) if is_main_process() else []
    with ExitStack() as stack:
        for watcher in watchers:
            trainer.add_callback(watcher)
            stack.callback(watcher.close)
        yield TrainingLog(watchers)


def _watchers(run: Run, stage: str, columns: dict[str, str]) -> list[Watcher]:
    check_trackers(run.config)
    watchers: list[Watcher] = [RecordFiles(run.path(stage))]
    if "tensorboard" in run.config.report_to:
        watchers.append(TensorBoard(run.path(stage, "logs")))
    if "trackio" in run.config.report_to:
        watchers.append(Trackio(run.directory / "trackio", run.config.name, stage))
    return [*watchers, LiveTable(stage, columns, console_for(stderr=True))]  # last: closed first

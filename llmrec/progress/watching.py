"""Attaches the live table and the records to a trainer."""

from collections.abc import Iterator, Sequence
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
    """Replaces a trainer's own output by a `LiveTable`, and records to what the config's `report_to` names.

    Everything is closed at the end of the `with` block, also after an error or Ctrl-C. Only the main process shows and
    records anything.

    Args:
        trainer: the trainer, before `train`.
        run: the run.
        stage: name of the stage.
        columns: columns of the table: name of a metric to its heading.

    Yields:
        The log that the trainer may write samples and events to.

    Raises:
        ConfigError: a package that `report_to` needs is not installed.
    """
    with attached(trainer, _watchers(run, stage, columns) if is_main_process() else []) as log:
        yield log


@contextmanager
def attached(trainer: Trainer, watchers: Sequence[Watcher]) -> Iterator[TrainingLog]:
    """Replaces a trainer's own output by watchers. They are closed at the end of the `with` block.

    Args:
        trainer: the trainer, before `train`.
        watchers: what receives its metrics, samples and events; the last one is closed first.

    Yields:
        The log that the trainer may write samples and events to.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
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
    return [*watchers, LiveTable(stage, columns, console_for(stderr=True))]

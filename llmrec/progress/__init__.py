"""The progress of a stage: a live table or a bar for people, and records of samples, events and metrics.

    with watch(trainer, run, "ppo", {"objective/scores": "reward"}) as log:
        trainer.train()  # may call log.samples([...]) and log.event(step, "...")

    with bar("evaluate") as progress:
        progress.start("ranking", total=10)
        progress.advance()

Names are imported on first use, because `llmrec.progress.console` must load without torch and transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmrec.progress.bars import ProgressBar, bar
    from llmrec.progress.table import LiveTable
    from llmrec.progress.watcher import Sample, TrainingLog, Watcher
    from llmrec.progress.watching import attached, watch

__all__ = ["LiveTable", "ProgressBar", "Sample", "TrainingLog", "Watcher", "attached", "bar", "watch"]

_MODULES = {
    "LiveTable": "table",
    "ProgressBar": "bars",
    "Sample": "watcher",
    "TrainingLog": "watcher",
    "Watcher": "watcher",
    "attached": "watching",
    "bar": "bars",
    "watch": "watching",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

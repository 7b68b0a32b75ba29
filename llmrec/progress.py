"""Progress of the training stages: a bar with an ETA and the numbers worth watching, and TensorBoard for the rest."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from tqdm.auto import tqdm
from transformers import Trainer
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback


class StageBar(ProgressCallback):
    """One line: steps, ETA and the newest value of a few metrics, instead of a line of everything at every step.

    Args:
        name: of the stage.
        shown: metric name to the short name on the line.
    """

    def __init__(self, name: str, shown: dict[str, str]):
        super().__init__()
        self.name = name
        self.shown = shown
        self.values: dict[str, str] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        """Opens the bar; where a run is resumed, at the step where it goes on."""
        self.current_step = state.global_step
        if state.is_world_process_zero:
            # Without a terminal, in a log file, a line every ten seconds is enough.
            self.training_bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc=self.name, dynamic_ncols=True, mininterval=1,
                maxinterval=30,
            )  # fmt: skip

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Keeps the newest values on the line."""
        self.values |= {short: f"{logs[name]:.4g}" for name, short in self.shown.items() if name in (logs or {})}
        if self.training_bar is not None:
            self.training_bar.set_postfix(self.values, refresh=False)


def watch(trainer: Trainer, name: str, shown: dict[str, str], logs: Path) -> None:
    """Replaces a trainer's own output with a `StageBar`, and logs everything for TensorBoard into `logs`."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(StageBar(name, shown))
    if trainer.is_world_process_zero():
        trainer.add_callback(TensorBoardCallback(SummaryWriter(str(logs))))

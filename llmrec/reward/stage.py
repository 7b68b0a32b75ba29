"""The reward stage: fits the click/purchase model, the judge and, if configured, the text reward model of a run.

Launch it by `llmrec reward CONFIG` or `accelerate launch scripts/train_reward.py --config CONFIG`. The models and their
training loops are in `reward_models/`. This module gives them the run: where to write and how to show progress.
"""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from llmrec.data.dataset import InteractionData, load_data
from llmrec.distributed import is_main_process
from llmrec.progress import bar
from llmrec.run import Run
from reward_models import fit_reward, judge_split
from reward_models.plots import draw

if TYPE_CHECKING:
    from transformers import Trainer

TEXT_COLUMNS = {"loss": "loss", "accuracy": "accuracy"}  # columns of the live table of the text reward model


def train_reward(run: Run) -> dict[str, Any]:
    """Runs the stage: reads `run.path("data")` and writes models, plots and metrics into `run.path("reward")`.

    The main process alone fits the click/purchase model, which is small. All processes train the text reward model.

    Returns:
        The metrics, as written by `run.finish`. Only the main process has those of the click/purchase model.
    """
    data = load_data(run.path("data"))
    text_metrics = {}
    # The text reward model comes first: its collectives need all processes, and the click/purchase model needs one.
    if run.config.reward.text is not None:
        text_metrics = {"text": train_text_reward(run, data)}
    metrics = train_click_purchase(run, data) if is_main_process() else {}
    metrics |= text_metrics
    run.finish("reward", metrics)
    return metrics


def train_click_purchase(run: Run, data: InteractionData) -> dict[str, Any]:
    """Fits the click/purchase model and the judge, saves both, draws their curves and returns the metrics."""
    directory = run.path("reward")
    with bar("reward") as progress:
        model, judge, quality = fit_reward(data, run.config.reward, run.config.seed, progress.update)
    draw(quality.curves, directory)
    model.save_pretrained(directory)
    judge.save_pretrained(directory)
    return quality.metrics


def train_text_reward(run: Run, data: InteractionData) -> dict[str, Any]:
    """Fits the text reward model on the users of the click/purchase model, saves it and returns its metrics."""
    from llmrec.progress import watch  # this import and the next take seconds
    from reward_models.text.train import fit_text_reward

    users, _ = judge_split(data.num_users, run.config.reward.judge_users, run.config.seed)

    def watching(trainer: "Trainer") -> AbstractContextManager[Any]:
        return watch(trainer, run, "reward", TEXT_COLUMNS)

    model, metrics = fit_text_reward(data, run.config, users, run.path("reward", "logs"), watching)
    if is_main_process():
        model.save_pretrained(run.path("reward", "text"))
    return metrics

"""The command `estimate`: memory that training needs."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from llmrec.cli.options import ConfigArgument, JsonOption
from llmrec.cli.output import print_json, print_table
from llmrec.cli.process import reserve_stdout
from llmrec.config import Config, load_config
from llmrec.progress.console import console_for
from llmrec.run import Run

# Rows of the table: key in the estimate and label.
PARTS = {
    "base": "base model",
    "file": "mapped pages of the base's file",
    "adapters": "adapters",
    "item_rows": "item embeddings",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "rewards": "reward models",
    "update": "update: activations, item log-probabilities",
    "rollout": "rollout: key-value cache, item log-probabilities",
    "process": "Python and its libraries",
    "total": "peak",
    "device": "peak on a GPU",
}


def estimate_command(
    config: ConfigArgument,
    items: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Number of items. By default the size of the prepared catalogue."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate the memory that SFT and PPO need, without loading weights."""
    if config.is_dir():
        run = Run.open(config)
        values = run.config
        # The directory may have moved since its config was written, so `estimate` may not find the data by the config.
        if items is None and run.finished("data"):
            items = run.metrics("data")["items"]
    else:
        values = load_config(config)
    _estimate(values, items, as_json)


def _estimate(config: Config, items: int | None, as_json: bool) -> None:
    with reserve_stdout(as_json):
        from llmrec.estimate import estimate

        memory = estimate(config, items)
    if as_json:
        print_json(memory)
    else:
        print_estimate(console_for(), memory)


def print_estimate(console: Console, memory: dict[str, Any]) -> None:
    """Prints the result of `llmrec.estimate.estimate` as a table in megabytes."""
    title = f"memory in MB, {memory['items']:,} items, windows of {memory['window_tokens']} tokens"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    stages = ("sft", "ppo")
    for stage in stages:
        table.add_column(stage, justify="right")
    for part, label in PARTS.items():
        megabytes = [f"{memory[stage][part] / 1e6:,.0f}" for stage in stages]
        table.add_row(label, *megabytes, end_section=part == "process")
    table.add_row("trainable parameters", *(f"{memory['trainable'][stage]:,}" for stage in stages))
    print_table(console, table)

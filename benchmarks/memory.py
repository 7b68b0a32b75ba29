"""The memory that `llmrec estimate` counts beside the memory that SFT and PPO take.

    python benchmarks/memory.py [--config configs/quickstart.yaml] [--steps 8] [--json]

Each stage runs a few steps in a process of its own; what it took is the peak of its resident set (VmHWM, Linux). The
first run of a config prepares the data and fits the reward model; SFT's few steps are what PPO starts from.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, its own package is not on the path

from benchmarks.piece import run_piece
from llmrec.config import Config, load_config
from llmrec.estimate import estimate
from llmrec.run import Run, run_all

# What is measured: label, `model.quantization`, `optim` of both stages.
VARIANTS = (
    ("full precision", None, "adamw_torch_fused"),
    ("nf4", "nf4", "adamw_torch_fused"),
    ("8-bit AdamW", None, "adamw_bnb_8bit"),
)


def main(
    config: Annotated[Path, typer.Option(help="what to shorten and measure")] = Path("configs/quickstart.yaml"),
    steps: Annotated[int, typer.Option(min=1, help="SFT steps; PPO makes an update for every four")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON on stdout and nothing else")] = False,
) -> None:
    """Prints measured and estimated memory of the sft and ppo stages."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row for label, *options in VARIANTS for row in measure(label, load_config(config), folder, steps, *options)
        ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("variant", "stage", "measured MB", "estimated MB", "estimated / measured")
    for row in rows:
        ratio = f"{row['estimated'] / row['measured']:.2f}"
        numbers = (f"{row[key] / 1e6:,.0f}" for key in ("measured", "estimated"))
        table.add_row(row["variant"], row["stage"], *numbers, ratio)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def measure(label: str, config: Config, folder: str, steps: int, quantization: str | None, optim: str) -> list[dict]:
    """Runs short stages of one variant."""
    run = Run.create(shortened(config, label.replace(" ", "-"), folder, steps, quantization, optim))
    run_all(run, "data", say=lambda line: print(line, file=sys.stderr))
    found, rows = estimate(run.config), []
    for stage in ("sft", "reward", "ppo"):
        peak = run_piece(run, stage)["peak"]
        if stage != "reward":
            rows.append({"variant": label, "stage": stage, "measured": peak, "estimated": found[stage]["total"]})
    return rows


def shortened(config: Config, name: str, folder: str, steps: int, quantization: str | None, optim: str) -> Config:
    """The same model, batches and windows for a few steps."""
    sft, ppo = config.sft, config.ppo
    windows = 2900  # of an epoch of MovieLens-100K, about
    episodes = ppo.per_device_train_batch_size * ppo.gradient_accumulation_steps * max(1, steps // 4)
    epochs = steps * sft.per_device_train_batch_size / windows
    return config.model_copy(
        update={
            "name": name,
            "output_dir": folder,
            "model": config.model.model_copy(update={"quantization": quantization}),
            "sft": sft.model_copy(update={"num_train_epochs": epochs, "optim": optim}),
            "reward": config.reward.model_copy(update={"num_train_epochs": 1}),
            "ppo": ppo.model_copy(update={"total_episodes": episodes, "optim": optim}),
        }
    )


if __name__ == "__main__":
    typer.run(main)

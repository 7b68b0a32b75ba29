"""Compares the memory that `llmrec estimate` predicts with the memory that SFT and PPO use.

    python benchmarks/memory.py [--config configs/quickstart.yaml] [--steps 8] [--json]

Each stage runs a few steps in a process of its own. Its memory is the peak resident memory of that process (VmHWM,
Linux). PPO starts from the adapter of these few SFT steps.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script has only its own folder on the path

from benchmarks.piece import run_piece
from llmrec.config import Config, load_config
from llmrec.estimate import estimate
from llmrec.run import Run, run_all

# Name of a variant: `model.quantization`, and `optim` of both stages.
VARIANTS: dict[str, tuple[Literal["nf4", "int8"] | None, str]] = {
    "full precision": (None, "adamw_torch_fused"),
    "nf4": ("nf4", "adamw_torch_fused"),
    "8-bit AdamW": (None, "adamw_bnb_8bit"),
}

WINDOWS_PER_EPOCH = 2900  # approximate number of SFT windows of MovieLens-100K


def main(
    config: Annotated[Path, typer.Option(help="Config whose model and batches are measured.")] = Path(
        "configs/quickstart.yaml"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Number of SFT steps. PPO makes one update for every four.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")] = False,
) -> None:
    """Print the measured and the estimated memory of the stages sft and ppo."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for variant in VARIANTS for row in measure(variant, load_config(config), folder, steps)]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("variant", "stage", "measured MB", "estimated MB", "estimated / measured")
    for row in rows:
        ratio = f"{row['estimated'] / row['measured']:.2f}"
        numbers = (f"{row[key] / 1e6:,.0f}" for key in ("measured", "estimated"))
        table.add_row(row["variant"], row["stage"], *numbers, ratio)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def measure(variant: str, config: Config, folder: str, steps: int) -> list[dict[str, Any]]:
    """Runs short stages of one variant.

    Returns:
        for each stage `variant`, `stage`, and bytes `measured` and `estimated`.
    """
    run = Run.create(shortened(config, variant, folder, steps))
    run_all(run, "data", say=lambda line: print(line, file=sys.stderr))
    found = estimate(run.config)
    rows = []
    for stage in ("sft", "reward", "ppo"):
        peak = run_piece(run, stage)["peak"]
        if stage != "reward":
            rows.append({"variant": variant, "stage": stage, "measured": peak, "estimated": found[stage]["total"]})
    return rows


def shortened(config: Config, variant: str, folder: str, steps: int) -> Config:
    """A config with the same model, batches and windows, but only a few steps."""
    quantization, optim = VARIANTS[variant]
    sft = config.sft
    ppo = config.ppo
    episodes = ppo.batch_size * max(1, steps // 4)
    epochs = steps * sft.batch_size / WINDOWS_PER_EPOCH
    return config.model_copy(
        update={
            "name": variant.replace(" ", "-"),
            "output_dir": folder,
            "model": config.model.model_copy(update={"quantization": quantization}),
            "sft": sft.model_copy(update={"num_train_epochs": epochs, "optim": optim}),
            "reward": config.reward.model_copy(update={"num_train_epochs": 1}),
            "ppo": ppo.model_copy(update={"total_episodes": episodes, "optim": optim}),
        }
    )


if __name__ == "__main__":
    typer.run(main)

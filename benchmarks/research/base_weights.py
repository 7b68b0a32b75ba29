"""Compares SFT on pretrained and on random base weights, with and without a refitted final norm.

    python benchmarks/research/base_weights.py [--layers 3,8] [--epochs 1.0] [--seeds 1] [--json FILE]

A cut base has the final norm of the layer that was once the last. llmrec refits it (`policy.final_norm`).
`refitted` is what llmrec does, `kept` leaves the norm as it was, and `random` has the same shape with all weights drawn
anew. Each row is trained by `llmrec sft`, in a process of its own, on one thread. Seconds are CPU seconds. Rows that
FILE holds are not trained again.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2]))  # a script has only its own folder on the path

from llmrec.config import Config, ModelConfig, load_config
from llmrec.language.base_model import load_base
from llmrec.run import Run, run_all

VARIANTS = ("refitted", "kept", "random")


def main(
    config: Annotated[Path, typer.Option(help="Config to train.")] = Path("configs/quickstart.yaml"),
    layers: Annotated[str, typer.Option(help="Numbers of first layers that are kept.")] = "3",
    epochs: Annotated[float, typer.Option(min=0.001, help="Epochs of SFT; may be a fraction.")] = 1.0,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 1,
    file: Annotated[Path | None, typer.Option("--json", help="JSON file of the rows, continued if it exists.")] = None,
) -> None:
    """Print a Markdown table of validation NDCG@10 and text loss."""
    rows: list[dict[str, Any]] = json.loads(file.read_text()) if file is not None and file.is_file() else []
    for seed in range(seeds):
        for depth in map(int, layers.split(",")):
            for variant in VARIANTS:
                key = {"variant": variant, "layers": depth, "epochs": epochs, "seed": seed}
                if any(key.items() <= row.items() for row in rows):
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    rows.append(key | train(load_config(config), Path(folder), variant, depth, epochs, seed))
                if file is not None:
                    file.write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows))


def train(config: Config, folder: Path, variant: str, layers: int, epochs: float, seed: int) -> dict[str, Any]:
    """Trains one row; returns validation NDCG@10 at each evaluation, the last text loss, and CPU seconds."""
    model = config.model.model_copy(update={"layers": layers})
    if variant != "refitted":
        save_base(model, folder / "base", seed if variant == "random" else None)
        model = model.model_copy(update={"base": str(folder / "base"), "layers": None})
    sft = config.sft.model_copy(update={"num_train_epochs": epochs})
    changes = {"name": "sft", "output_dir": str(folder), "report_to": [], "seed": seed, "model": model, "sft": sft}
    run = Run.create(config.model_copy(update=changes))
    run_all(run, "data", say=lambda line: print(f"{variant}, {layers} layers: {line}", file=sys.stderr))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "llmrec", "sft", str(run.directory)]
    subprocess.run(command, check=True, stdout=sys.stderr, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    metrics = run.metrics("sft")
    return {
        "valid_ndcg@10": [entry["eval_ndcg@10"] for entry in metrics["validation"]],
        "text_loss": float(np.mean([entry["text_loss"] for entry in metrics["log"][-10:]])),
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def save_base(model: ModelConfig, directory: Path, seed: int | None) -> None:
    """Writes a cut base as a model of its own, of which all layers are used. With a seed, its weights are random."""
    base, tokenizer = load_base(model)
    if seed is not None:
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_config(base.config).float()
    base.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table with one line for each row."""
    lines = [
        "| layers | weights | seed | epochs | validation NDCG@10 at each evaluation | text loss | CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ndcg = ", ".join(f"{value:.4f}" for value in row["valid_ndcg@10"])
        lines.append(
            f"| {row['layers']} | {row['variant']} | {row['seed']} | {row['epochs']:g} | {ndcg} | "
            f"{row['text_loss']:.3f} | {row['cpu_seconds']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)

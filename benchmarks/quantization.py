"""Compares SFT in full precision, on a quantized base, and with 8-bit AdamW: memory, time and accuracy.

    python benchmarks/quantization.py [--layers 6] [--epochs 1.0] [--json]

The variants train one after the other, each in a process of its own, from the same data and seed. Memory is the peak
resident memory of the process during training (VmHWM, Linux). NDCG@10 is measured afterwards on the validation targets.
Seconds are only meaningful on an otherwise idle machine.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script has only its own folder on the path

from benchmarks.piece import run_piece
from llmrec.config import Config, load_config
from llmrec.run import Run, run_all

# Row of the table: `model.quantization` and `sft.optim`.
VARIANTS: dict[str, tuple[str | None, str]] = {
    "full precision": (None, "adamw_torch_fused"),
    "nf4": ("nf4", "adamw_torch_fused"),
    "int8": ("int8", "adamw_torch_fused"),
    "8-bit AdamW": (None, "adamw_bnb_8bit"),
}


def main(
    config: Annotated[Path, typer.Option(help="Config to train.")] = Path("configs/quickstart.yaml"),
    layers: Annotated[int, typer.Option(min=1, help="Number of first layers of the base that are kept.")] = 6,
    epochs: Annotated[float, typer.Option(min=0.001, help="Epochs of SFT; may be a fraction.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")] = False,
) -> None:
    """Print a Markdown table of peak memory, seconds and validation NDCG@10."""
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: train(load_config(config), name, Path(folder), layers, epochs) for name in VARIANTS}
    print(json.dumps(rows, indent=2) if as_json else table(rows))


def train(config: Config, name: str, folder: Path, layers: int, epochs: float) -> dict[str, float]:
    """Trains one variant; returns `peak` in bytes, `seconds` and `ndcg@10`."""
    quantization, optim = VARIANTS[name]
    model = config.model.model_copy(update={"layers": layers, "quantization": quantization})
    # `eval_steps` 0.999 evaluates once, at the end. 1.0 would mean every step.
    sft = config.sft.model_copy(update={"num_train_epochs": epochs, "optim": optim, "eval_steps": 0.999})
    directory = {"name": name.replace(" ", "-"), "output_dir": str(folder), "report_to": []}
    run = Run.create(config.model_copy(update=directory | {"model": model, "sft": sft}))
    run_all(run, "data", say=lambda line: print(f"{name}: {line}", file=sys.stderr))
    return run_piece(run, "sft", rank=True)


def table(rows: dict[str, dict[str, float]]) -> str:
    """A Markdown table with one row for each variant."""
    lines = ["| variant | peak MB | seconds | NDCG@10 |", "|---|---|---|---|"]
    for name, row in rows.items():
        lines.append(f"| {name} | {row['peak'] / 1e6:,.0f} | {row['seconds']:.0f} | {row['ndcg@10']:.4f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)

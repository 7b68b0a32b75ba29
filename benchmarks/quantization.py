"""What fewer bits cost and save: SFT on MovieLens-100K in full precision, on a quantised base, and with 8-bit AdamW.

    python benchmarks/quantization.py [--layers 6] [--epochs 1.0] [--json]

Each variant trains in a process of its own, one after the other, from the same data and seed. Memory is the peak of the
process's resident set while it trains (VmHWM, Linux); NDCG@10 is measured afterwards on the validation targets. Seconds
mean something on an otherwise idle machine only.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, its own package is not on the path

from benchmarks.piece import run_piece
from llmrec.config import Config, load_config
from llmrec.run import Run, run_all

# Row of the table: `model.quantization`, `sft.optim`.
VARIANTS = {
    "full precision": (None, "adamw_torch_fused"),
    "nf4": ("nf4", "adamw_torch_fused"),
    "int8": ("int8", "adamw_torch_fused"),
    "8-bit AdamW": (None, "adamw_bnb_8bit"),
}


def main(
    config: Annotated[Path, typer.Option(help="what to train")] = Path("configs/quickstart.yaml"),
    layers: Annotated[int, typer.Option(min=1, help="keep the first N layers of the base")] = 6,
    epochs: Annotated[float, typer.Option(min=0.001, help="of SFT; may be a fraction")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON on stdout and nothing else")] = False,
) -> None:
    """Prints a Markdown table of peak memory, seconds and validation NDCG@10."""
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: train(load_config(config), name, Path(folder), layers, epochs) for name in VARIANTS}
    print(json.dumps(rows, indent=2) if as_json else table(rows))


def train(config: Config, name: str, folder: Path, layers: int, epochs: float) -> dict:
    """SFT of one variant: `peak` in bytes, `seconds` and `ndcg@10`."""
    quantization, optim = VARIANTS[name]
    model = config.model.model_copy(update={"layers": layers, "quantization": quantization})
    looks = {"eval_steps": 0.999}  # one, at the end; 1.0 would be every step
    sft = config.sft.model_copy(update={"num_train_epochs": epochs, "optim": optim, **looks})
    named = {"name": name.replace(" ", "-"), "output_dir": str(folder), "report_to": [], "model": model, "sft": sft}
    run = Run.create(config.model_copy(update=named))
    run_all(run, "data", say=lambda line: print(f"{name}: {line}", file=sys.stderr))
    return run_piece(run, "sft", rank=True)


def table(rows: dict[str, dict]) -> str:
    """Markdown; the first row is what the others are compared with."""
    lines = ["| | peak MB | seconds | NDCG@10 |", "|---|---|---|---|"]
    for name, row in rows.items():
        lines.append(f"| {name} | {row['peak'] / 1e6:,.0f} | {row['seconds']:.0f} | {row['ndcg@10']:.4f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)

"""Episodes a second of PPO: llmrec's trainer beside stock TRL's, and beside the least that the algorithm needs.

    python benchmarks/ppo_throughput.py [--json] [--ablations] [--scaling --plot scaling.png]

Run it from the repository on an otherwise idle machine; the trainers take turns, and medians over rounds count.
All use as many threads as torch does by itself (every core), or OMP_NUM_THREADS.
"""

import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import transformers
import trl
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, its own package is not on the path

from benchmarks.contenders import Ours, Stock, Workload, reference_of_its_own, whole_vocabulary
from benchmarks.floor import matmul_rate, needed_flops
from benchmarks.processes import measure, summary
from llmrec.language.base_model import resolve_base

# What each means is worth: ours without it.
ABLATIONS: dict[str, Callable[[Ours], Ours]] = {
    "one rollout a prompt": lambda ours: replace(ours, generations=1),
    "text head over the whole vocabulary": lambda ours: replace(ours, patch=whole_vocabulary),
    "a reference model of its own": lambda ours: replace(ours, patch=reference_of_its_own),
}
HISTORIES = (64, 128, 256, 512)
CATALOGUES = (1_000, 10_000, 100_000)


def main(
    base: Annotated[str, typer.Option(help="hub id, directory or `bundled:NAME`")] = Workload.base,
    layers: Annotated[int, typer.Option(help="keep the first N layers")] = 8,
    prompt_tokens: Annotated[int, typer.Option()] = Workload.prompt_tokens,
    completion_tokens: Annotated[int, typer.Option()] = Workload.completion_tokens,
    stock_micro_batch: Annotated[int, typer.Option(help="stock's per_device_train_batch_size: try 4, 8, 16")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="updates of each trainer that count, after a warm-up")] = 3,
    ablations: Annotated[bool, typer.Option("--ablations", help="also ours without each of its means")] = False,
    scaling: Annotated[bool, typer.Option("--scaling", help="also longer histories and larger catalogues")] = False,
    plot: Annotated[Path | None, typer.Option(help="PNG file for a plot of --scaling")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON on stdout and nothing else")] = False,
) -> None:
    """Compares PPO trainers on this machine."""
    if plot is not None and not scaling:
        raise typer.BadParameter("--plot draws what --scaling measures: add --scaling.")
    work = Workload(base, layers, prompt_tokens, completion_tokens)
    report = {"workload": asdict(work), "machine": machine(), **headline(work, rounds, stock_micro_batch)}
    if ablations:
        report["ablations"] = ablate(work, rounds)
    if scaling:
        report["scaling"] = scale(work, rounds)
    if plot is not None:
        draw(report["scaling"], plot)
    print(json.dumps(report, indent=2)) if as_json else show(report)


def machine() -> dict:
    """What the numbers were measured on."""
    versions = {module.__name__: module.__version__ for module in (torch, transformers, trl)}
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **versions,
    }


def headline(work: Workload, rounds: int, stock_micro_batch: int) -> dict:
    """Stock and ours in turns, and the floor of ours from the matrix-product rate between the turns."""
    model = AutoConfig.from_pretrained(resolve_base(work.model))  # also cuts the base, once, before all need it
    contenders = {"stock": Stock(work, stock_micro_batch), "gae": Ours(work), "exact": Ours(work, "exact")}
    prompts = work.episodes // Ours.generations
    rows = prompts * work.prompt_tokens + work.episodes * (work.completion_tokens - 1)
    rates = []
    readings = measure(contenders, rounds, lambda: rates.append(matmul_rate(model, rows)))
    trainers = {name: summary(some, work.episodes) for name, some in readings.items()}
    rate = max(rates)
    floor = {"matmul_gflops_per_second": rate / 1e9}
    for name in ("gae", "exact"):
        ours = trainers[name]
        ours["over_stock"] = ours["episodes_per_second"] / trainers["stock"]["episodes_per_second"]
        flops = needed_flops(model, contenders[name], ours["items_shown"], ours["text_tokens"])
        seconds = sum(flops.values()) / rate
        floor[name] = {
            "gflops": {phase: count / 1e9 for phase, count in flops.items()},
            "seconds": seconds,
            "ours_over_floor": work.episodes / ours["episodes_per_second"] / seconds,
        }
    trainers["stock"]["micro_batch"] = stock_micro_batch
    return {"trainers": trainers, "floor": floor}


def ablate(work: Workload, rounds: int) -> dict:
    """Ours with everything, and without each of its means, in turns."""
    ours = Ours(work)
    contenders = {"ours": ours} | {name: change(ours) for name, change in ABLATIONS.items()}
    return {name: summary(some, work.episodes) for name, some in measure(contenders, rounds).items()}


def scale(work: Workload, rounds: int) -> dict:
    """Cost of an episode against the length of histories and the size of the catalogue.

    One after the other, for memory's sake. `exponent` is the slope in logarithms: 1 is linear growth, 0 is none.
    """
    histories = {n: Ours(work, history=n) for n in HISTORIES}
    catalogues = {n: Ours(work, items=n) for n in CATALOGUES}
    return {"history": _growth(histories, rounds), "catalogue": _growth(catalogues, rounds)}


def _growth(contenders: dict[int, Ours], rounds: int) -> dict:
    results = [
        summary(measure({f"ours at {size:,}": ours}, rounds)[f"ours at {size:,}"], ours.workload.episodes)
        for size, ours in contenders.items()
    ]
    sizes, seconds = list(contenders), [1 / result["episodes_per_second"] for result in results]
    return {
        "sizes": sizes,
        "seconds_per_episode": seconds,
        "peak_gb": [result["peak_gb"] for result in results],
        "exponent": float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]),
    }


def draw(scaling: dict, file: Path) -> None:
    """One panel a growth, both axes logarithmic, with a line of linear growth through the first point."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (what, growth) in zip(figure.subplots(1, 2), scaling.items(), strict=True):
        sizes, seconds = np.array(growth["sizes"]), growth["seconds_per_episode"]
        axes.loglog(sizes, seconds, "o-", label=f"measured (exponent {growth['exponent']:.2f})")
        axes.loglog(sizes, seconds[0] * sizes / sizes[0], "--", color="grey", label="linear")
        axes.set(xlabel=f"items in the {what}", ylabel="seconds an episode")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
        axes.minorticks_off()
        axes.legend()
    figure.savefig(file, dpi=150)


def show(report: dict) -> None:
    """Prints a report's tables."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    work, trainers, floor = (report[key] for key in ("workload", "trainers", "floor"))
    table = Table("trainer", "episodes/s", "over stock", "over floor", "peak GB", title_justify="left")
    table.title = (
        f"PPO, {work['layers']} layers of {work['base']}: {work['episodes']} episodes of "
        f"{work['prompt_tokens']} + {work['completion_tokens']} tokens"
    )
    for name, result in trainers.items():
        ours = name in floor
        table.add_row(
            f"llmrec, {name}" if ours else "TRL, stock",
            f"{result['episodes_per_second']:.2f}",
            f"{result['over_stock']:.2f} x" if ours else "",
            f"{floor[name]['ours_over_floor']:.2f} x" if ours else "",
            f"{result['peak_gb']:.2f}",
        )
    console.print(table)
    table = Table("phase of ours (s)", *(name for name in trainers if name in floor))
    for phase in trainers["gae"]["phases"]:
        table.add_row(phase, *(f"{result['phases'][phase]:.3f}" for n, result in trainers.items() if n in floor))
    table.add_row("floor", *(f"{floor[name]['seconds']:.3f}" for name in trainers if name in floor))
    console.print(table)
    console.print(f"matrix products run at {floor['matmul_gflops_per_second']:.0f} GFLOP/s (fp32)")
    if "ablations" in report:
        table = Table("ours without", "episodes/s", "of ours", "peak GB")
        ours = report["ablations"]["ours"]["episodes_per_second"]
        for name, result in report["ablations"].items():
            speed = result["episodes_per_second"]
            table.add_row(name, f"{speed:.2f}", f"{speed / ours:.2f} x", f"{result['peak_gb']:.2f}")
        console.print(table)
    for what, growth in report.get("scaling", {}).items():
        table = Table(f"items in the {what}", "seconds an episode", "peak GB")
        for size, seconds, peak in zip(*(growth[k] for k in ("sizes", "seconds_per_episode", "peak_gb")), strict=True):
            table.add_row(f"{size:,}", f"{seconds:.4f}", f"{peak:.2f}")
        console.print(table, f"growth exponent {growth['exponent']:.2f} (1 is linear, 0 is flat)")


if __name__ == "__main__":
    typer.run(main)

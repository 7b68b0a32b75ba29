"""Episodes per second of PPO: llmrec's trainer, TRL's trainer, and a lower bound on the time of the algorithm.

    python benchmarks/ppo_throughput.py [--json] [--ablations] [--scaling --plot scaling.png]

Run it from the repository on an otherwise idle machine. The trainers take turns, and the medians over rounds are
reported. All use torch's default number of threads, which is the number of cores, or OMP_NUM_THREADS.
"""

import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import transformers
import trl
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script has only its own folder on the path

from benchmarks.ablations import separate_reference, whole_vocabulary
from benchmarks.contenders import Contender, Ours, Stock, Workload
from benchmarks.floor import matmul_rate, needed_flops
from benchmarks.processes import measure, summary
from llmrec.language.base_model import resolve_base

# llmrec's trainer without one of its optimizations.
ABLATIONS: dict[str, Callable[[Ours], Ours]] = {
    "one completion per prompt": lambda ours: replace(ours, generations=1),
    "output head over the whole vocabulary": lambda ours: replace(ours, patch=whole_vocabulary),
    "a separate reference model": lambda ours: replace(ours, patch=separate_reference),
}
HISTORY_SIZES = (64, 128, 256, 512)  # items per prompt
CATALOGUE_SIZES = (1_000, 10_000, 100_000)  # items


def main(
    base: Annotated[str, typer.Option(help="Language model: hub id, directory or `bundled:NAME`.")] = Workload.base,
    layers: Annotated[int, typer.Option(help="Number of first layers that are kept.")] = 8,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens per prompt.")] = Workload.prompt_tokens,
    completion_tokens: Annotated[int, typer.Option(help="Tokens per completion.")] = Workload.completion_tokens,
    stock_micro_batch: Annotated[
        int, typer.Option(help="per_device_train_batch_size of TRL's trainer. Try 4, 8 and 16.")
    ] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Measured updates of each trainer, after one to warm up.")] = 3,
    ablations: Annotated[bool, typer.Option("--ablations", help="Also measure the ablations.")] = False,
    scaling: Annotated[bool, typer.Option("--scaling", help="Also measure larger sizes.")] = False,
    plot: Annotated[Path | None, typer.Option(help="PNG file for a plot of --scaling.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")] = False,
) -> None:
    """Compare PPO trainers on this machine."""
    if plot is not None and not scaling:
        raise typer.BadParameter("--plot draws the result of --scaling. Add --scaling.")
    work = Workload(base=base, layers=layers, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    report: dict[str, Any] = {
        "workload": asdict(work),
        "machine": machine(),
        **headline(work, rounds, stock_micro_batch),
    }
    if ablations:
        report["ablations"] = ablate(work, rounds)
    if scaling:
        report["scaling"] = scale(work, rounds)
    if plot is not None:
        draw(report["scaling"], plot)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


def machine() -> dict[str, Any]:
    """The machine and the versions of libraries that the numbers belong to."""
    versions = {module.__name__: module.__version__ for module in (torch, transformers, trl)}
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **versions,
    }


def headline(work: Workload, rounds: int, stock_micro_batch: int) -> dict[str, Any]:
    """Measures both trainers in turns, and the lower bound of llmrec's from the speed of matrix products.

    Args:
        work: work of an update.
        rounds: measured updates of each trainer.
        stock_micro_batch: `per_device_train_batch_size` of TRL's trainer.

    Returns:
        JSON values: `trainers` and `floor`.
    """
    model = AutoConfig.from_pretrained(
        resolve_base(work.model)
    )  # also truncates the base once, before all processes need it
    ours = {"gae": Ours(work, advantage="gae"), "exact": Ours(work, advantage="exact")}
    contenders: dict[str, Contender] = {"stock": Stock(work, micro_batch=stock_micro_batch), **ours}
    prompts = work.episodes // Ours.generations
    rows = prompts * work.prompt_tokens + work.episodes * (work.completion_tokens - 1)
    rates: list[float] = []
    readings = measure(contenders, rounds, lambda: rates.append(matmul_rate(model, rows)))
    trainers = {name: summary(some, work.episodes) for name, some in readings.items()}
    rate = max(rates)
    floor: dict[str, Any] = {"matmul_gflops_per_second": rate / 1e9}
    for name, contender in ours.items():
        result = trainers[name]
        result["over_stock"] = result["episodes_per_second"] / trainers["stock"]["episodes_per_second"]
        flops = needed_flops(model, contender, result["items_shown"], result["text_tokens"])
        seconds = sum(flops.values()) / rate
        floor[name] = {
            "gflops": {phase: count / 1e9 for phase, count in flops.items()},
            "seconds": seconds,
            "ours_over_floor": work.episodes / result["episodes_per_second"] / seconds,
        }
    trainers["stock"]["micro_batch"] = stock_micro_batch
    return {"trainers": trainers, "floor": floor}


def ablate(work: Workload, rounds: int) -> dict[str, Any]:
    """Measures llmrec's trainer as it is and without each of its optimizations, in turns."""
    ours = Ours(work)
    contenders = {"ours": ours} | {name: change(ours) for name, change in ABLATIONS.items()}
    return {name: summary(some, work.episodes) for name, some in measure(contenders, rounds).items()}


def scale(work: Workload, rounds: int) -> dict[str, Any]:
    """Measures the time of an episode for longer histories and for larger catalogues.

    The sizes run one after the other to save memory. `exponent` is the slope on logarithmic axes: 1 is linear growth,
    0 is none.
    """
    histories = {n: Ours(work, history=n) for n in HISTORY_SIZES}
    catalogues = {n: Ours(work, items=n) for n in CATALOGUE_SIZES}
    return {"history": _growth(histories, rounds), "catalogue": _growth(catalogues, rounds)}


def _growth(contenders: dict[int, Ours], rounds: int) -> dict[str, Any]:
    results = []
    for size, ours in contenders.items():
        name = f"llmrec at {size:,}"
        results.append(summary(measure({name: ours}, rounds)[name], ours.workload.episodes))
    sizes = list(contenders)
    seconds = [1 / result["episodes_per_second"] for result in results]
    return {
        "sizes": sizes,
        "seconds_per_episode": seconds,
        "peak_gb": [result["peak_gb"] for result in results],
        "exponent": float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]),
    }


def draw(scaling: dict[str, Any], file: Path) -> None:
    """Draws a panel for histories and one for catalogues, with a line of linear growth through the first point."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (what, growth) in zip(figure.subplots(1, 2), scaling.items(), strict=True):
        sizes = np.array(growth["sizes"])
        seconds = growth["seconds_per_episode"]
        axes.loglog(sizes, seconds, "o-", label=f"measured (exponent {growth['exponent']:.2f})")
        axes.loglog(sizes, seconds[0] * sizes / sizes[0], "--", color="grey", label="linear")
        axes.set(xlabel=f"items in the {what}", ylabel="seconds per episode")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
        axes.minorticks_off()
        axes.legend()
    figure.savefig(file, dpi=150)


def show(report: dict[str, Any]) -> None:
    """Prints the tables of a report."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(_trainers_table(report))
    console.print(_phases_table(report))
    console.print(f"matrix products run at {report['floor']['matmul_gflops_per_second']:.0f} GFLOP/s (float32)")
    if "ablations" in report:
        console.print(_ablations_table(report["ablations"]))
    for what, growth in report.get("scaling", {}).items():
        table = Table(f"items in the {what}", "seconds per episode", "peak GB")
        columns = (growth[key] for key in ("sizes", "seconds_per_episode", "peak_gb"))
        for size, seconds, peak in zip(*columns, strict=True):
            table.add_row(f"{size:,}", f"{seconds:.4f}", f"{peak:.2f}")
        console.print(table, f"growth exponent {growth['exponent']:.2f} (1 is linear, 0 is flat)")


def _trainers_table(report: dict[str, Any]) -> Table:
    work = report["workload"]
    floor = report["floor"]
    table = Table("trainer", "episodes/s", "times TRL", "times the lower bound", "peak GB", title_justify="left")
    table.title = (
        f"PPO, {work['layers']} layers of {work['base']}: {work['episodes']} episodes of "
        f"{work['prompt_tokens']} + {work['completion_tokens']} tokens"
    )
    for name, result in report["trainers"].items():
        is_ours = name in floor
        table.add_row(
            f"llmrec, {name}" if is_ours else "TRL",
            f"{result['episodes_per_second']:.2f}",
            f"{result['over_stock']:.2f}" if is_ours else "",
            f"{floor[name]['ours_over_floor']:.2f}" if is_ours else "",
            f"{result['peak_gb']:.2f}",
        )
    return table


def _phases_table(report: dict[str, Any]) -> Table:
    floor = report["floor"]
    ours = {name: result for name, result in report["trainers"].items() if name in floor}
    table = Table("phase of llmrec (s)", *ours)
    for phase in ours["gae"]["phases"]:
        table.add_row(phase, *(f"{result['phases'][phase]:.3f}" for result in ours.values()))
    table.add_row("lower bound", *(f"{floor[name]['seconds']:.3f}" for name in ours))
    return table


def _ablations_table(ablations: dict[str, Any]) -> Table:
    table = Table("llmrec with", "episodes/s", "relative", "peak GB")
    full = ablations["ours"]["episodes_per_second"]
    for name, result in ablations.items():
        speed = result["episodes_per_second"]
        label = "all optimizations" if name == "ours" else name
        table.add_row(label, f"{speed:.2f}", f"{speed / full:.2f}", f"{result['peak_gb']:.2f}")
    return table


if __name__ == "__main__":
    typer.run(main)

"""The command `privacy`: what the log of a run tells of people, and what its adapter tells of its training data."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from llmrec.cli.options import AdapterOption, JsonOption
from llmrec.cli.output import line_printer, print_json, print_line, print_table
from llmrec.cli.process import reserve_stdout
from llmrec.progress.console import console_for
from llmrec.run import Run

ITEMS = {"item": "item", "categories": "its categories"}
RIVALS = {"start": "untrained start", "popularity": "popularity"}
SCORES = {
    "likelihood_ratio": "attack: adapter against the base",
    "loss": "attack: adapter alone",
    "base": "control: base without adapter",
    "popularity": "control: popularity of the items",
    "above_popularity": "attack minus popularity",
}


def privacy_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    adapter: AdapterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how anonymous the log of a run is, and whether its adapter tells who was in the training data.

    Example: llmrec privacy runs/quickstart
    """
    with reserve_stdout(as_json):
        opened = Run.open(run)
        from llmrec.privacy.report import privacy_report

        found = privacy_report(opened, adapter, line_printer(console_for(stderr=True)))
    if as_json:
        print_json(found)
    else:
        print_privacy(console_for(), found)


def print_privacy(console: Console, found: dict[str, Any]) -> None:
    """Prints the report of `privacy_report`."""
    print_table(console, _singling_out_table(found))
    if found["profiles"]:
        print_table(console, _profiles_table(found))
    if found["training"] is not None:
        print_private_training(console, found["training"])
    membership = found["membership"]
    if "missing" in membership:
        print_line(console, f"attack on the adapter: not possible. {membership['missing']}", style="yellow")
        return
    table = Table(
        title=f"attack on the adapter {membership['adapter']}, {membership['pairs']} pairs of users: "
        "AUC [95 % interval]; 0.5: nothing is told",
        title_justify="left",
    )
    table.add_column("score")
    table.add_column("AUC", justify="right")
    for name, label in SCORES.items():
        table.add_row(label, _with_interval(membership["auc"][name], 3))
    print_table(console, table)
    print_line(console, f"result: {membership['verdict']}")


def print_private_training(console: Console, record: dict[str, Any]) -> None:
    """Prints what a training with differential privacy has cost, how it ranks and what it leaves out."""
    print_line(
        console,
        f"SFT with user-level differential privacy: epsilon {record['epsilon']:.3g} at delta {record['delta']:g} "
        f"({record['accountant']}); noise {record['noise_multiplier']:.3g} x the clipping norm {record['clip']:g}, "
        f"{record['batch_size']} of {record['users']:,} users a step on average, {record['steps']} steps, "
        f"{record['clipped_share']:.0%} of gradients clipped",
    )
    ranking = record["ranking"]
    table = Table(title=f"validation NDCG@10, {ranking['users']:,} users", title_justify="left")
    for heading in ("ranked by", "NDCG@10", "gain of the adapter", "lower 95 % bound"):
        table.add_column(heading, justify="left" if heading == "ranked by" else "right")
    table.add_row("private adapter", f"{ranking['private']:.4f}", "", "")
    for name, gain in record["gains"].items():
        table.add_row(RIVALS[name], f"{ranking[name]:.4f}", f"{gain['mean']:+.4f}", f"{gain['lower']:+.4f}")
    print_table(console, table)
    print_line(console, f"privacy: {record['verdict']}")
    print_line(console, f"outside of the guarantee: {'; '.join(record['outside'])}")


def _singling_out_table(found: dict[str, Any]) -> Table:
    """One row for each precision of the log, one column for each number of known clicks."""
    rows: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for one in found["singling_out"]:
        rows.setdefault((one["item"], one["date"]), {})[one["known"]] = one
    most = max(one["known"] for one in found["singling_out"])
    table = Table(
        title=f"share of people whom n random clicks of theirs single out, of {found['users']} people [95 % interval]",
        title_justify="left",
    )
    table.add_column("the log says")
    for known in range(1, most + 1):
        table.add_column(f"n = {known}", justify="right")
    table.add_column(f"median k, n = {most}", justify="right")
    for (item, date), by_known in rows.items():
        dates = "no dates" if date == "none" else f"the {date}"
        cells = [_with_interval(one["alone"], 2).replace(" [", "\n[") for one in by_known.values()]
        table.add_row(f"{ITEMS[item]}, {dates}", *cells, f"{by_known[most]['median_k']:g}")
    return table


def _profiles_table(found: dict[str, Any]) -> Table:
    table = Table(title="share of people by how many have the same attributes", title_justify="left")
    for heading in ("attributes", "alone", "fewer than 5"):
        table.add_column(heading)
    for one in found["profiles"]:
        table.add_row(", ".join(one["attributes"]), f"{one['alone']:.3f}", f"{one['few']:.3f}")
    return table


def _with_interval(estimate: dict[str, Any], digits: int) -> str:
    low, high = estimate["ci95"]
    return f"{estimate['value']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

"""The command `simulate`: worlds of people that answer back, fitted on held-out users of a log."""

from typing import Any

from rich.console import Console
from rich.table import Table

from llmrec.cli.options import ConfigArgument, JsonOption
from llmrec.cli.output import line_printer, print_json, print_line, print_table
from llmrec.cli.process import reserve_stdout
from llmrec.cli.stages import open_or_create
from llmrec.progress.console import console_for
from llmrec.run import run_all

DISTANCES = {
    "popularity_curve": "clicks by popularity of the item",
    "category_runs": "runs within a category",
    "session_length": "session length",
    "time_to_return": "days until the return",
}


def simulate_command(config: ConfigArgument, as_json: JsonOption = False) -> None:
    """Fit three worlds on held-out users, check them against the log and play simple policies in them.

    The worlds are saved in `simulator/` of the run directory. A world that fails its check is marked "not validated".
    """
    with reserve_stdout(as_json):
        from llmrec.simulator.stage import FOLDER, simulate

        say = line_printer(console_for(stderr=as_json))
        run = open_or_create(config)
        run_all(run, "data", say=say)
        worlds = simulate(run, say)
    if as_json:
        print_json(worlds)
    else:
        for found in worlds.values():
            print_world(console_for(), found)
        print_line(console_for(), f"worlds: {run.directory / FOLDER}")


def print_world(console: Console, found: dict[str, Any]) -> None:
    """Prints how well a world resembles the log, and what simple policies reach in it."""
    mark = "" if found["validated"] else ", NOT VALIDATED"
    print_line(console, f"\n{found['world']}: {found['family']}, {found['users']} users{mark}", style="bold")
    for reason in found["failed"]:
        print_line(console, f"  {reason}", style="yellow")
    click = found["next_click"]
    judged = found["discriminator"]
    print_line(console, f"  next click: AUC {_number(click['auc'])}, popularity {_number(click['popularity_auc'])}")
    print_line(
        console,
        f"  discriminator: AUC {judged['auc']:.3f}, without any difference {judged['null_mean']:.3f} "
        f"(97.5 %: {judged['null_97.5']:.3f}), log against itself {judged['real_against_real']:.3f}, "
        f"{judged['windows']} windows of each kind",
    )
    distances = Table(title="distance from the log (Kolmogorov-Smirnov) [95 % interval]", title_justify="left")
    for heading in ("", "world", "log to itself"):
        distances.add_column(heading)
    for name, label in DISTANCES.items():
        distances.add_row(label, _number(found[name]), _plain(found[name]["real_to_real"]))
    print_table(console, distances)
    policies = Table(title=f"one life{mark} [95 % interval]", title_justify="left")
    for heading in ("policy", "reward", "clicks", "click rate", "sessions", "NDCG@10 on the log"):
        policies.add_column(heading)
    for name, row in found["policies"].items():
        offline = found["offline_ndcg@10"].get(name)
        cells = [_number(row[key], 2 if key != "click_rate" else 3) for key in ("reward", "clicks", "click_rate")]
        policies.add_row(name, *cells, _number(row["sessions"], 2), _plain(offline))
    print_table(console, policies)
    orders = [row["tau"] for row in found["sensitivity"]]
    print_line(
        console,
        f"  order of policies: tau {found['order_agreement']:+.2f} with the log; over {len(orders) - 1} changed "
        f"assumptions tau {min(orders):+.2f} to {max(orders):+.2f}",
    )


def _number(estimate: dict[str, Any], digits: int = 3) -> str:
    """A value with its interval; `-` if it is undefined."""
    if estimate["value"] is None:
        return "-"
    low, high = estimate["ci95"]
    return f"{estimate['value']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

"""The command `agents`: learners that act in the worlds of a run, compared on unseen users."""

from typing import Any

from rich.console import Console
from rich.table import Table

from llmrec.cli.options import ConfigArgument, JsonOption
from llmrec.cli.output import line_printer, print_json, print_line, print_table
from llmrec.cli.process import reserve_stdout
from llmrec.cli.stages import open_or_create
from llmrec.config import LANGUAGE_MODEL
from llmrec.progress.console import console_for
from llmrec.run import run_all


def agents_command(config: ConfigArgument, as_json: JsonOption = False) -> None:
    """Train agents in the worlds of `simulate`, and compare them on users whom none of them has met.

    Writes report.json and rewards.svg into `agents/` of the run directory. Finished agents are not trained again.
    `llmrec recommend --agent best` uses the best one.
    """
    with reserve_stdout(as_json):
        from llmrec.agents.stage import FOLDER, train_agents

        say = line_printer(console_for(stderr=as_json))
        run = open_or_create(config)
        run_all(run, *(("data", "sft") if LANGUAGE_MODEL in run.config.agents.names else ("data",)), say=say)
        report = train_agents(run, say)
    if as_json:
        print_json(report)
        return
    for name, table in report["worlds"].items():
        print_agents(console_for(), name, table)
    best = report["best"]
    print_line(console_for(), f"best: {best['name']}. The rule: {best['rule']}.")
    print_line(console_for(), f"agents: {run.directory / FOLDER}")


def print_agents(console: Console, world: str, found: dict[str, Any]) -> None:
    """Prints what each policy reaches with unseen users of a world, best first."""
    mark = "" if found["validated"] else ", NOT VALIDATED"
    table = Table(title=f"{world}{mark}: one life of unseen users [95 % interval]", title_justify="left")
    columns = ("policy", "reward", "minus constant", "minus gamma 0", "click rate", "purchases", "steps a session",
               "back in 7 days", "items", "CPU s")  # fmt: skip
    for heading in columns:
        table.add_column(heading)
    for name, row in sorted(found["policies"].items(), key=lambda pair: -pair[1]["reward"]["value"]):
        intervals = [_estimate(row.get(key)) for key in ("reward", "minus_constant", "minus_gamma0")]
        click_rate, purchases, length, back = (
            row[key]["value"] for key in ("click_rate", "purchases", "session_length", "back_after_7_days")
        )
        numbers = [f"{click_rate:.3f}", f"{purchases:.1f}", f"{length:.1f}", f"{back:.2f}", f"{row['items_shown']:.0f}"]
        table.add_row(name, *intervals, *numbers, f"{row['training']['cpu_seconds']:.0f}")
    print_table(console, table)


def _estimate(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    low, high = found["ci95"]
    return f"{found['value']:.1f} [{low:.1f}, {high:.1f}]"

"""The command `versions`: the versions of a run's adapter and their history, promotion and rollback."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from llmrec.cli.options import JsonOption
from llmrec.cli.output import print_json, print_line, print_table
from llmrec.cli.process import reserve_stdout
from llmrec.errors import UserError
from llmrec.progress.console import console_for
from llmrec.run import Run

if TYPE_CHECKING:
    from llmrec.versions.registry import Registry


def versions_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    action: Annotated[
        Literal["list", "promote", "rollback"],
        typer.Argument(
            metavar="[list|promote|rollback]",
            help="Show versions and history, make version V the current one, or take the canary out of service; "
            "without a canary `rollback` takes the current version out, and its predecessor takes its place.",
        ),
    ] = "list",
    version: Annotated[
        int | None, typer.Argument(min=0, metavar="[V]", help="Number of the version to promote.")
    ] = None,
    why: Annotated[str, typer.Option(metavar="TEXT", help="Reason that the history records.")] = "by hand",
    as_json: JsonOption = False,
) -> None:
    """List the versions of a run's adapter with their history, promote one, or roll back.

    A running `llmrec serve --run RUN` takes the change over within seconds and without a failed request.

    Example: llmrec versions runs/quickstart promote 2
    """
    if (version is not None) != (action == "promote"):
        raise UserError(f"`{action}` {'needs the number of a version' if version is None else 'takes no version'}.")
    with reserve_stdout(as_json):
        from llmrec.versions.registry import Registry

        registry = Registry(Run.open(run))
        if action == "promote":
            assert version is not None  # checked above
            registry.promote(version, why)
        elif action == "rollback":
            registry.roll_back(why)
    if as_json:
        print_json(
            {
                "versions": [one.as_json() for one in registry.versions()],
                "history": [asdict(change) for change in registry.history()],
            }
        )
    else:
        print_versions(console_for(), registry)


def print_versions(console: Console, registry: "Registry") -> None:
    """Prints the versions as a table, and the history below it."""
    table = Table(title=f"versions of {registry.run.directory}", title_justify="left")
    for heading in ("version", "state", "from", "weights", "since", "why"):
        table.add_column(heading, justify="right" if heading in ("version", "from") else "left")
    for one in registry.versions():
        share = "" if one.share is None else f" ({one.share:.0%} of users)"
        parent = "" if one.parent is None else str(one.parent)
        table.add_row(str(one.number), one.state + share, parent, one.label, one.changed[:19], one.why)
    print_table(console, table)
    for change in registry.history():
        print_line(console, f"{change.at[:19]}  version {change.version}: {change.state}, {change.why}")

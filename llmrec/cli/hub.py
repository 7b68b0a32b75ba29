"""Commands that share runs and compare them: push, list and diff."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmrec.cli.options import AdapterOption, JsonOption, RunOption
from llmrec.cli.output import line_printer, measured_cell, print_json, print_table
from llmrec.cli.process import reserve_stdout
from llmrec.config import INCLUDABLE, HubConfig
from llmrec.errors import UserError
from llmrec.evaluation.report import POLICIES
from llmrec.progress.console import console_for
from llmrec.report.glossary import label
from llmrec.run import Run

if TYPE_CHECKING:
    from llmrec.hub.compare import Difference, RevisionEntry, RunEntry

DEFAULT_RUNS = Path("runs")


def push_command(
    run: RunOption,
    repo: Annotated[
        str, typer.Option(metavar="OWNER/NAME", help="Hub repository. It is created if it does not exist.")
    ],
    adapter: AdapterOption = None,
    include: Annotated[
        str,
        typer.Option(
            metavar="PARTS",
            help="Further parts to upload, separated by commas: reward (the reward models), report (report.html).",
        ),
    ] = "",
    revision: Annotated[
        str | None,
        typer.Option(metavar="BRANCH", help="Branch, main by default. It is created if it does not exist."),
    ] = None,
    titles: Annotated[
        bool, typer.Option("--titles/--no-titles", help="Publish item titles, or item ids in their place.")
    ] = True,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and list the files without uploading.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Upload the adapter, its config, its report and a model card to a hub, in one commit."""
    parts = [part.strip() for part in include.split(",") if part.strip()]
    if unknown := [part for part in parts if part not in INCLUDABLE]:
        raise UserError(f"--include {unknown[0]}: expected {' or '.join(INCLUDABLE)}, or both separated by a comma.")
    with reserve_stdout(as_json):
        from llmrec.hub.client import check_branch, check_name
        from llmrec.hub.push import push

        check_name(repo)
        check_branch(revision)
        values = {"repo": repo, "private": private, "revision": revision, "include": parts, "titles": titles}
        say = line_printer(console_for(stderr=as_json))
        url = push(Run.open(run), HubConfig.model_validate(values), adapter=adapter, dry_run=dry_run, say=say)
    if as_json:
        print_json({"url": url, "dry_run": dry_run})


def push_if_configured(run: Run, console: Console) -> None:
    """Pushes a finished run if its config has a `hub` section."""
    if run.config.hub is not None:
        from llmrec.hub.push import push_as_configured

        push_as_configured(run, line_printer(console))


def list_command(
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Directory that holds runs, by default runs.")
    ] = None,
    repo: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Hub repository whose revisions are listed instead.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the runs of a directory, or the revisions of a hub repository, with their NDCG@10."""
    if directory is not None and repo is not None:
        raise UserError("DIR and --repo were both given. Give one of them, not both.")
    with reserve_stdout(as_json):
        from llmrec.hub.compare import list_revisions, list_runs

        entries = list_runs(directory or DEFAULT_RUNS) if repo is None else list_revisions(repo)
    if as_json:
        print_json([entry.as_json() for entry in entries])
    else:
        headings = ("run", "finished") if repo is None else ("branch, tags", "commit", "title")
        print_entries(console_for(), entries, headings)


def diff_command(
    a: Annotated[
        str, typer.Argument(metavar="A", help="First run: a run directory, OWNER/NAME or OWNER/NAME@REVISION.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Second run, in the same form.")],
    as_json: JsonOption = False,
) -> None:
    """Show how the configs of two runs differ, and their metrics side by side."""
    with reserve_stdout(as_json):
        from llmrec.hub.compare import difference

        found = difference(a, b)
    if as_json:
        print_json(found.as_json())
    else:
        print_difference(console_for(), found)


def print_entries(console: Console, entries: "Sequence[RunEntry | RevisionEntry]", headings: tuple[str, ...]) -> None:
    """Prints the table of `llmrec.hub.compare.list_runs` or `list_revisions`.

    Args:
        console: Console to print on.
        entries: One entry a row.
        headings: Headings of the columns that stand before the metrics.
    """
    splits = list(dict.fromkeys(split for entry in entries for split in entry.ndcg))
    columns = [(split, policy) for split in splits for policy in POLICIES]
    table = Table(title="NDCG@10 [95 % interval]", title_justify="left")
    for heading in (*headings, *(f"{label(policy)}, {label(split)}" for split, policy in columns), "when"):
        table.add_column(heading, overflow="fold")
    for entry in entries:
        cells = [entry.ndcg.get(split, {}).get(policy) for split, policy in columns]
        values = [measured_cell(cell, interval_below=True) for cell in cells]
        when = (entry.when or "-")[:16].replace("T", "\n")
        table.add_row(*map(Text, _first_cells(entry)), *values, when)
    print_table(console, table)


def _first_cells(entry: "RunEntry | RevisionEntry") -> tuple[str, ...]:
    from llmrec.hub.compare import RunEntry

    note = "" if entry.report_readable else " (its report.json cannot be read)"
    if isinstance(entry, RunEntry):
        return entry.name, ", ".join(entry.finished) + note
    return ", ".join([entry.branch, *entry.tags]), entry.commit[:8], entry.title + note


def print_difference(console: Console, difference: "Difference") -> None:
    """Prints the result of `llmrec.hub.compare.difference`: config keys that differ, and all metrics."""
    sides = difference.a, difference.b
    config_rows = {key: (str(pair.a), str(pair.b)) for key, pair in difference.config.items()}
    _print_pairs(console, "config keys that differ", sides, config_rows)
    for split, models in difference.metrics.items():
        metric_rows = {
            f"{label(model)} {label(metric)}": (measured_cell(pair.a), measured_cell(pair.b))
            for model, metrics in models.items()
            for metric, pair in metrics.items()
        }
        _print_pairs(console, f"{label(split)} split: value [95 % interval]", sides, metric_rows)


def _print_pairs(console: Console, title: str, sides: tuple[str, str], rows: dict[str, tuple[str, str]]) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("", *sides):
        table.add_column(Text(column))
    for name, pair in rows.items():
        table.add_row(name, *map(Text, pair))
    print_table(console, table)

"""The verbs of the command line that share runs and compare them: `push`, `list`, `diff`."""

from pathlib import Path
from typing import Annotated

import typer

from llmrec.cli.printing import print_difference, print_json, print_runs, say_on
from llmrec.cli.process import AdapterOption, JsonOption, stdout_kept_clean
from llmrec.config import INCLUDABLE
from llmrec.errors import UserError
from llmrec.progress.console import console_for
from llmrec.run import Run

hub_app = typer.Typer()


@hub_app.command("push")
def push_verb(
    run: Annotated[Path, typer.Option("--run", metavar="DIR", help="a run directory")],
    repo: Annotated[str, typer.Option(metavar="OWNER/NAME", help="the hub repository; made if there is none")],
    adapter: AdapterOption = None,
    include: Annotated[
        str, typer.Option(metavar="reward,report", help="also the reward models, the report as a page, or both")
    ] = "",
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="the branch; made if there is none; default: main")
    ] = None,
    titles: Annotated[bool, typer.Option("--titles/--no-titles", help="without titles, items go by their ids")] = True,
    private: Annotated[bool, typer.Option("--private", help="make a new repository private")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check and list the files, upload nothing")] = False,
    as_json: JsonOption = False,
) -> None:
    """Upload the adapter, its config, its report and a model card to a hub, in one commit."""
    parts = [part.strip() for part in include.split(",") if part.strip()]
    if unknown := [part for part in parts if part not in INCLUDABLE]:
        raise UserError(f"--include {unknown[0]}: expected {' or '.join(INCLUDABLE)}, or both with a comma between.")
    with stdout_kept_clean(as_json):
        from llmrec.hub.push import push

        options = {"include": parts, "titles": titles, "private": private, "revision": revision, "dry_run": dry_run}
        url = push(Run.open(run), repo, adapter=adapter, **options, say=say_on(console_for(stderr=as_json)))
    if as_json:
        print_json({"url": url, "dry_run": dry_run})


@hub_app.command("list")
def list_verb(
    directory: Annotated[Path | None, typer.Argument(metavar="DIR", help="default: runs")] = None,
    repo: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="instead: what a hub has of it")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the runs of a directory, or the revisions of a pushed one, with what they came to."""
    if directory is not None and repo is not None:
        raise UserError("Give DIR or --repo, not both.")
    with stdout_kept_clean(as_json):
        from llmrec.hub.compare import list_revisions, list_runs

        found = list_runs(directory or Path("runs")) if repo is None else list_revisions(repo)
    if as_json:
        print_json(found)
    elif repo is None:
        print_runs(console_for(), found, _run_cells, "run", "finished")
    else:
        print_runs(console_for(), found, _revision_cells, "branch, tags", "commit", "title")


def _run_cells(run: dict) -> tuple[str, ...]:
    return run["name"], ", ".join(run["finished"]) + _broken(run)


def _revision_cells(one: dict) -> tuple[str, ...]:
    return ", ".join([one["branch"], *one["tags"]]), one["commit"][:8], one["title"] + _broken(one)


def _broken(entry: dict) -> str:
    return "" if entry["report_readable"] else " (its report.json cannot be read)"


@hub_app.command("diff")
def diff_verb(
    a: Annotated[str, typer.Argument(metavar="A", help="a run directory, or OWNER/NAME[@REVISION] on a hub")],
    b: Annotated[str, typer.Argument(metavar="B", help="another")],
    as_json: JsonOption = False,
) -> None:
    """Show how the configs of two runs differ, and their metrics side by side."""
    with stdout_kept_clean(as_json):
        from llmrec.hub.compare import difference

        found = difference(a, b)
    if as_json:
        print_json(found)
    else:
        print_difference(console_for(), found)

"""The command `feedback`: exports the store of `llmrec serve` as an event log, and deletes the data of a person."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from llmrec.cli.options import JsonOption
from llmrec.cli.output import print_json, print_line
from llmrec.cli.process import reserve_stdout
from llmrec.cli.serve import STORE_FILE, require_serving
from llmrec.errors import UserError
from llmrec.progress.console import console_for
from llmrec.run import Run


def feedback_command(
    action: Annotated[
        Literal["export", "delete"],
        typer.Argument(
            metavar="export|delete", help="Write the store as an event log, or delete all data of one person."
        ),
    ],
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL|FILE", help="Feedback store of `llmrec serve`. By default `feedback.db` in the run directory."
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="DIR", help="Run that the server uses; its own log comes first in the export."),
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="New directory that `export` writes.")] = None,
    user: Annotated[str | None, typer.Option(metavar="ID", help="Person whose data `delete` deletes.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Export the feedback of a server as an event log, or delete the data of a person.

    Example: llmrec feedback export --run runs/quickstart --output data/served
    """
    if store is None and run is None:
        raise UserError("The store is not named. Give --store URL|FILE, or --run DIR for the store in a run directory.")
    if (output is not None) != (action == "export"):
        raise UserError(f"`{action}` {'needs --output DIR' if output is None else 'takes no --output'}. Correct it.")
    if (user is not None) != (action == "delete"):
        raise UserError(f"`{action}` {'needs --user ID' if user is None else 'takes no --user'}. Correct it.")
    require_serving()
    place = store_place(store, run)
    if output is not None:
        _export(place, run, output, as_json)
    elif user is not None:
        _delete(place, user, as_json)


def store_place(store: str | None, run: Path | None) -> str:
    """URL or path of a store that exists: `store` if it is given, else the store in a run directory.

    Raises:
        UserError: it is a file that does not exist.
    """
    from llmrec.serving.database import store_url

    place = store or str((run or Path()) / STORE_FILE)
    url = store_url(place)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():  # opening it would create it
        raise UserError(f"{place}: there is no feedback store. `llmrec serve` makes one; --store names its place.")
    return place


def _export(place: str, run: Path | None, output: Path, as_json: bool) -> None:
    with reserve_stdout(as_json):
        from llmrec.data.dataset import load_data
        from llmrec.serving.export import export_log
        from llmrec.serving.store import opened

        trained = None
        if run is not None:
            opened_run = Run.open(run)
            opened_run.require("data")
            trained = (opened_run.config, load_data(opened_run.path("data")))
        with opened(place) as store:
            found = export_log(store, output, trained)
    if as_json:
        print_json({"directory": str(output)} | asdict(found))
        return
    console = console_for()
    print_line(
        console,
        f"{output}: {found.impressions:,} impressions, {found.feedback:,} events and {found.logged:,} events of the "
        f"run's log; left out: {found.anonymous:,} impressions of requests without a user, and {found.unknown:,} "
        "impressions and events of items that the run does not have",
    )
    print_line(console, f"people to leave out of the next training: {found.erased:,} (erased_users.csv)")
    print_line(console, f"next: llmrec prepare {output / 'config.yaml'}")


def _delete(place: str, user: str, as_json: bool) -> None:
    with reserve_stdout(as_json):
        from llmrec.serving.store import opened

        with opened(place) as store:
            deleted = store.erase(user).result()
    if as_json:
        print_json(asdict(deleted))
        return
    print_line(
        console_for(),
        f"deleted {deleted.feedback:,} events, {deleted.impressions:,} impressions and {deleted.comparisons:,} "
        "comparisons; the person is listed for the next training",
    )

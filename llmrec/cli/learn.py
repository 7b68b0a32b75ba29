"""The command `learn`: trains on the feedback of a server, and promotes or rolls back what it has trained."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmrec.cli.feedback import store_place
from llmrec.cli.options import JsonOption
from llmrec.cli.output import line_printer, print_json, print_line
from llmrec.cli.process import reserve_stdout
from llmrec.cli.serve import require_serving
from llmrec.cli.stages import open_or_create
from llmrec.progress.console import console_for

if TYPE_CHECKING:
    from llmrec.learning.loop import Outcome


def learn_command(
    config: Annotated[
        Path, typer.Argument(metavar="RUN|CONFIG", help="Run directory that `llmrec serve` serves, or its YAML config.")
    ],
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL|FILE", help="Feedback store of `llmrec serve`. By default `feedback.db` in the run directory."
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until interrupted.")] = False,
    every: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Pause of --watch between two looks at the store.")
    ] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Learn from the feedback of a server: train a new version, try it on a share of users, promote it or roll it back.

    Each call does the next step: it decides on the version that is tried, or trains one if there are enough new events
    (section `learn` of the config).

    Example: llmrec learn runs/quickstart --watch
    """
    require_serving()
    run = open_or_create(config)
    run.adapter()  # a run without an adapter is reported before the slow imports
    place = store_place(store, run.directory)

    with reserve_stdout(as_json):
        from llmrec.learning.loop import steps
        from llmrec.serving.store import opened
    with opened(place) as feedback:
        taken = steps(run, feedback, line_printer(console_for(stderr=as_json)), every if watch else None)
        while True:
            with reserve_stdout(as_json):
                outcome = next(taken, None)
            if outcome is None:
                return
            _tell(outcome, as_json)


def _tell(outcome: "Outcome", as_json: bool) -> None:
    if as_json:
        print_json(asdict(outcome))
        return
    about = "" if outcome.version is None else f" version {outcome.version}"
    print_line(console_for(), f"{outcome.action}{about}: {outcome.why}")

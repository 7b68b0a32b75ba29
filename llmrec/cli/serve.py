"""The command `serve`: a server that recommends over HTTP and stores feedback."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmrec.cli.options import AdapterOption, FullPrecisionOption, ModelOption, RevisionOption
from llmrec.cli.output import print_line
from llmrec.cli.recommend import ModelSource
from llmrec.errors import UserError
from llmrec.progress.console import console_for
from llmrec.run import Run

if TYPE_CHECKING:
    from llmrec.serving.server import Model

STORE_FILE = "feedback.db"


def serve_command(
    run: Annotated[Path | None, typer.Option("--run", metavar="DIR", help="Run directory.")] = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    adapter: AdapterOption = None,
    full_precision: FullPrecisionOption = False,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="Port; 0 takes a free one.")] = 8000,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL|FILE",
            help="Feedback store: `postgresql://USER@HOST/DATABASE`, or an SQLite file. By default `feedback.db` in "
            "the run directory, or in the present directory with --model.",
        ),
    ] = None,
    sampled_share: Annotated[
        float,
        typer.Option(
            min=0, max=1, metavar="SHARE", help="Share of requests whose list is drawn at random, see the guide."
        ),
    ] = 0.05,
    api_keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with one API key a line. Keys may be in LLMREC_API_KEYS as well."),
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0.1, metavar="N", help="Requests per second of one API key, or of one address.")
    ] = 100.0,
    concurrency: Annotated[int, typer.Option(min=1, metavar="N", help="Requests in progress at most.")] = 256,
) -> None:
    """Serve recommendations over HTTP and store feedback.

    Example: llmrec serve --run runs/quickstart --port 8000
    """
    source = ModelSource(run, model, revision, adapter, quantized=not full_precision)
    source.check(None)
    require_serving()
    from llmrec.serving.guard import Limits
    from llmrec.serving.server import ServerOptions, read_keys, serve

    options = ServerOptions(
        host=host,
        port=port,
        store=store or str((run or Path()) / STORE_FILE),
        sampled_share=sampled_share,
        keys=read_keys(api_keys),
        limits=Limits(rate=rate, concurrency=concurrency),
    )
    options.check()
    if run is not None:
        Run.open(run).adapter(adapter)  # a run without an adapter is reported before anything is loaded
    console = console_for()
    serve(lambda: _load(source), options, ready=lambda address: print_line(console, f"ready: {address}"))


def _load(source: ModelSource) -> "Model":
    """The model of a source. A run without `--adapter` is served by its versions."""
    from llmrec.serving.server import Model
    from llmrec.versions.registry import Registry, version_label

    if source.model is not None:
        return Model.of_hub(source.model, source.revision, source.quantized)
    assert source.run is not None  # see ModelSource.check
    run = Run.open(source.run)
    if source.adapter is None:
        return Model.of_registry(Registry(run), source.quantized)
    return Model(source.load(), version_label(run.adapter(source.adapter), source.adapter))


def require_serving() -> None:
    """Checks that the packages of the extra `serve` are installed.

    Raises:
        UserError: one is missing.
    """
    try:
        import alembic  # noqa: F401
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import sqlalchemy  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"The package {error.name} is not installed, which the server needs. Install `pip install 'llmrec[serve]'`."
        ) from None

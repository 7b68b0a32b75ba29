"""Verbs about a policy outside of training: what it takes, and taking it elsewhere."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from llmrec.cli.printing import print_estimate, print_json, say_on
from llmrec.cli.process import AdapterOption, JsonOption, stdout_kept_clean
from llmrec.config import load_config
from llmrec.errors import UserError
from llmrec.progress.console import console_for
from llmrec.run import Run


def export_verb(
    run: Annotated[Path, typer.Option("--run", metavar="DIR", help="a run directory")],
    adapter: AdapterOption = None,
    merged: Annotated[
        Path | None, typer.Option(metavar="OUT", help="directory for a model that transformers loads")
    ] = None,
    gguf: Annotated[Path | None, typer.Option(metavar="FILE", help="file for llama.cpp")] = None,
    gguf_type: Annotated[Literal["f32", "f16", "q8_0"], typer.Option(help="of its matrices")] = "q8_0",
    onnx: Annotated[
        Path | None, typer.Option(metavar="OUT", help="directory for an ONNX graph that ranks the items")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Merge the adapter into full-precision weights, for transformers, llama.cpp or onnxruntime."""
    if merged is gguf is onnx is None:
        raise UserError("Say what to write: --merged OUT, --gguf FILE, --onnx OUT, or several of them.")
    with stdout_kept_clean(as_json):
        from llmrec.export.merged import export

        console = console_for(stderr=as_json)
        result = export(Run.open(run), adapter, merged, gguf, gguf_type, onnx, say=say_on(console))
    if as_json:
        print_json(result)


def estimate_verb(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="a YAML config, or a run directory")],
    items: Annotated[
        int | None, typer.Option(min=1, help="size of the catalogue; default: that of the prepared data")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Count the memory that SFT and PPO need, without reading weights."""
    if config.is_dir():
        run = Run.open(config)
        opened = run.config
        if items is None and run.finished("data"):  # it may lie elsewhere than its config says
            items = run.metrics("data")["items"]
    else:
        opened = load_config(config)
    with stdout_kept_clean(as_json):
        from llmrec.estimate import estimate

        found = estimate(opened, items)
    if as_json:
        print_json(found)
    else:
        print_estimate(console_for(), found)

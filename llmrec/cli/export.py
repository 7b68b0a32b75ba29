"""The command `export`: the model in a format for other programs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from llmrec.cli.options import AdapterOption, JsonOption, RunOption
from llmrec.cli.output import line_printer, print_json
from llmrec.cli.process import reserve_stdout
from llmrec.errors import UserError
from llmrec.progress.console import console_for
from llmrec.run import Run


def export_command(
    run: RunOption,
    adapter: AdapterOption = None,
    merged: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Output directory of a model that transformers loads.")
    ] = None,
    gguf: Annotated[Path | None, typer.Option(metavar="FILE", help="Output file for llama.cpp.")] = None,
    gguf_type: Annotated[
        Literal["f32", "f16", "q8_0"],
        typer.Option(metavar="f32|f16|q8_0", help="Number format of the weight matrices in the GGUF file."),
    ] = "q8_0",
    onnx: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Output directory of an ONNX graph that ranks all items.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Merge the adapter into full-precision weights and write them for transformers, llama.cpp or ONNX Runtime."""
    if merged is gguf is onnx is None:
        raise UserError("No output was given. Give one or more of --merged OUT, --gguf FILE and --onnx OUT.")
    with reserve_stdout(as_json):
        from llmrec.export.merged import ExportPaths, export

        paths = ExportPaths(merged=merged, gguf=gguf, onnx=onnx)
        say = line_printer(console_for(stderr=as_json))
        result = export(Run.open(run), paths, adapter=adapter, gguf_type=gguf_type, say=say)
    if as_json:
        print_json(result.as_json())

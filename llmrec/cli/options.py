"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML config or run directory.")]
RunOption = Annotated[Path, typer.Option("--run", metavar="DIR", help="Run directory.")]
AdapterOption = Annotated[
    Literal["sft", "ppo"] | None,
    typer.Option(metavar="sft|ppo", help="Adapter to use. By default ppo if that stage has finished, else sft."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and everything else on stderr.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="DIR|OWNER/NAME", help="Saved adapter or hub repository, instead of --run."),
]
RevisionOption = Annotated[
    str | None,
    typer.Option("--revision", metavar="REV", help="Branch, tag or commit of the hub repository in --model."),
]
FullPrecisionOption = Annotated[
    bool, typer.Option("--full-precision", help="Load the base model unquantized, even if training quantized it.")
]

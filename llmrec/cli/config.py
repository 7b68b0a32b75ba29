"""The command `config`: the keys of a config file, their types, defaults and meanings."""

from typing import Annotated

import typer

from llmrec.cli.output import print_json
from llmrec.config import all_defaults, explain, json_schema
from llmrec.errors import UserError


def config_command(
    key: Annotated[
        str | None, typer.Option("--explain", metavar="KEY", help="Key or section to explain, such as `ppo.kl_coef`.")
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of a config file, for editors.")
    ] = False,
) -> None:
    """List the keys of a config file with their defaults, explain one key, or print the JSON schema."""
    if key is not None and schema:
        raise UserError("--explain and --schema were both given. Give one of them.")
    if schema:
        print_json(json_schema())
    else:
        print(all_defaults() if key is None else explain(key))

"""The reference page holds every command, argument and option with a description."""

from typing import Any

import pytest
import typer

from llmrec.cli.app import COMMANDS, app
from llmrec.cli.reference import cli_reference_markdown

PAGE = cli_reference_markdown()


def shown_parameters() -> list[Any]:
    group: Any = typer.main.get_command(app)
    parameters = [(name, one) for name, command in group.commands.items() for one in command.params]
    return [pytest.param(one, id=f"{name} {one.name}") for name, one in parameters if not getattr(one, "hidden", False)]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_a_section(command: str) -> None:
    assert f"## `llmrec {command}`" in PAGE and f"[`llmrec {command}`](#llmrec-{command})" in PAGE


@pytest.mark.parametrize("parameter", shown_parameters())
def test_every_parameter_is_described_in_a_sentence(parameter: Any) -> None:
    assert parameter.help and parameter.help[0].isupper() and parameter.help.endswith(".")
    assert parameter.help.replace("|", "\\|") in PAGE
    takes_a_value = parameter.param_type_name == "argument" or not parameter.is_flag
    assert bool(parameter.metavar) == takes_a_value  # without a metavar, typer's own type names would be shown


def test_lines_of_the_page() -> None:
    for line in (
        "llmrec recommend [TITLE]... [OPTIONS]",
        "llmrec sft CONFIG [OPTIONS]",
        "| `CONFIG` | required | YAML config or run directory. |",
        "| `--top-k N` | `5` | Number of recommendations. |",
        "| `--titles / --no-titles` | `--titles` | Publish item titles, or item ids in their place. |",
        "| `--private` |  | Make a new repository private. |",
    ):
        assert line in PAGE.splitlines()
    assert "`--history`" not in PAGE and "`--history " not in PAGE and "--help |" not in PAGE


def test_table_cells_escape_the_separator() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert rows and all(row.replace("\\|", "").count("|") in (3, 4) for row in rows)

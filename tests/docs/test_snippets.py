"""The code blocks of README and guides: Python runs, commands parse, YAML validates."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from llmrec.cli.app import app
from llmrec.config import ABTestConfig, parse_config, parse_section
from tests.docs.markdown import ROOT, WRITTEN, Block, blocks, inline_code

PYTHON = [block for block in blocks("python") if block.not_run is None]
COMMANDS = [(block, line) for block in blocks("bash") for line in block.text.splitlines()]
# The changelog names commands of the past.
PAGES = [page for page in WRITTEN if page.name != "CHANGELOG.md"]
COMMAND = re.compile(r"(llmrec|python|bash|accelerate launch) ")
INLINE = sorted({(page.name, code) for page in PAGES for code in inline_code(page) if COMMAND.match(code)})
# What a config must have; blocks that show a part of one are completed with it.
STUB = {"name": "docs", "data": {"format": "table", "path": "events.csv", "items": "items.csv"}}
# Programs that pages name and that this test does not look into.
OTHER_PROGRAMS = {"curl", "docker", "serve", "tensorboard", "trackio", "ruff", "pyright", "mkdocs", "pre-commit"}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_blocks_run(block: Block, quickstart_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(quickstart_directory)
    exec(compile(block.text, str(block), "exec"), {"__name__": "snippet"})


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_blocks_are_configs(block: Block) -> None:
    values = yaml.safe_load(block.text)
    if "arms" in values:
        parse_section(values, ABTestConfig, str(block))
        return
    complete = "name" in values and "data" in values
    parse_config(values if complete else _merged(STUB, values), str(block))


def _merged(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(one[key], two[key]) for key in one.keys() & two.keys() if isinstance(two[key], dict)}
    return one | two | both


@pytest.mark.parametrize(("block", "line"), COMMANDS, ids=lambda value: str(value)[:60])
def test_shell_lines_name_what_exists(block: Block, line: str) -> None:
    for command in line.split("&&"):
        words = shlex.split(command, comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        if words:
            _check_command(words)


@pytest.mark.parametrize(("page", "code"), INLINE, ids=lambda value: value[:60])
def test_inline_commands_parse(page: str, code: str) -> None:
    _check_command(shlex.split(code))


def _check_command(words: list[str]) -> None:
    program, *arguments = words
    if program == "llmrec":
        _check_llmrec(arguments)
    elif program == "pip":
        _check_pip(arguments)
    elif program in ("bash", "python", "accelerate", "torchrun"):
        _check_paths(arguments)
    else:
        assert program in OTHER_PROGRAMS, f"what is {program}?"


def _check_llmrec(arguments: list[str]) -> None:
    """Parses arguments as `llmrec` does, without running the command. Values may be missing, names may not."""
    verb, *rest = ["3" if argument == "N" else argument for argument in arguments]
    commands = typer.main.get_group(app).commands
    assert verb in commands, f"there is no command {verb}"
    try:
        commands[verb].make_context(verb, rest)
    except Exception as error:  # typer has no public name for its errors
        if type(error).__name__ != "MissingParameter":
            raise


def _check_pip(arguments: list[str]) -> None:
    for argument in arguments:
        if found := re.search(r"^(?:\.|llmrec)\[(.+)\]", argument):
            assert set(found[1].split(",")) <= EXTRAS.keys(), argument


def _check_paths(arguments: list[str]) -> None:
    for argument in arguments:
        if re.match(r"(configs|scripts|benchmarks|research|tests|docs)/", argument):
            assert (ROOT / argument).exists(), argument

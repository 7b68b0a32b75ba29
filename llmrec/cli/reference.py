"""The reference page of the command line, rendered from the commands themselves."""

from collections.abc import Iterator
from typing import Any

import typer

from llmrec.cli.app import app

INTRODUCTION = """\
# Commands

`llmrec COMMAND --help` shows the same text in a terminal. `python -m llmrec` is the same as `llmrec`.

- **Output.** Tables and progress are for people. With `--json`, stdout holds JSON and nothing else.
- **Resuming.** A command that was interrupted continues when it is run again. Finished stages are skipped.
- **One process a run.** A command that runs stages locks the run directory. A second one ends at once and says which
  process holds the lock. Commands that only read (`list`, `report`, `diff`, `recommend`) work meanwhile.
- **Terminals.** Control characters, and characters that the encoding of stdout lacks, are printed as escapes. A table
  that is wider than the terminal is printed as one value a line.
- **Several processes.** `accelerate launch scripts/train_STAGE.py --config CONFIG` runs `sft`, `reward` or `ppo` in
  several processes, with the same messages, exit codes and `--json`.

| exit code | meaning |
|---|---|
| 0 | The command succeeded. |
| 1 | A bug in llmrec, or training produced impossible numbers. A traceback of a bug is printed. |
| 2 | A mistake in the arguments, the config or the data, or a limit of the machine: disk, permissions, memory, \
network. Set `LLMREC_TRACEBACK=1` to see the traceback. |
| 129 | The terminal was closed (SIGHUP). |
| 130 | Interrupted with Ctrl-C. |
| 141 | The reader of the output has ended, as in `llmrec --help \\| head -1`. |
| 143 | Terminated (SIGTERM). |
"""


def cli_reference_markdown() -> str:
    """Returns a Markdown page with every command, its arguments and its options."""
    commands = list(_commands(typer.main.get_command(app), "llmrec"))
    overview = ["| command | purpose |", "|---|---|"]
    overview += [f"| [`{name}`](#{name.replace(' ', '-')}) | {_cell(_paragraphs(one)[0])} |" for name, one in commands]
    sections = [_section(name, command) for name, command in commands]
    return "\n".join([INTRODUCTION, *overview, "", *sections])


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yields each command with its full name; groups contribute their subcommands only."""
    children = getattr(command, "commands", None)
    if children is None:
        yield name, command
        return
    for child, subcommand in children.items():
        if not subcommand.hidden:
            yield from _commands(subcommand, f"{name} {child}")


def _section(name: str, command: Any) -> str:
    parameters = [one for one in command.params if not getattr(one, "hidden", False)]
    arguments = [one for one in parameters if one.param_type_name == "argument"]
    usage = " ".join([name, *map(_argument_usage, arguments), "[OPTIONS]"])
    lines = [f"## `{name}`", "", "```bash", usage, "```", ""]
    for paragraph in _paragraphs(command):
        example = paragraph.removeprefix("Example: ")
        lines += [paragraph, ""] if example == paragraph else ["```bash", example, "```", ""]
    lines += ["| argument or option | default | description |", "|---|---|---|"]
    lines += [f"| {_name(one)} | {_default(one)} | {_cell(one.help or '')} |" for one in parameters]
    return "\n".join([*lines, ""])


def _paragraphs(command: Any) -> list[str]:
    """The help text of a command; its first paragraph says what the command does."""
    return [" ".join(paragraph.split()) for paragraph in (command.help or "").split("\n\n")]


def _argument_usage(argument: Any) -> str:
    name = _value_name(argument)
    usage = name if argument.required else f"[{name}]"
    return f"{usage}..." if argument.nargs == -1 else usage


def _name(parameter: Any) -> str:
    """The name as it is typed, with the name of its value: `--top-k N`."""
    if parameter.param_type_name == "argument":
        return f"`{_cell(_value_name(parameter))}`"
    names = " / ".join([*parameter.opts, *parameter.secondary_opts])
    return f"`{names}`" if parameter.is_flag else f"`{names} {_cell(_value_name(parameter))}`"


def _value_name(parameter: Any) -> str:
    return parameter.metavar or parameter.name.upper()


def _default(parameter: Any) -> str:
    """The default as a person would type it; `required` if there is none, and empty for switches that are off."""
    if parameter.required:
        return "required"
    if parameter.default is None or parameter.default is False or parameter.default == "":
        return ""
    return f"`{parameter.opts[0] if parameter.default is True else parameter.default}`"


def _cell(text: str) -> str:
    """Escapes the column separator of Markdown tables."""
    return text.replace("|", "\\|")

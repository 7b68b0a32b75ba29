"""The `llmrec` command: one subcommand per stage, `run` for all stages, and commands that use a trained model.

Results for people go to stdout as tables; with `--json`, stdout holds JSON and nothing else.
The commands import torch and transformers inside their functions, so `--help` and config errors are instant.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import llmrec
from llmrec.cli import (
    ab_test,
    agents,
    check_text,
    config,
    estimate,
    export,
    feedback,
    hub,
    learn,
    off_policy,
    privacy,
    recommend,
    serve,
    simulate,
    stages,
    versions,
)
from llmrec.cli.process import exit_with, fail


class CommandGroup(TyperGroup):
    """The group of all commands. It handles two errors for which typer would exit with code 1 and without a message."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Reads the arguments, and prints the help or the version if they ask for it."""
        try:
            return super().make_context(*arguments, **options)
        except BrokenPipeError as error:
            fail(error)

    def invoke(self, ctx: Any) -> Any:
        """Runs a command."""
        try:
            return super().invoke(ctx)
        except (BrokenPipeError, EOFError) as error:
            fail(error)


app = typer.Typer(
    cls=CommandGroup,
    help="Fine-tune a language model to recommend.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # main() formats errors
)

COMMANDS = {
    "run": stages.run_command,
    "prepare": stages.prepare_command,
    "sft": stages.sft_command,
    "reward": stages.reward_command,
    "ppo": stages.ppo_command,
    "evaluate": stages.evaluate_command,
    "report": stages.report_command,
    "recommend": recommend.recommend_command,
    "serve": serve.serve_command,
    "feedback": feedback.feedback_command,
    "learn": learn.learn_command,
    "versions": versions.versions_command,
    "config": config.config_command,
    "check-text": check_text.check_text_command,
    "estimate": estimate.estimate_command,
    "simulate": simulate.simulate_command,
    "agents": agents.agents_command,
    "off-policy": off_policy.off_policy_command,
    "ab-test": ab_test.ab_test_command,
    "privacy": privacy.privacy_command,
    "export": export.export_command,
    "push": hub.push_command,
    "list": hub.list_command,
    "diff": hub.diff_command,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"llmrec {llmrec.__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the `llmrec` command."""
    exit_with(app)

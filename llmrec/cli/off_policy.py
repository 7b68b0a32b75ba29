"""The command `off-policy`: the click rate of a policy, estimated from the log of another policy."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from llmrec.cli.options import JsonOption
from llmrec.cli.output import print_json, print_line
from llmrec.cli.process import reserve_stdout
from llmrec.errors import UserError
from llmrec.progress.console import console_for
from llmrec.run import Run


def off_policy_command(
    log: Annotated[
        Path,
        typer.Argument(
            metavar="LOG", help="Log of exposures with propensities: a config, a run or an Open Bandit directory."
        ),
    ],
    target_log: Annotated[
        Path | None, typer.Option(metavar="LOG", help="Evaluate the policy that produced this second log.")
    ] = None,
    run: Annotated[Path | None, typer.Option(metavar="DIR", help="Evaluate a model of this run.")] = None,
    model: Annotated[
        Literal["ppo", "sft", "reward"] | None,
        typer.Option(
            metavar="ppo|sft|reward",
            help="Model of --run to evaluate. By default the first of these that has finished.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Show the estimates even if the effective sample size is too small.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Estimate the click rate of a policy from the log of another policy.

    The command refuses with exit code 2 if the log holds too little data about the policy.
    """
    if (target_log is None) == (run is None):
        raise UserError("The policy to evaluate is unclear. Give --target-log LOG or --run DIR, exactly one of them.")
    if model is not None and run is None:
        raise UserError("--model selects a model of a run. Give --run DIR as well.")
    with reserve_stdout(as_json):
        from llmrec.off_policy.logged import off_policy_report, read_exposure_log, target_of_log, target_of_run

        exposures = read_exposure_log(log)
        if target_log is not None:
            target = target_of_log(exposures, read_exposure_log(target_log))
        else:
            assert run is not None  # exactly one of the two is given
            target = target_of_run(exposures, Run.open(run), model)
        report = off_policy_report(exposures, target, force)
    if as_json:
        print_json(report)
    else:
        print_off_policy(console_for(), report)
    if report["diagnostics"]["refusal"] and not force:
        raise UserError(report["diagnostics"]["refusal"])


def print_off_policy(console: Console, report: dict[str, Any]) -> None:
    """Prints the result of `llmrec.off_policy.logged.off_policy_report`: diagnostics of the weights, then estimates."""
    log, policy, diagnostics = report["log"], report["policy"], report["diagnostics"]
    for line in (
        f"policy: {policy['name']} ({policy['probabilities']})",
        f"log:    {log['name']}: {diagnostics['rounds']} rounds of {log['users']} users, "
        f"{diagnostics['clicks']} clicks",
        f"effective sample size {diagnostics['effective_sample_size']:.0f} "
        f"(at least {diagnostics['floor']:.0f} is needed), effective clicks {diagnostics['effective_clicks']:.1f}",
        f"importance weights: mean {diagnostics['mean_weight']:.3f} +- {diagnostics['mean_weight_error']:.3f} "
        f"(expected: 1), largest {diagnostics['max_weight']:.1f} ({diagnostics['max_share']:.1%} of the sum)",
        f"policy probability of items that the log never shows: {policy['outside_support']:.2%}",
    ):
        print_line(console, line)
    for warning in diagnostics["warnings"]:
        print_line(console, warning, style="yellow")
    if report["estimates"]:
        console.print(_estimates_table(report))


def _estimates_table(report: dict[str, Any]) -> Table:
    """One row an estimator, then the click rates that were observed."""
    untrusted = bool(report["diagnostics"]["refusal"])
    title = "clicks per exposure: value [95 % interval over users]"
    table = Table(
        title=f"NOT TO BE TRUSTED, forced. {title}" if untrusted else title,
        title_justify="left",
        title_style="bold red" if untrusted else None,
    )
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    observed = {"the log's own policy": report["log"]["click_rate"], "the policy's own log": report["on_policy"]}
    for name, rate in {**report["estimates"], **observed}.items():
        if rate:
            low, high = rate["ci95"]
            table.add_row(name, f"{rate['value']:.5f}", f"[{low:.5f}, {high:.5f}]", end_section=name == "switch_dr")
    return table

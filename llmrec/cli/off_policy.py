"""The command `off-policy`: the click rate of a policy, estimated from the log of another policy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from llmrec.cli.options import JsonOption
from llmrec.cli.output import print_json, print_line, print_table
from llmrec.cli.process import reserve_stdout
from llmrec.errors import UserError
from llmrec.progress.console import console_for
from llmrec.report.format import number
from llmrec.run import Run

if TYPE_CHECKING:
    from llmrec.off_policy.evaluate import OffPolicyReport


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
        raise UserError(
            "The policy to evaluate is not given, or given twice. Give --target-log LOG or --run DIR, exactly one of "
            "them."
        )
    if model is not None and run is None:
        raise UserError("--model selects a model of a run. Give --run DIR as well.")
    with reserve_stdout(as_json):
        from llmrec.off_policy.evaluate import off_policy_report
        from llmrec.off_policy.logs import read_exposure_log
        from llmrec.off_policy.policies import policy_of_log, policy_of_run

        exposures = read_exposure_log(log)
        if target_log is not None:
            target = policy_of_log(exposures, read_exposure_log(target_log))
        else:
            assert run is not None  # exactly one of the two is given
            target = policy_of_run(exposures, Run.open(run), model)
        report = off_policy_report(exposures, target, force)
    if as_json:
        print_json(report.as_json())
    else:
        print_off_policy(console_for(), report)
    if report.refusal and not force:
        raise UserError(report.refusal)


def print_off_policy(console: Console, report: "OffPolicyReport") -> None:
    """Prints the result of an off-policy evaluation: diagnostics of the weights, then the estimates."""
    log = report.log
    policy = report.policy
    found = report.diagnostics
    for line in (
        f"policy: {policy.name} ({policy.probabilities})",
        f"log:    {log.name}: {found.rounds} rounds of {log.users} users, {found.clicks} clicks",
        f"effective sample size {found.effective_sample_size:.0f} (at least {found.floor:.0f} is needed), "
        f"effective clicks {found.effective_clicks:.1f}",
        f"importance weights: mean {found.mean_weight:.3f} +- {found.mean_weight_error:.3f} (expected: 1), "
        f"largest {found.max_weight:.1f} ({found.max_share:.1%} of the sum)",
        f"policy probability of items that the log never shows: {policy.outside_support:.2%}",
    ):
        print_line(console, line)
    for warning in report.warnings:
        print_line(console, warning, style="yellow")
    if report.estimates:
        print_table(console, _estimates_table(report))


def _estimates_table(report: "OffPolicyReport") -> Table:
    """One row for each estimator, then the click rates that were observed."""
    untrusted = bool(report.refusal)
    title = "clicks per exposure: value [95 % interval over users]"
    table = Table(
        title=f"NOT TO BE TRUSTED, forced. {title}" if untrusted else title,
        title_justify="left",
        title_style="bold red" if untrusted else None,
    )
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    observed = {"the log's own policy": report.log.click_rate, "the policy's own log": report.on_policy}
    for name, estimate in {**report.estimates, **observed}.items():
        if estimate is not None:
            low, high = estimate.ci95
            bounds = f"[{number(low, 5)}, {number(high, 5)}]"
            table.add_row(name, number(estimate.value, 5), bounds, end_section=name == "switch_dr")
    return table

"""The command `ab-test`: plans an A/B test, assigns its users, and analyzes its exposure log."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmrec.cli.options import JsonOption
from llmrec.cli.output import print_json, print_line, print_table
from llmrec.cli.process import reserve_stdout
from llmrec.config import ABTestConfig, load_section
from llmrec.errors import UserError
from llmrec.files import write_json, write_with
from llmrec.progress.console import console_for
from llmrec.report.format import ABSENT, number, percent

if TYPE_CHECKING:
    from llmrec.ab_test.plan import Plan
    from llmrec.ab_test.results import ABTestReport


def ab_test_command(
    action: Annotated[
        Literal["plan", "assign", "analyze"],
        typer.Argument(
            metavar="plan|assign|analyze",
            help="What to do: compute users and days, assign users to arms, or analyze the exposure log.",
        ),
    ],
    test: Annotated[Path, typer.Argument(metavar="TEST", help="YAML file of the test.")],
    users: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Table with a column of user ids, whose users `assign` assigns."),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            metavar="DAY",
            formats=["%Y-%m-%d"],
            help="First day, in UTC, that `analyze` leaves out. By default it uses the whole log.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Plan an A/B test, assign its users, or analyze its exposure log.

    `analyze` refuses with exit code 2 if the arms do not have their shares of users.

    Example: llmrec ab-test analyze configs/ab_test_example.yaml
    """
    if (users is not None) != (action == "assign"):
        raise UserError(f"`{action}` {'needs --users FILE' if users is None else 'takes no --users'}. Correct it.")
    if until is not None and action != "analyze":
        raise UserError(f"`{action}` takes no --until. Leave it out.")
    config = load_section(test, ABTestConfig)
    if action == "plan":
        _plan(config, as_json)
    elif users is not None:
        _assign(config, users, as_json)
    else:
        _analyze(config, until, as_json)


def _plan(config: ABTestConfig, as_json: bool) -> None:
    with reserve_stdout(as_json):
        from llmrec.ab_test.log import read_events
        from llmrec.ab_test.plan import make_plan

        plan = make_plan(read_events(config), config)
    if as_json:
        print_json(plan.as_json())
    else:
        print_plan(console_for(), plan, config)


def _assign(config: ABTestConfig, users: Path, as_json: bool) -> None:
    with reserve_stdout(as_json):
        import pandas as pd

        from llmrec.ab_test.assignment import Assigner
        from llmrec.ab_test.log import read_user_ids
        from llmrec.ab_test.record import check_record, directory_of, write_record

        check_record(config)
        ids = read_user_ids(users, config)
        assigned = pd.DataFrame(Assigner(config).assign(ids))
        write_record(config)
        path = directory_of(config) / "assignments.csv"
        write_with(path, lambda file: assigned.to_csv(file, index=False))
        counts = {arm: int((assigned["arm"] == arm).sum()) for arm in config.arms}
    if as_json:
        print_json({"file": path, "users": counts})
    else:
        shown = ", ".join(f"{arm} {n:,} ({n / len(ids):.1%})" for arm, n in counts.items())
        print_line(console_for(), f"{path}: {len(ids):,} users: {shown}")


def _analyze(config: ABTestConfig, until: datetime | None, as_json: bool) -> None:
    with reserve_stdout(as_json):
        from llmrec.ab_test.analyze import analyze
        from llmrec.ab_test.enrollment import seconds_of
        from llmrec.ab_test.log import read_events
        from llmrec.ab_test.page import write_page, write_plot
        from llmrec.ab_test.record import check_record, directory_of, write_record
        from llmrec.files import plain

        check_record(config)
        report = analyze(read_events(config), config, None if until is None else seconds_of(until.date()))
        write_record(config)
        folder = directory_of(config)
        write_page(report, folder / "report.html")
        if any(one.interval for one in report.comparisons):
            write_plot(report, folder / "effect.png")
        write_json(folder / "report.json", plain(report.as_json()))
    if as_json:
        print_json(report.as_json())
    else:
        print_report(console_for(), report)
        print_line(console_for(), f"page: {folder / 'report.html'}")
    if report.refusal:
        raise UserError(report.refusal)


def print_plan(console: Console, plan: "Plan", config: ABTestConfig) -> None:
    """Prints what a test needs."""
    first, last = plan.history
    print_line(console, f"log: {plan.history_users:,} users from {first} to {last}")
    title = f"users of all arms for a relative change of {percent(config.minimum_effect)}, power {config.power:g}"
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    for column in ("baseline", "deviation", "CUPED", "effect", "one look", "every day, at most"):
        table.add_column(column, justify="right")
    for one in plan.metrics:
        table.add_row(
            f"{one.metric} ({one.role})",
            number(one.baseline, 4),
            number(one.deviation, 4),
            ABSENT if one.variance_reduction is None else percent(one.variance_reduction, 0),
            number(one.effect, 4),
            number(one.users_one_look),
            number(one.users_always_valid),
        )
    print_table(console, table)
    print_line(
        console,
        f"primary metric: {plan.days_one_look:.0f} days for one look, at most {plan.days_always_valid:.0f} for looks "
        f"on every day ({plan.new_users_a_day:,.0f} new users a day at the end of the log)",
    )
    print_line(console, f"Set `planned_users: {plan.planned_users}` before the test begins.")


def print_report(console: Console, report: "ABTestReport") -> None:
    """Prints the result of a test: users, then one table for each treatment arm."""
    from llmrec.ab_test.page import conclusion, facts, results_table

    for key, text in facts(report):
        print_line(console, f"{key}: {text}")
    for arm in report.decisions:
        shown = results_table(arm, report)
        table = Table(title=f"{shown.caption}; brackets hold the confidence sequence", title_justify="left")
        table.add_column(shown.corner)
        for column in shown.columns:
            table.add_column(column, justify="right")
        for row in shown.rows:
            cells = [Text(f"{cell.text}\n{cell.interval}".strip()) for cell in row.cells]
            table.add_row(row.heading.replace(" (", "\n("), *cells)
        print_table(console, table)
    for warning in report.warnings:
        print_line(console, warning, style="yellow")
    if report.decisions:
        print_line(console, conclusion(report), style="bold")

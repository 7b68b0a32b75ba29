"""The command `check-text`: what the catalogue says of texts about its items."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from llmrec.cli.options import JsonOption
from llmrec.cli.output import print_json, print_line
from llmrec.cli.process import reserve_stdout
from llmrec.progress.console import console_for
from llmrec.run import Run

COLORS = {"supported": "green", "contradicted": "red", "unverifiable": "yellow"}


def check_text_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory with prepared data.")],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON lines with `user_id`, `item_id` and `text`, such as reasons.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Check texts about items: which statements the catalogue supports, contradicts, or cannot verify.

    Example: llmrec check-text runs/quickstart reasons.jsonl
    """
    with reserve_stdout(as_json):
        opened = Run.open(run)
        opened.require("data")
        checked = _checked(opened, file)
    totals = Counter(claim["verdict"] for row in checked for claim in row["claims"])
    if as_json:
        print_json({"texts": len(checked), "statements": dict(totals), "checked": checked})
        return
    console = console_for(stderr=False)
    for row in checked:
        print_line(console, f"{row['user_id']}, {row['title']}: {row['text']}")
        for claim in row["claims"]:
            print_line(
                console, f"  {claim['verdict']}: {claim['text']} ({claim['kind']})", style=COLORS[claim["verdict"]]
            )
    counts = ", ".join(f"{totals[verdict]:,} {verdict}" for verdict in COLORS)
    wrong = sum(any(claim["verdict"] == "contradicted" for claim in row["claims"]) for row in checked)
    print_line(console, f"{len(checked):,} texts: {counts} statements; {wrong:,} texts with a contradicted one")


def _checked(run: Run, file: Path) -> list[dict[str, Any]]:
    """The texts of a file with their statements."""
    from llmrec.catalogue.item_table import ItemTable
    from llmrec.data.dataset import load_data
    from llmrec.language.checker import Checker
    from llmrec.language.reasons import read_reasons, seen_before

    data = load_data(run.path("data"))
    checker = Checker(ItemTable.from_data(data))
    rows: list[dict[str, Any]] = []
    for reason in read_reasons(file, data):
        claims = checker.check(reason.text, reason.item, seen_before(data, reason.user, reason.item))
        rows.append(
            {
                "user_id": data.users["user_id"].iloc[reason.user],
                "item_id": data.items["item_id"].iloc[reason.item],
                "title": data.items["title"].iloc[reason.item],
                "text": reason.text,
                "claims": [
                    {"text": reason.text[one.start : one.stop], "kind": one.kind, "verdict": one.verdict.value}
                    for one in claims
                ],
            }
        )
    return rows

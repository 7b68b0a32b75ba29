"""Warnings about rules of `data.drop` that leave out nothing, and about ids in two forms."""

from pathlib import Path

import pytest

from llmrec.data.check import check_config, check_file
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from tests.data.logs import config


def warnings_of(path: Path, rule: str) -> tuple[list[str], list[str]]:
    """Warnings of `prepare` and notes of the check about a log and a rule."""
    section = config(path=str(path), click=["interaction"], purchase=[], drop=[rule], min_user_events=3)
    card = build_data(read_log(section), section, seed=0).card
    return card["losses"]["warnings"], check_config(section).notes


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            "state==stornert",
            "No row meets the rule `state==stornert` of `data.drop`: `state` holds `ok` (80), `storniert` (10). Did "
            "you mean `storniert`?",
        ),
        ("gone", "No row meets the rule `gone` of `data.drop`: `gone` is empty."),
        ("quantity<0", "10 values of `quantity` are no number, such as `1-`, so the rule `quantity<0` of `data.drop`"),
        ("state==storniert", ""),
        ("number<5", ""),
    ],
)
def test_rules_that_leave_out_nothing_are_said(tmp_path: Path, rule: str, said: str) -> None:
    rows = [
        f"u{n % 5},i{n // 5},{1_600_000_000 + n},{'ok' if n % 9 else 'storniert'},{'1' if n % 9 else '1-'},{n},"
        for n in range(90)
    ]
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp,state,quantity,number,gone\n" + "\n".join(rows) + "\n")
    for texts in warnings_of(path, rule):
        found = [text for text in texts if "`data.drop`" in text]
        assert len(found) == bool(said) and all(text.startswith(said) for text in found)


def test_ids_in_two_forms_are_said(tmp_path: Path) -> None:
    """The second half of the log comes from a program that writes whole numbers with a fraction."""
    rows = [f"u{n % 5},{n % 6}{'.0' if n >= 45 else ''},{1_600_000_000 + n},x" for n in range(90)]
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp,note\n" + "\n".join(rows) + "\n")
    said = "6 ids of items occur in two forms, such as `0` and `0.0`, and count as two. Write one form."
    for texts in warnings_of(path, "note==y"):
        assert said in texts
    assert said in check_file(path).notes
    path.write_text("user_id,item_id,timestamp,note\n" + "\n".join(row.replace(".0,", ",") for row in rows) + "\n")
    assert not any("two forms" in text for texts in warnings_of(path, "note==y") for text in texts)

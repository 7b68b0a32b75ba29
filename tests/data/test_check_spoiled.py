"""`prepare --check`: returns that are no numbers, ids that a spreadsheet has shortened, names that no rule can hold."""

from pathlib import Path

import pytest

from llmrec.data.check import LogCheck, check_file
from tests.data.test_check_tables import run_command


def shop(directory: Path, header: str, rows: list[str]) -> LogCheck:
    """The check of a log of 5 users who each buy 12 items, with a last column."""
    path = directory / "log.csv"
    lines = [f"u{n % 5},i{n // 5},2023-01-{1 + n // 5:02},{last}" for n, last in enumerate(rows)]
    path.write_text(f"customer,sku,date,{header}\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return check_file(path)


@pytest.mark.parametrize(("written", "shown"), [("2-", "2-"), ("(2)", "(2)"), ("\N{MINUS SIGN}2", "\N{MINUS SIGN}2")])
def test_returns_that_are_no_numbers_get_a_command(tmp_path, written, shown):
    check = shop(tmp_path, "quantity", [written if n % 6 == 0 else "1" for n in range(60)])
    (note,) = [one for one in check.notes if "is no number" in one]
    assert note.startswith(f"`quantity` has `{shown}` and the like in 16.7% of the rows")
    assert {one.name: one.use for one in check.columns}["quantity"] == "none, but rules can compare 83% of its values"
    run_command(note)
    again = check_file(tmp_path / "log-numbers.csv")
    assert again.config is not None and again.config["data"]["drop"] == ["quantity<=0"]
    assert not any("is no number" in one for one in again.notes)


def test_numbers_get_no_command(tmp_path):
    check = shop(tmp_path, "quantity", ["-2" if n % 6 == 0 else "1.5" for n in range(60)])
    assert not any("is no number" in one for one in check.notes)


def test_ids_that_a_spreadsheet_has_shortened_are_said_and_repeat_nothing(tmp_path):
    path = tmp_path / "log.csv"
    rows = [f"u{n % 5},4.0012{n % 2}E+12,{1_600_000_000 + n * 900}" for n in range(60)]
    path.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    check = check_file(path)
    said = "`item_id` has numbers that a spreadsheet has shortened, such as `4.00120E+12`, in 100% of the rows"
    assert any(note.startswith(said) for note in check.notes)
    assert check.config is None or "repeats" not in check.config["data"]


def test_a_state_with_an_operator_in_its_name_is_renamed(tmp_path):
    check = shop(tmp_path, "Status: (>=1)", ["storniert" if n % 6 == 0 else "bezahlt" for n in range(60)])
    (note,) = [one for one in check.notes if "has an operator" in one]
    run_command(note)
    again = check_file(tmp_path / "log-renamed.csv")
    assert again.config is not None and again.config["data"]["drop"] == ["Status==storniert"]

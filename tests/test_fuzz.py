"""The fuzz driver: generated logs are prepared or refused, and planted faults are counted."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import fuzz
from benchmarks.fuzz import Log, Outcome, outcome_of
from llmrec.data import prepare

ROWS = [{"user_id": f"u{n // 4}", "item_id": f"i{n % 4}", "timestamp": str(10**9 + n * 86400)} for n in range(12)]
ITEMS = [{"item_id": f"i{n}", "title": f"Film {n}"} for n in range(4)]


def log(rows: int | None = 12, **data: Any) -> Log:
    files = {"events.csv": fuzz.written(ROWS, "comma", "utf-8"), "items.csv": fuzz.written(ITEMS, "comma", "utf-8")}
    section = {"format": "table", "path": "events.csv", "items": "items.csv", "splits": ["leave_one_out"],
               "click": ["interaction"], "purchase": []}  # fmt: skip
    return Log(files, section | data, rows)


def test_a_log_is_prepared_or_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert outcome_of(log(), tmp_path / "a") == Outcome("prepared")
    refused = outcome_of(log(click=["view"]), tmp_path / "b")
    assert refused.kind == "refused" and "names an event type that the log" in refused.about


@pytest.mark.parametrize("rows", [11, 13])
def test_rows_that_are_not_counted_are_a_loss(tmp_path: Path, rows: int) -> None:
    found = outcome_of(log(rows), tmp_path)
    assert found == Outcome("loss", f"events read are {'more' if rows == 11 else 'fewer'} than the rows of the file")


def test_events_without_a_reason_are_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repeated = {"events.csv": fuzz.written([*ROWS, ROWS[0]], "comma", "utf-8")}
    thirteen = replace(log(13), files=log().files | repeated)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert outcome_of(thirteen, tmp_path / "a") == Outcome("prepared")
    count_losses = prepare.count_losses
    monkeypatch.setattr(prepare, "count_losses", lambda log, data, rules, config: count_losses(log, data, {}, config))
    assert outcome_of(thirteen, tmp_path / "b").kind == "loss"


def test_an_exception_and_a_hang_are_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    def endless(*arguments: object) -> None:
        while True:
            time.sleep(0.01)

    for name, function, kind in (("a", broken, "traceback"), ("b", endless, "hang")):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(prepare, "build_data", function)
        found = outcome_of(log(), tmp_path / name, seconds=0.5)
        assert found.kind == kind and "prepare.py" in found.about


def test_the_command_counts_and_keeps_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "LOGS_PER_ROUND", 5)
    app = typer.Typer()
    app.command()(fuzz.main)
    done = CliRunner().invoke(app, ["--minutes", "0", "--json"])
    tally = json.loads(done.stdout)
    assert sum(tally["counts"].values()) == 5 and done.exit_code == (1 if tally["faults"] else 0)

    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(prepare, "read_log", broken)
    tally = fuzz.fuzz(0, seed=0, keep=tmp_path)
    assert tally.counts == {"traceback": 5} and len(tally.faults) == 1
    assert json.loads((tmp_path / "fault-1" / "fault.json").read_text())["fault"].startswith("traceback")

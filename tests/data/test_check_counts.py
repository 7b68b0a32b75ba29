"""`prepare --check`: how much it read, events in the future, and more bad rows than a config allows."""

import pandas as pd
import pytest

from llmrec.config import DataConfig, parse_config
from llmrec.data.check import check_config, check_file

ROWS = [(f"u{n % 7}", f"i{n % 11}", 1_600_000_000 + 90_000 * n) for n in range(77)]
HEADER = "user_id,item_id,timestamp\n"
FUTURE = 4_000_000_000  # 2096-10-02


def test_all_parts_of_a_known_data_set_are_read(tmp_path, monkeypatch):
    for part, rows in (("train", ROWS[:60]), ("valid", ROWS[60:70]), ("test", ROWS[70:])):
        header = "user_id:token\titem_id:token\ttimestamp:float\n"
        (tmp_path / f"set.{part}.inter").write_text(header + "".join(f"{u}\t{i}\t{t}\n" for u, i, t in rows))
    check = check_file(tmp_path)
    assert check.outcome.startswith("77 events, 77 clicks") and "All 77 events were read." in check.notes
    assert "All 77 events were read." in check_config(parse_config(check.config).data).notes
    monkeypatch.setattr("llmrec.data.check.outcome.MOST_EVENTS", 65)
    check = check_file(tmp_path)
    assert check.outcome.startswith("70 events") and any("Only the first 70 events were read" in n for n in check.notes)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([FUTURE], "1 event is in the future, on 2096-10-02 (log.csv, line 79)."),
        ([FUTURE, FUTURE - 86_400], "2 events are in the future, the last on 2096-10-02 (log.csv, line 79)."),
    ],
)
def test_events_in_the_future_are_said(tmp_path, times, said):
    rows = [*ROWS, *((f"u{n}", "i10", time) for n, time in enumerate(times))]
    (tmp_path / "log.csv").write_text(HEADER + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    check = check_file(tmp_path / "log.csv")
    assert any(note.startswith(said) for note in check.notes) and "bad_rows" not in check.config["data"]


def test_more_bad_rows_than_a_config_allows_are_said(tmp_path):
    """39 of 77 times are none, one more than half."""
    rows = [(u, i, t if n < 38 else "never") for n, (u, i, t) in enumerate(ROWS)]
    (tmp_path / "log.csv").write_text(HEADER + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    values = {"format": "table", "path": str(tmp_path / "log.csv"), "click": ["interaction"], "purchase": []}
    values["bad_rows"] = "skip"
    found = "`prepare` refuses such a log: 39 of 77 rows (50.6%) cannot be used"
    assert any(note.startswith(found) for note in check_config(DataConfig(**values)).notes)
    allowed = check_config(DataConfig(**values, bad_rows_limit=0.6))
    assert not any("refuses" in note for note in allowed.notes)


def test_days_that_are_months_as_well_do_not_decide_the_format(tmp_path):
    """The first 1,000 rows are of days up to the twelfth."""
    days = pd.date_range("2024-02-01", periods=3_000, freq="10min")
    rows = "".join(f"u{n % 40},i{n // 40},{day:%d/%m/%Y %H:%M}\n" for n, day in enumerate(days))
    (tmp_path / "log.csv").write_text(f"user_id,item_id,timestamp\n{rows}u1,a/b,31/31/2024 00:00\n")
    check = check_file(tmp_path / "log.csv")
    assert check.config is not None and check.config["data"]["timestamp_format"] == "%d/%m/%Y %H:%M"
    assert any(note.endswith("such as log.csv, line 3002: '31/31/2024 00:00'.") for note in check.notes), check.notes

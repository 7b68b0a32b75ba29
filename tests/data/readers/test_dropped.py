"""Rows that `data.drop` leaves out, and columns that `data.columns` does not read."""

import pytest
from pydantic import ValidationError

from llmrec.data.check import check_config
from llmrec.data.losses import share_text
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.errors import ConfigError, DataError
from tests.data.logs import config, events_of, read_all

LOG = """user_id,item_id,timestamp,Order Status,Menge,gone
u1,a,1600000000,paid,"1,5",
u1,,1600000001,Refunded,1,
u1,c,1600000002,refunded,2,
u1,d,1600000003,on hold,"-1,0",
u1,e,1600000004,,1,2020-01-01
u1,f,1600000005,,,
"""


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        (["Order Status==REFUNDED"], "adef"),  # in any case; the row without an item is dropped before it is read
        (["Order Status!=paid"], "aef"),  # a missing value matches no rule
        (["Order Status==on hold", "Order Status == refunded"], "aef"),
        (["Menge<0", "Order Status==Refunded"], "aef"),  # decimal commas
        (["gone", "Order Status==Refunded"], "adf"),  # any value
    ],
)
def test_rows_are_dropped_before_they_are_read(tmp_path, rules, kept):
    (tmp_path / "log.csv").write_text(LOG)
    log = read_all(config(path=str(tmp_path / "log.csv"), drop=rules))
    assert "".join(events_of(log)["item_id"]) == kept
    assert "".join(log.items["item_id"]) == kept  # an item that was only returned is none
    counts = {reason: loss.count for reason, loss in log.event_source.losses.items()}
    assert sum(counts.values()) == 6 - len(kept) and set(counts) <= {f"dropped by `{rule}`" for rule in rules}


def test_dropped_rows_are_no_bad_rows(tmp_path):
    """They count for no limit and no warning."""
    rows = [f"u{n % 5},i{n // 5},{1_600_000_000 + n},{'void' if n % 3 else 'paid'}" for n in range(90)]
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp,state\n" + "\n".join(rows) + "\n")
    values = {"path": str(tmp_path / "log.csv"), "click": ["interaction"], "purchase": [], "drop": ["state==void"]}
    section = config(**values, bad_rows="skip", bad_rows_limit=0.01, min_user_events=3)
    card = build_data(read_log(section), section, seed=0).card
    assert card["events"] == 30 and card["losses"]["events_left_out"] == {"dropped by `state==void`": 60}
    assert not any("left out" in text for text in card["losses"]["warnings"])
    assert "60 rows are dropped by `state==void`." in check_config(section).notes


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("Ordr Status==paid", r"needs a column `Ordr Status`; .* Did you mean `Order Status`\?"),
        ("Menge<few", r"cannot read the rule `Menge<few`; expected COLUMN OPERATOR NUMBER"),
        ("==paid", "cannot read the rule"),
        ("Menge<=>0", "cannot read the rule"),
    ],
)
def test_rules_that_cannot_be_used(tmp_path, rule, message):
    (tmp_path / "log.csv").write_text(LOG)
    with pytest.raises(ConfigError, match=message):
        read_all(config(path=str(tmp_path / "log.csv"), drop=[rule]))


def test_other_formats_have_no_rules_of_this_kind():
    with pytest.raises(ValidationError, match=r"data.drop is .* expected it with data.format `table`"):
        config(format="recbole", drop=["rating<1"])


def test_a_column_that_the_config_does_not_read(tmp_path):
    """`null` leaves a column unread that has one of llmrec's names; without it, the column is read."""
    rows = [f"u1,i{n},{1_600_000_000 + n},{n + 0.5}" for n in range(4)]
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp,position\n" + "\n".join(rows) + "\n")
    values = {"path": str(tmp_path / "log.csv"), "click": ["interaction"], "purchase": []}
    with pytest.raises(DataError, match=r"line 2: `position` is '0.5' .*a whole number from 0 on.*position: null`"):
        read_all(config(**values))
    section = config(**values, columns={"position": None})
    assert "position" not in events_of(read_all(section))
    assert len(build_data(read_log(section), section, seed=0).exposures) == 0
    with pytest.raises(DataError, match="no column `rank`"):
        read_all(config(**values, columns={"position": "rank"}))


def test_rows_that_contradict_earlier_ones_are_said(tmp_path):
    rows = [f"u1,i{n},{1_600_000_000 + n}" for n in range(4)]
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    titles = "".join(f"i{n},Film {n}\n" for n in range(4))
    (tmp_path / "items.csv").write_text(f"item_id,title\n{titles}i1,Other\ni1,Third\n")
    values = {"path": str(tmp_path / "log.csv"), "items": str(tmp_path / "items.csv"), "click": ["interaction"]}
    section = config(**values, purchase=[], bad_rows="skip")
    data = build_data(read_log(section), section, seed=0)
    (warning,) = data.card["losses"]["warnings"]
    assert warning == (
        "2 rows of the table of items are left out, because an earlier row says something else of the same id, such as "
        "items.csv, line 6: 'i1'. The first row counts. Correct the table."
    )


def test_shares_have_the_digits_that_they_need():
    assert [share_text(one) for one in (0.0004, 0.0123, 0.5, 0.506, 1.0)] == ["0.04%", "1.23%", "50%", "50.6%", "100%"]


def test_a_small_limit_is_printed(tmp_path):
    rows = [f"u1,i{n},{'never' if n == 7 else 1_600_000_000 + n}" for n in range(2000)]
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    values = {"path": str(tmp_path / "log.csv"), "click": ["interaction"], "purchase": []}
    section = config(**values, bad_rows="skip", bad_rows_limit=0.0004)
    with pytest.raises(DataError, match=r"1 of 2,000 rows \(0.05%\) .*expected at most 0.04%"):
        build_data(read_log(section), section, seed=0)
    assert any("(0.05%) cannot be used" in one and "allows (0.04%)" in one for one in check_config(section).notes)

"""`prepare --check`: kinds of events that come late in the file, what their names mean, and repeats."""

import gzip
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from llmrec.config import DataConfig, parse_config
from llmrec.data.check import LogCheck, check_config, check_file, files, spread
from llmrec.data.check.kind_names import is_purchase, shows_interest
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.errors import ConfigError, DataError

HEAD = 60  # lines that the check reads in these tests
COLUMNS = {"user_id": "visitor", "item_id": "sku", "timestamp": "ts", "event_type": "action"}


@pytest.fixture(autouse=True)
def few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LINES", HEAD)


def sorted_log(directory: Path, suffix: str, text: str = "") -> Path:
    """A log sorted by kind: 120 views, then 30 purchases and 2 cancellations."""
    actions = ["view"] * 120 + ["buy"] * 30 + ["order_cancelled"] * 2
    rows = [
        {"visitor": f"u{n % 6}", "sku": f"i{n // 6}", "action": action, "ts": 1_600_000_000 + n * 900, "text": text}
        for n, action in enumerate(actions)
    ]
    frame = pd.DataFrame(rows if text else [{k: v for k, v in row.items() if k != "text"} for row in rows])
    path = directory / f"log{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path, index=False)
    elif suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        content = frame.to_csv(index=False).encode()
        path.write_bytes(gzip.compress(content) if suffix == ".csv.gz" else content)
    return path


def section(path: Path, purchase: str = "buy") -> DataConfig:
    data = {"format": "table", "path": str(path), "columns": COLUMNS, "click": ["view"], "purchase": [purchase]}
    return DataConfig.model_validate(data | {"min_user_events": 3})


def prepared(check: LogCheck):
    """The data that the suggested config gives."""
    assert check.config is not None, check.notes
    config = parse_config(json.loads(json.dumps(check.config)))
    return build_data(read_log(config.data), config.data, seed=0)


# --- kinds further on -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl", ".parquet"])
def test_kinds_after_the_first_lines_get_rules(tmp_path, suffix):
    check = check_file(sorted_log(tmp_path, suffix))
    assert check.config is not None and check.rows <= HEAD + 1
    assert (check.config["data"]["click"], check.config["data"]["purchase"]) == (["buy", "view"], ["buy"])
    use = next(one.use for one in check.columns if one.name == "action")
    assert use == "event_type: view 79%, buy 20%, order_cancelled 1%"  # 120, 30 and 2 of 152
    assert any("lack `buy`, which occurs only after the rows that were read" in note for note in check.notes)
    assert not any("Kinds further on" in note or "blocks" in note for note in check.notes)
    assert prepared(check).card["purchase_events"] == 30


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("text", ["", 'a "quoted", text\n1,2,view,x\nof lines, of text'])
def test_a_large_file_is_read_in_blocks(tmp_path, monkeypatch, suffix, text):
    """Lines inside a quoted field are no rows, whatever they hold."""
    monkeypatch.setattr(spread, "WHOLE", 0)
    monkeypatch.setattr(spread, "BLOCK", 400)
    monkeypatch.setattr(spread, "BLOCKS", 16)
    check = check_file(sorted_log(tmp_path, suffix, text))
    assert check.config is not None
    assert check.config["data"]["click"] == ["buy", "view"] and check.config["data"]["purchase"] == ["buy"]
    assert any("in 16 blocks spread over the file" in note for note in check.notes)
    assert any("No rule names the kinds `order_cancelled`" in note for note in check.notes)  # the last two lines


def test_a_row_of_several_lines_is_not_cut(tmp_path):
    """The first lines end inside a quoted field, whose row is read whole, and more rows follow."""
    check = check_file(sorted_log(tmp_path, ".csv", "1\n2\n3\n4\n5\n6\n7"))
    assert check.config is not None and check.config["data"]["purchase"] == ["buy"]
    assert check.rows == 9 and any(
        "lack `buy`" in note for note in check.notes
    )  # of 60 lines, the last ones are 4 of 7


def test_a_file_that_ends_too_early_gets_no_config(tmp_path):
    path = sorted_log(tmp_path, ".csv.gz")
    path.write_bytes(path.read_bytes()[:-40])  # far behind the first lines
    with pytest.raises(DataError, match=r"log.csv.gz.*ended before"):
        check_file(path)


def test_a_damaged_parquet_file_gets_no_config(tmp_path):
    frame = pd.read_csv(sorted_log(tmp_path, ".csv"))
    path = tmp_path / "log.parquet"
    frame.to_parquet(path, index=False, row_group_size=HEAD, compression="snappy")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * 40)
    with pytest.raises(DataError, match=r"log.parquet"):
        check_file(path)


def test_kinds_that_were_not_looked_for_are_said(tmp_path, monkeypatch):
    """A large compressed file is not read to its end: the check and `prepare` say what that means."""
    monkeypatch.setattr(spread, "WHOLE_COMPRESSED", 0)
    path = sorted_log(tmp_path, ".csv.gz")
    check = check_file(path)
    assert check.config is not None and check.config["data"]["purchase"] == []
    assert any("Kinds further on are unknown. `prepare` warns about" in note for note in check.notes)
    (warning,) = [one for one in prepared(check).card["losses"]["warnings"] if "No rule matches" in one]
    assert "event types `buy` (30), `order_cancelled` (2). Add those" in warning
    notes = check_config(section(path, "sold")).notes
    assert any("No event of the kind `sold` was found" in note for note in notes)


def test_a_config_with_rules_for_kinds_further_on_is_good(tmp_path):
    check = check_config(section(sorted_log(tmp_path, ".csv")))
    assert f"{HEAD} events, {HEAD} clicks, 0 purchases" in check.outcome
    assert check.notes == [
        "These counts lack `buy`, which occurs only after the rows that were read.",
        "No rule matches the kinds `order_cancelled` (2). Add those that are clicks to `data.click`.",
    ]
    with pytest.raises(ConfigError, match=r"rule `bay` names an event type .* buy, order_cancelled, view. Did you"):
        check_config(section(tmp_path / "log.csv", "bay"))


def test_a_comparison_with_numbers_further_on_is_good(tmp_path):
    """The first rows have no rating, which `prepare` accepts, as long as others have one."""
    path = sorted_log(tmp_path, ".csv")
    frame = pd.read_csv(path)
    frame.assign(stars=[float("nan")] * 120 + [4.0] * 32).to_csv(path, index=False)
    assert any("no number in these rows" in note for note in check_config(section(path, "stars>=4")).notes)
    assert build_data(read_log(section(path, "stars>=4")), section(path, "stars>=4"), seed=0).card["purchases"] == 32
    frame.assign(stars=None).head(HEAD - 5).to_csv(path, index=False)
    with pytest.raises(ConfigError, match="holds no numbers"):
        check_config(section(path, "stars>=4"))


def test_many_different_values_are_no_kinds(tmp_path):
    path = sorted_log(tmp_path, ".csv")
    frame = pd.read_csv(path)
    frame.loc[120:, "action"] = [f"a{n}" for n in range(32)]
    pd.concat([frame, frame[120:].assign(action=[f"b{n}" for n in range(32)])]).to_csv(path, index=False)
    check = check_file(path)
    assert check.config is not None and check.config["data"]["click"] == ["view"]
    assert any("`action` has 65 different values in the file" in note for note in check.notes)


# --- names of kinds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["order", "Order Completed", "preorder", "purchases", "buy_now", "PAID", "transaction"]
)
def test_names_of_purchases(kind):
    assert is_purchase(kind) and shows_interest(kind)


@pytest.mark.parametrize(
    "kind",
    ["view", "border_view", "add_to_cart", "addtocart", "begin_checkout", "CheckoutStarted", "view_order", "on_sale"]
    + ["note_added", "unique_view", "notebook_opened", "download", "Like"],
)
def test_names_of_clicks(kind):
    assert shows_interest(kind) and not is_purchase(kind)


@pytest.mark.parametrize(
    "kind",
    ["order_cancelled", "OrderCanceled", "ordercancelled", "purchase_refunded", "reorder_reminder_sent", "return"]
    + ["not_interested", "notInterested", "notinterested", "didn't_buy", "unlike", "unsubscribe", "payment_failed"]
    + ["cart_abandoned", "remove_from_cart", "removefromcart", "dislike", "skip", "impression", "un_purchased"],
)
def test_names_without_interest(kind):
    assert not shows_interest(kind) and not is_purchase(kind)


def test_kinds_without_interest_get_no_rule(tmp_path):
    path = sorted_log(tmp_path, ".csv")
    frame = pd.read_csv(path)
    frame["action"] = ["view", "not_interested", "order", "order_cancelled"] * 38
    frame.to_csv(path, index=False)
    check = check_file(path)
    assert check.config is not None
    assert (check.config["data"]["click"], check.config["data"]["purchase"]) == (["order", "view"], ["order"])
    (note,) = [note for note in check.notes if note.startswith("No rule names")]
    assert re.findall("`(.*?)`", note) == ["not_interested", "order_cancelled", "data.click"]
    frame.assign(action="impression").to_csv(path, index=False)
    check = check_file(path)
    assert check.config is not None and check.config["data"]["click"] == ["impression"]
    assert any("names of all kinds of events, `impression`, show no interest" in note for note in check.notes)


# --- repeats --------------------------------------------------------------------------------------------


def groceries(directory: Path, products: int) -> Path:
    """Five users each buy one of some products a day, in turn, for ten days."""
    path = directory / "log.csv"
    rows = [f"u{user},p{day % products},2023-01-{10 + day}" for day in range(10) for user in range(5)]
    path.write_text("customer,product,date\n" + "\n".join(rows) + "\n")
    return path


def test_a_log_of_repeats_keeps_them(tmp_path):
    check = check_file(groceries(tmp_path, 4))
    assert check.config is not None and check.config["data"]["repeats"] == "keep"
    assert any("60% of the clicks repeat an earlier one" in note for note in check.notes)  # 4 of 10 are first ones
    assert "50 events, 50 clicks, 0 purchases, 50 clicks in histories, repeats among them" in check.outcome
    assert "5 of 5 users have 3 or more clicks" in check.outcome
    assert prepared(check).card["clicks"] == 50
    again = check_config(parse_config(check.config).data)
    assert again.outcome == check.outcome


def test_half_of_repeats_are_left_out(tmp_path):
    check = check_file(groceries(tmp_path, 5))
    assert check.config is not None and "repeats" not in check.config["data"]
    assert "25 pairs of user and item; 5 of 5 users have 3 or more items" in check.outcome
    said = "50% of the clicks repeat an earlier one of the same user and item, and only the first ones count"
    assert any(note.startswith(said) for note in check.notes)


def test_repeats_in_the_first_rows_of_a_longer_log_may_be_more(tmp_path):
    """15 users take 3 items each and begin again, so that 15 of the first 60 rows repeat."""
    rows = "".join(f"u{n % 15},i{n // 15 % 3},{1_500_000_000 + n}\n" for n in range(2 * HEAD))
    (tmp_path / "log.csv").write_text(f"user_id,item_id,timestamp\n{rows}")
    (note,) = [one for one in check_file(tmp_path / "log.csv").notes if "repeat an earlier one" in one]
    assert note.startswith("25% of the clicks") and "The whole log may repeat more of them" in note


def test_a_view_and_a_purchase_of_one_item_are_no_repeat(tmp_path):
    path = groceries(tmp_path, 4)
    frame = pd.read_csv(path)
    frame["product"] = [f"p{n // 15}" for n in range(50)]
    frame["event"] = [["view", "cart", "buy"][n // 5 % 3] for n in range(50)]
    frame.to_csv(path, index=False)
    check = check_file(path)
    assert check.config is not None and "repeats" not in check.config["data"]


def test_purchases_that_were_not_read_do_not_repeat(tmp_path):
    """A log sorted by kind, whose purchases lie beyond the first rows."""
    views = "".join(f"u{n % 50},i{n // 50},{1_500_000_000 + n},view\n" for n in range(11_000))
    buys = "".join(f"u{n % 50},i{n // 50},{1_600_000_000 + n},buy\n" for n in range(500))
    (tmp_path / "log.csv").write_text(f"user_id,item_id,timestamp,event_type\n{views}{buys}")
    check = check_file(tmp_path / "log.csv")
    assert check.config is not None and check.config["data"]["purchase"] == ["buy"]
    assert "repeats" not in check.config["data"] and not any("repeat an earlier" in note for note in check.notes)

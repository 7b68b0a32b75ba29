"""`prepare --check`: roles of columns, and a suggested config that works as it is."""

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from llmrec.config import parse_config
from llmrec.data.check import check_config, check_file
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.errors import DataError

ACTIONS = ["view", "add_to_cart", "remove_from_cart", "order"]


def shop(directory: Path, log: str = "orders.csv", separator: str = ",", encoding: str = "utf-8", **renamed) -> Path:
    """A log of a shop, with a table of its products and one of its customers."""
    rows = [
        {
            "customer": f"ç{n % 7}",
            "sku": f"{n % 11}",
            "created_at": f"{1 + n % 28:02}/09/2020 12:{n % 60:02}",
            "action": ACTIONS[n % 4],
            "amount": str(n / 2),
        }
        for n in range(300)
    ]
    frame = pd.DataFrame(rows).rename(columns=renamed)
    tables = {
        log: frame,
        "products.csv": pd.DataFrame({"sku": range(11), "title": [f"Café {n}" for n in range(11)]}),
        "customers.csv": pd.DataFrame({"customer": [f"ç{n}" for n in range(7)], "country": "DE"}),
    }
    for name, table in tables.items():
        (directory / name).write_bytes(table.to_csv(index=False).replace(",", separator).encode(encoding))
    return directory / log


def prepared(check):
    """The data that the suggested config gives."""
    config = parse_config(json.loads(json.dumps(check.config)))
    return build_data(read_log(config.data), config.data, seed=0)


@pytest.mark.parametrize(("separator", "encoding"), [(",", "utf-8"), (";", "utf-8"), ("::", "utf-8"), ("\t", "cp1252")])
def test_an_unknown_log_gets_a_config_that_works(tmp_path, separator, encoding):
    check = check_file(shop(tmp_path, separator=separator, encoding=encoding))
    data = check.config["data"]
    assert data["columns"] == {
        "user_id": "customer",
        "item_id": "sku",
        "timestamp": "created_at",
        "event_type": "action",
    }
    assert (Path(data["items"]).name, Path(data["users"]).name) == ("products.csv", "customers.csv")
    assert data["click"] == ["add_to_cart", "order", "view"] and data["purchase"] == ["order"]
    assert data["timestamp_format"] in ("%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M")
    assert data.get("encoding") == (encoding if encoding != "utf-8" else None)
    result = prepared(check)
    assert (result.num_users, result.num_items) == (7, 11)
    assert result.card["purchase_events"] == 75
    assert result.items["title"].iloc[0] == "Café 0" and result.users["country"].iloc[0] == "DE"


def test_a_log_in_european_style_gets_a_config_that_works(tmp_path):
    """Semicolons, decimal commas, days before months, and products whose numbers were written as floats."""
    stars = [f"{1 + n % 9 // 2},{n % 9 % 2 * 5}" for n in range(300)]  # 1,0 to 5,0
    rows = [f"K{n % 7};{n % 11};{1 + n % 28:02}.09.2020 12:{n % 60:02};{stars[n]}" for n in range(300)]
    log = tmp_path / "bewertungen.csv"
    log.write_text("customer;article;date;stars\n" + "\n".join(rows) + "\n")
    (tmp_path / "artikel.csv").write_text("article;title\n" + "".join(f"{n},0;Pfanne {n}\n" for n in range(11)))
    check = check_file(log)
    assert check.config["data"]["timestamp_format"] == "%d.%m.%Y %H:%M"
    assert check.config["data"]["purchase"] == ["rating>=4"]
    assert {one.name: one.use for one in check.columns}["stars"] == "rating: 1 to 5"
    card = prepared(check).card
    assert (card["events"], card["items"]) == (300, 11) and card["losses"]["ids_without_fraction"] == {
        "items.article": 11
    }


def test_numbers_that_can_be_read_in_two_ways_are_said(tmp_path):
    path = shop(tmp_path, separator=";")
    path.write_text("".join(line + (";1,234\n" if n else ";fee\n") for n, line in enumerate(path.read_text().split())))
    check = check_file(path)
    assert any("numbers have a comma" in note and "`data.decimal`" in note for note in check.notes)


def test_each_column_is_described(tmp_path):
    columns = {one.name: one for one in check_file(shop(tmp_path)).columns}
    assert columns["customer"].use == "user_id: 7 different"
    assert columns["created_at"].use.endswith("2020-09-01 12:00 to 2020-09-28 12:55")
    assert columns["action"].use.startswith("event_type: view 25%")
    assert columns["amount"].use == "none, but rules can compare it"
    assert columns["sku"].examples == ["0", "1", "2"] and columns["sku"].missing == 0


def test_ratings_make_rules(tmp_path):
    path = shop(tmp_path)
    frame = pd.read_csv(path).rename(columns={"created_at": "time"}).drop(columns=["action", "amount"])
    frame.assign(stars=[1 + n % 5 for n in range(300)], time=range(10**9, 10**9 + 300)).to_parquet(
        tmp_path / "log.parquet", index=False
    )
    path.unlink()
    check = check_file(tmp_path / "log.parquet")
    assert (check.config["data"]["click"], check.config["data"]["purchase"]) == (["rating>=1"], ["rating>=4"])
    assert prepared(check).num_users == 7


@pytest.mark.parametrize(
    ("columns", "click", "purchase", "clicks"),
    [
        (("is_click", "buy"), ["is_click==1"], ["buy==1"], 180),  # 150 and 60, of which 30 are both
        (("is_click", "stars"), ["is_click==1"], [], 150),
        (("shown", "purchased"), ["interaction"], ["purchased==1"], 300),
    ],
)
def test_columns_of_0_and_1_make_rules(tmp_path, columns, click, purchase, clicks):
    """Of a log of impressions only the rows with a 1 count."""
    path = shop(tmp_path)
    frame = pd.read_csv(path, dtype="str").drop(columns=["action", "amount"])
    values = {columns[0]: [int(n % 2 == 0) for n in range(300)], columns[1]: [int(n % 5 == 0) for n in range(300)]}
    frame.assign(**values).to_csv(path, index=False)
    check = check_file(path)
    assert (check.config["data"]["click"], check.config["data"]["purchase"]) == (click, purchase)
    assert f"300 events, {clicks} clicks, {60 if purchase else 0} purchases" in check.outcome
    assert prepared(check).card["click_events"] == clicks


def test_rows_that_cannot_be_used_are_counted(tmp_path):
    path = shop(tmp_path)
    with path.open("a") as file:
        file.write("x,missing,01/09/2020 12:00,view,1\nx,1,never,view,1\n")
    check = check_file(path)
    assert check.config["data"]["bad_rows"] == "skip"
    assert any("unusable created_at" in note and "line 303: 'never'" in note for note in check.notes)
    assert any("item that the item table lacks" in note for note in check.notes)
    prepared(check)


def test_a_log_without_an_item_table_gets_a_config_that_works(tmp_path):
    path = shop(tmp_path)
    (tmp_path / "products.csv").unlink()
    with path.open("a") as file:
        file.write("ç1,NULL,01/09/2020 12:00,view,1\nç1,1,never,view,1\n")
    check = check_file(path)
    assert "items" not in check.config["data"] and check.config["data"]["bad_rows"] == "skip"
    assert "300 events, 225 clicks, 75 purchases" in check.outcome
    assert any("1 rows cannot be used: unusable sku" in note for note in check.notes)
    data = prepared(check)
    assert data.items["title"].tolist() == [str(n) for n in range(11)]
    warning = next(one for one in data.card["losses"]["warnings"] if "have no title" in one)
    assert "11 of 11 items" in warning and "Name an item table in `data.items`" in warning


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("log.csv", "user_id,item_id,timestamp\n", "log.csv: there are no rows; expected one per event"),
        ("log.tsv", "user_id\titem_id\ttimestamp", "log.tsv: there are no rows; expected one per event"),
        ("log.jsonl", "", "log.jsonl: there are no rows; expected one per event"),
        ("log.jsonl", "[1]\n", r"log.jsonl: there are no rows \(1 .*log.jsonl, line 1: .*JSON object"),
    ],
)
def test_a_file_without_rows_is_said(tmp_path, name, content, found):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=found):
        check_file(tmp_path / name)


def test_a_config_of_a_log_without_usable_rows_is_an_error(tmp_path):
    path = shop(tmp_path)
    config = parse_config(check_file(path).config).data
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match=r"orders.csv: there are no events"):
        check_config(config)
    with pytest.raises(DataError, match=r"orders.csv: there are no events"):
        check_config(config.model_copy(update={"items": None}))


def test_what_is_missing_is_said(tmp_path):
    path = shop(tmp_path)
    (tmp_path / "products.csv").write_text("code,name\n" + "".join(f"{n},Pan {n}\n" for n in range(11)))
    note, without, left_out = check_file(path).notes
    assert left_out.startswith("No rule names the kinds `remove_from_cart`")
    assert "ids of the items stand in for their titles. Name the table in `data.items`" in without
    assert "products.csv may be the item table: its column `code` holds the ids of the items." in note
    assert "rename `code` to `item_id` and rename `name` to `title`: `python -c" in note
    command = re.search(r"`(python -c .*)`", note)
    assert command is not None
    exec(shlex.split(command[1])[2])
    check = check_file(path)
    assert Path(check.config["data"]["items"]).name == "products-items.csv"
    assert prepared(check).items["title"].iloc[0] == "Pan 0"
    (tmp_path / "products-items.csv").unlink()
    (tmp_path / "products.csv").write_text("sku,price\n" + "".join(f"{n},1\n" for n in range(11)))
    assert check_file(path).notes[0].endswith("To use it, add a column `title`.")
    (tmp_path / "products.csv").unlink()
    assert "No file beside the log is its item table" in check_file(path).notes[0]
    (tmp_path / "log.csv").write_text("a,b\n1,2\n")
    check = check_file(tmp_path / "log.csv")
    assert check.config is None and "`data.columns.user_id`" in check.notes[0]
    with pytest.raises(DataError, match="expected an event log"):
        check_file(tmp_path / "absent.csv")


def test_an_item_table_of_other_ids_is_said(tmp_path):
    path = shop(tmp_path)
    (tmp_path / "products.csv").write_text("sku,title\n" + "".join(f"P-{n},Pan\n" for n in range(11)))
    check = check_file(path)
    assert "300 events, 225 clicks" in check.outcome and "items" not in check.config["data"]
    assert "products.csv has titles, but its column `sku` holds 0% of the ids" in check.notes[0]
    assert "the log has `0`, the table `P-0`" in check.notes[0]


def test_an_item_table_that_cannot_be_read_is_said(tmp_path):
    path = shop(tmp_path)
    (tmp_path / "products.csv").write_bytes("sku,title\n1,Café\n".encode("cp1252"))
    assert any("products.csv, line 2: not utf-8 text" in note for note in check_file(path).notes)


def test_a_config_is_checked_on_the_first_lines(tmp_path):
    check = check_file(shop(tmp_path))
    config = parse_config(check.config)
    again = check_config(config.data)
    assert again.columns == check.columns and again.outcome == check.outcome and again.config is None
    assert "300 events, 225 clicks, 75 purchases" in again.outcome


@pytest.mark.parametrize(
    ("log", "name"), [("my orders (1).csv", "my-orders-1"), ("..csv", "log"), ("заказы.csv", "log"), ("_x.csv", "x")]
)
def test_the_suggested_name_is_one_that_configs_accept(tmp_path, log, name):
    assert parse_config(check_file(shop(tmp_path, log)).config).name == name


def test_a_log_is_not_its_own_item_table(tmp_path):
    """The log has the name that is suggested for a missing item table."""
    log = shop(tmp_path, "items.csv")
    (tmp_path / "products.csv").unlink()
    check = check_file(log)
    assert "items" not in check.config["data"] and "such as" in check.notes[0] and "titles.csv" in check.notes[0]


def test_an_item_table_of_other_columns_is_only_named(tmp_path):
    """A file items.csv that lacks the columns of an item table ends in a note on them, and in no error."""
    log = shop(tmp_path)
    (tmp_path / "products.csv").unlink()
    pd.DataFrame({"sku": range(11), "name": "x"}).to_csv(tmp_path / "items.csv", index=False)
    check = check_file(log)
    assert "300 events, 225 clicks" in check.outcome and "items" not in check.config["data"]
    assert "items.csv may be the item table" in check.notes[0]


def test_dates_with_names_of_months_and_extra_nested_columns_are_read(tmp_path):
    shop(tmp_path)
    rows = [
        {
            "visitor": f"v{n % 7}",
            "sku": n % 11,
            "date": f"Sep {1 + n % 28:02}, 2020 12:{n % 60:02}",
            "event": ["click", "buy"][n % 2],
            "context": {"device": "phone", "tags": ["a"]},
        }
        for n in range(300)
    ]
    log = tmp_path / "export.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    check = check_file(log)
    assert check.config["data"]["timestamp_format"] == "%b %d, %Y %H:%M"
    assert check.config["data"]["purchase"] == ["buy"]
    assert prepared(check).num_users == 7


def test_ids_inside_objects_are_no_columns(tmp_path):
    log = tmp_path / "export.jsonl"
    rows = [{"user": {"id": n % 7}, "item": {"id": n % 11}, "time": 1_600_000_000 + n} for n in range(50)]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    check = check_file(log)
    assert check.config is None
    assert any("The columns user, item hold objects or lists." in note for note in check.notes)

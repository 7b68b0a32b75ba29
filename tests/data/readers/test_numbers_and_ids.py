"""Numbers with a decimal comma, and ids that are `123` in one file and `123.0` in the other."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from llmrec.config import DataConfig
from llmrec.data.losses import summary
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.data.readers.decimals import UNCLEAR
from llmrec.errors import DataError
from tests.data.logs import events_of, read_all

ITEMS = "item_id;title\na;Alien\nb;Brazil\n"


def section(folder, log: str, items: str = ITEMS, users: str = "", **values) -> DataConfig:
    for name, content in (("log.csv", log), ("items.csv", items), ("users.csv", users)):
        (folder / name).write_text(content)
    tables = {"items": str(folder / "items.csv")} | ({"users": str(folder / "users.csv")} if users else {})
    return DataConfig(format="table", path=str(folder / "log.csv"), **tables, **values)


def ratings(folder, *values: str, separator: str = ";", **keys) -> list[float]:
    rows = "".join(separator.join(["u", "a", str(n), f'"{value}"']) + "\n" for n, value in enumerate(values))
    log = read_all(section(folder, separator.join(["user_id", "item_id", "timestamp", "rating"]) + "\n" + rows, **keys))
    return events_of(log)["rating"].tolist()


# --- numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [";", ",", "\t"])
def test_decimal_commas_are_read(tmp_path, separator):
    assert ratings(tmp_path, "4,5", "3", "", " 0,5 ", separator=separator) == pytest.approx(
        [4.5, 3, np.nan, 0.5], nan_ok=True
    )


def test_a_column_shows_what_its_commas_and_points_are(tmp_path):
    assert ratings(tmp_path, "1,234", "4,5") == [1.234, 4.5]
    assert ratings(tmp_path, "1,234", "4.5") == [1234, 4.5]
    assert ratings(tmp_path, "1.234", "4,5", "1.234.567,25") == [1234, 4.5, 1234567.25]
    assert ratings(tmp_path, "1,234,567", "2,000") == [1234567, 2000]
    assert ratings(tmp_path, "1.234", "4.5") == [1.234, 4.5]


def test_a_comma_that_can_be_read_both_ways_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"log.csv, line 3: `rating` is '1,234', which may be 1.234 or 1234; .*`data.de"
    ):
        ratings(tmp_path, "7", "1,234")
    assert ratings(tmp_path, "7", "1,234", decimal=",") == [7, 1.234]
    assert ratings(tmp_path, "7", "1,234", decimal=".") == [7, 1234]


def test_a_column_with_both_signs_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"line 2: `rating` is '4,5', but '3.5' on line 4; .*`data.decimal: ','`"):
        ratings(tmp_path, "4,5", "5", "3.5")
    with pytest.raises(DataError, match=r"line 4: `rating` is '3.5'; expected a number with a decimal comma.*skip"):
        ratings(tmp_path, "4,5", "5", "3.5", decimal=",")
    assert ratings(tmp_path, "4,5", "5", "3.5", decimal=",", bad_rows="skip") == [4.5, 5]


def test_the_sign_is_looked_for_in_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr("llmrec.data.readers.delimited.PART_ROWS", 1)
    assert ratings(tmp_path, "1,234", "2", "4,5") == [1.234, 2, 4.5]
    assert ratings(tmp_path, "1,234", "2", "4.5") == [1234, 2, 4.5]


def test_a_number_before_the_part_that_shows_the_sign_is_not_read_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr("llmrec.data.readers.delimited.PART_ROWS", 1)
    with pytest.raises(DataError, match=r"line 2: `rating` is '1.234', which is 1234 beside '4,5' on line 4, .*"):
        ratings(tmp_path, "1.234", "7", "4,5")
    assert ratings(tmp_path, "1.234", "7", "4,5", decimal=",") == [1234, 7, 4.5]
    assert ratings(tmp_path, "7", "4,5", "1.234") == [7, 4.5, 1234]


def test_rules_compare_decimal_commas(tmp_path):
    rows = "".join(
        f"u;{item};{n};{price}\n" for n, (item, price) in enumerate([("a", "12,90"), ("b", "9,50"), ("c", "8,00")])
    )
    rules: dict[str, Any] = {"click": ["price>=0"], "purchase": ["price>=12.5"], "splits": ["leave_one_out"]}
    config = section(tmp_path, "user_id;item_id;timestamp;price\n" + rows, ITEMS + "c;Contact\n", **rules)
    assert build_data(read_log(config), config, seed=0).card["purchases"] == 1  # 12.9


def test_attributes_of_items(tmp_path):
    items = "item_id;title;price;weight;size\na;1,5;12,90;1,234;4,5 m\nb;2,5;8;2,500;3\n"
    log = read_all(section(tmp_path, "user_id;item_id;timestamp\nu;a;1\n", items))
    assert log.items["price"].tolist() == ["12.90", "8"]
    assert log.items["title"].tolist() == ["1,5", "2,5"]  # no number
    assert log.items["size"].tolist() == ["4,5 m", "3"]  # no column of numbers
    assert log.items["weight"].tolist() == ["1,234", "2,500"]  # 1.234 or 1234
    assert log.item_source.losses[UNCLEAR].count == 2
    assert log.item_source.losses[UNCLEAR].examples[0].endswith("items.csv, line 2: '1,234'")


def test_numbers_of_json_lines(tmp_path):
    path = tmp_path / "log.jsonl"
    rows = [{"user_id": "u", "item_id": "a", "timestamp": n, "rating": r} for n, r in enumerate(["4,5", 3, 2.5])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = section(tmp_path, "").model_copy(update={"path": str(path)})
    assert events_of(read_all(config))["rating"].tolist() == [4.5, 3, 2.5]


# --- ids ----------------------------------------------------------------------------------------------


FLOATS, WHOLE = [f"{n}.0" for n in range(5)], [str(n) for n in range(5)]


def log_of_items(folder, log_ids: list[str], table_ids: list[str]) -> DataConfig:
    log = "user_id,item_id,timestamp\n" + "".join(f"u,{item},{n}\n" for n, item in enumerate(log_ids))
    items = "item_id,title\n" + "".join(f"{item},Title\n" for item in table_ids)
    return section(folder, log, items, splits=["leave_one_out"], click=["interaction"], purchase=[])


def prepared(config: DataConfig):
    return build_data(read_log(config), config, seed=0)


@pytest.mark.parametrize("ending", [".0", ",0"])
def test_item_ids_of_a_column_with_gaps_match(tmp_path, ending):
    floats = [f'"{number}{ending}"' for number in WHOLE]
    in_log = prepared(log_of_items(tmp_path, floats, WHOLE))
    assert in_log.card["losses"]["ids_without_fraction"] == {"events.item_id": 5}
    assert "; ids such as 123.0 read as 123: 5 in events.item_id" in summary(in_log.card)
    in_table = prepared(log_of_items(tmp_path, WHOLE, floats))
    assert in_table.card["losses"]["ids_without_fraction"] == {"items.item_id": 5}
    for data in (in_log, in_table):
        assert data.items["item_id"].tolist() == WHOLE and data.card["clicks"] == 5
    assert "ids_without_fraction" not in prepared(log_of_items(tmp_path, floats, floats)).card["losses"]


@pytest.mark.parametrize(("in_log", "in_table", "place"), [(FLOATS, WHOLE, "events"), (WHOLE, FLOATS, "users")])
def test_user_ids_of_a_column_with_gaps_match(tmp_path, in_log, in_table, place):
    pairs = [(user, item) for user in in_log for item in "abc"]
    log = "user_id;item_id;timestamp\n" + "".join(f"{user};{item};{n}\n" for n, (user, item) in enumerate(pairs))
    users = "user_id,country\n" + "".join(f"{user},DE\n" for user in in_table)
    rules: dict[str, Any] = {"splits": ["leave_one_out"], "click": ["interaction"], "purchase": []}
    data = prepared(section(tmp_path, log, ITEMS + "c;Contact\n", users, **rules))
    assert data.card["losses"]["ids_without_fraction"] == {f"{place}.user_id": 15 if place == "events" else 5}
    assert data.card["losses"]["users_with_attributes"] == 5


@pytest.mark.parametrize(
    ("log_ids", "table_ids", "found"),
    [
        (["1.0", "2"], ["1", "2"], "'1.0'"),  # not the whole column
        (["1", "2"], ["1.0", "2"], "'1'"),
        (["1.0", "2.0"], ["1", "1.0"], "'2.0'"),  # two different ids would become one
        (["8.0", "9.0"], ["1", "2"], "'8.0'"),  # nothing matches
        (["1.0", '"2,0"'], ["1", "2"], "'1.0'"),
        (["1.5", "2.0"], ["1", "2"], "'1.5'"),
    ],
)
def test_other_ids_stay_as_they_are(tmp_path, log_ids, table_ids, found):
    with pytest.raises(DataError, match=rf"log.csv, line \d: `item_id` is {found}.*; expected an item of"):
        read_all(log_of_items(tmp_path, log_ids, table_ids))


def test_ids_that_are_missing_are_still_refused(tmp_path):
    with pytest.raises(DataError, match=r"log.csv, line 3: `item_id` is empty"):
        read_all(log_of_items(tmp_path, ["1.0", "", "2.0"], ["1", "2"]))


def test_heads_of_facts_match(tmp_path):
    config = section(tmp_path, "user_id,item_id,timestamp\nu,1,1\n", "item_id,title\n1,Alien\n2,Brazil\n")
    facts = pd.DataFrame({"head": [1.0, 2.0], "relation": "director", "tail": ["Scott", "Gilliam"]})
    facts.to_csv(tmp_path / "facts.csv", index=False)
    log = read_all(config.model_copy(update={"facts": str(tmp_path / "facts.csv")}))
    assert log.facts["head"].tolist() == ["1", "2"] and log.fact_source.cut_ids == {"head": 2}

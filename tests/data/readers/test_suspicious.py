"""Files that can be read in a way that nobody meant: no header, a stray quotation mark, days as seconds, lists."""

import json

import pandas as pd
import pytest

from llmrec.config import ColumnsConfig, DataConfig
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.errors import DataError
from tests.data.logs import events_of, read_all

HEADER = "user_id,item_id,timestamp,note\n"
ROWS = "".join(f"u{n % 3},i{n % 4},{1_500_000_000 + n},fine\n" for n in range(24))


def section(folder, text: str, name: str = "log.csv", **values) -> DataConfig:
    (folder / name).write_text(text, encoding="utf-8")
    values = {"click": ["interaction"], "purchase": [], "splits": ["leave_one_out"], **values}
    return DataConfig(format="table", path=str(folder / name), **values)


# --- no header ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        "196,242,3,881250949",  # all numbers
        "196,242,,881250949",  # a missing rating
        "u1,i5,4.5,2020-01-31 12:00:00",  # ids of the form of those below
        "u1,i5,view,31/01/2020",  # an event type that occurs below
    ],
)
def test_a_row_in_place_of_the_header(tmp_path, row):
    fields = row.split(",")
    below = [fields[0].replace("1", "27"), fields[1].replace("5", "8"), fields[2], fields[3].replace("1", "2")]
    names = dict(zip(("user_id", "item_id", "timestamp"), (fields[0], fields[1], fields[3]), strict=True))
    config = section(tmp_path, f"{row}\n{','.join(below)}\n", columns=ColumnsConfig(**names))
    with pytest.raises(DataError) as caught:
        read_log(config)
    for part in ("log.csv, line 1", row.split(",")[0], "looks like a row", "names of the columns"):
        assert part in str(caught.value)


@pytest.mark.parametrize("header", ["0,1,2,3", "who,what,2,2020", "user_id,item_id,timestamp,note"])
def test_names_that_are_no_row(tmp_path, header):
    who, what, when, _ = header.split(",")
    columns = ColumnsConfig(user_id=who, item_id=what, timestamp=when)
    assert len(events_of(read_all(section(tmp_path, f"{header}\n{ROWS}", columns=columns)))) == 24


# --- stray quotation marks ----------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_quotation_mark_that_swallows_rows(tmp_path, end):
    lines = (HEADER + ROWS).splitlines()
    lines[2] = lines[2].replace("fine", '"fine')  # line 3 of the file
    lines[20] = lines[20].replace("fine", 'fine"')
    config = section(tmp_path, "")
    (tmp_path / "log.csv").write_bytes((end.join(lines) + end).encode())
    with pytest.raises(DataError, match=r"log.csv, line 3: a quotation mark opens in `note` and closes on line 21"):
        read_all(config)


def test_a_quotation_mark_that_swallows_one_row(tmp_path):
    lines = (HEADER + ROWS).splitlines()
    lines[2] = lines[2].replace("fine", '"fine')
    lines[3] = lines[3].replace("fine", 'fine"')
    with pytest.raises(DataError, match=r"line 3: a quotation mark opens in `note` and closes on line 4, and"):
        read_all(section(tmp_path, "\n".join(lines) + "\n"))


@pytest.mark.parametrize("text", ["one\ntwo, three, 4, and five", "1\n2,3,four,5"])
def test_texts_of_two_lines_are_read(tmp_path, text):
    log = read_all(section(tmp_path, f'{HEADER}{ROWS}u0,i0,1600000000,"{text}"\nu1,i1,1600000001,fine\n'))
    assert events_of(log)["note"].iloc[24] == text and len(events_of(log)) == 26


def test_texts_of_several_lines_are_read(tmp_path):
    note = '"Good, really,\nif you, like me, and others,\nlike ""it"".\n\nThe end."'
    log = read_all(section(tmp_path, HEADER + ROWS + f"u0,i0,1600000000,{note}\nu1,i1,1600000001,fine\n"))
    assert len(events_of(log)) == 26
    assert events_of(log)["note"].iloc[24].count("\n") == 4
    assert events_of(log).index.tolist()[-1] == 31  # the note begins on line 26


# --- times --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "parts"),
    [
        ([43_831 + n / 2 for n in range(24)], ["days of a spreadsheet", "43,831 is 2020-01-01", "(days - 25569)"]),
        (range(1, 25), ["from 1 to 24", "read as seconds", "`data.columns.timestamp: null`"]),
    ],
)
def test_times_that_count_days_or_steps(tmp_path, times, parts):
    lines = [f"u{n % 3},i{n % 4},{time},fine" for n, time in enumerate(times)]
    config = section(tmp_path, HEADER + "\n".join(lines) + "\n")
    warnings = build_data(read_log(config), config, seed=0).card["losses"]["warnings"]
    (warning,) = [one for one in warnings if "from 1970-01-01 (log.csv, line 2)" in one]
    for part in parts:
        assert part in warning


@pytest.mark.parametrize("bad", ["", "NULL", "0", "20201399", "x"])
def test_dates_like_numbers_beside_a_value_that_is_none(tmp_path, bad):
    rows = [f"u{n % 3},i{n % 4},{20200101 + n},fine" for n in range(28)]
    text = HEADER + "\n".join([*rows[:20], f"u0,i0,{bad},fine", *rows[20:]]) + "\n"
    with pytest.raises(DataError, match="log.csv, line 22: `timestamp` is "):
        read_all(section(tmp_path, text))
    events = events_of(read_all(section(tmp_path, text, bad_rows="skip")))
    assert events["timestamp"].min() == pd.Timestamp("2020-01-01").timestamp()
    assert len(events) == 28 and events["timestamp"].max() == pd.Timestamp("2020-01-28").timestamp()


def test_seconds_that_look_like_dates_here_and_there(tmp_path):
    times = [20_200_101, *range(20_000_000, 20_000_027)]
    text = HEADER + "".join(f"u{n % 3},i{n % 4},{time},fine\n" for n, time in enumerate(times))
    assert events_of(read_all(section(tmp_path, text)))["timestamp"].tolist() == times


# --- ids ----------------------------------------------------------------------------------------------


def test_missing_ids_of_lists_are_no_list(tmp_path):
    text = "user_id,item_id,timestamp,ranking_id\n" + "".join(f"u,i{n},{n},NULL\n" for n in range(9))
    assert events_of(read_all(section(tmp_path, text)))["ranking_id"].isna().all()


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_ids_that_are_lists(tmp_path, kind, column):
    row = {"user_id": "u", "item_id": "a", "timestamp": 1_500_000_000, column: ["a", "b"]}
    config = section(tmp_path, "", f"log.{kind}")
    if kind == "jsonl":
        (tmp_path / "log.jsonl").write_text(json.dumps(row) + "\n")
    elif kind == "parquet":
        pd.DataFrame([row]).to_parquet(tmp_path / "log.parquet")
    else:
        pd.DataFrame([row]).to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(DataError, match=rf"log.{kind}, \w+ \d: `{column}` is .*an id, not a list. Write a row for"):
        read_all(config)


# --- decimal commas -----------------------------------------------------------------------------------


def test_decimal_commas_of_recbole(tmp_path):
    (tmp_path / "x.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\t1\t4,5\t1,5e9\nu\t2\t3\t1500000001\n"
    )
    (tmp_path / "x.item").write_text("item_id:token\ttitle:token_seq\tprice:float\n1\t1,5\t2,25\n2\tTwo\t1.000,5\n")
    log = read_all(DataConfig(format="recbole", path=str(tmp_path)))
    assert events_of(log)["rating"].tolist() == [4.5, 3.0]
    assert events_of(log)["timestamp"].tolist() == [1_500_000_000, 1_500_000_001]
    assert log.items["price"].astype(float).tolist() == [2.25, 1000.5]
    assert log.items["title"].tolist() == ["1,5", "Two"]  # a title is no number
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\t1\t1,234\t1\n")
    with pytest.raises(DataError, match=r"x.inter, line 2: `rating` is '1,234', which may be 1.234 or 1234"):
        read_all(DataConfig(format="recbole", path=str(tmp_path)))

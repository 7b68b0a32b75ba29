"""Errors in input files name the file and line, what was expected and how to fix it."""

import gzip
import json

import pytest

from llmrec.config import ColumnsConfig, DataConfig
from llmrec.data.readers import read_log
from llmrec.errors import ConfigError, DataError
from tests.data.logs import read_all

HEADER = "user_id,item_id,timestamp,rating"
GOOD = "u,a,1,5"


def read_table(tmp_path, log: str, items: str = "item_id,title\na,Alien\nb,Brazil\n", **values):
    (tmp_path / "log.csv").write_text(log)
    (tmp_path / "items.csv").write_text(items)
    config = DataConfig(format="table", path=str(tmp_path / "log.csv"), items=str(tmp_path / "items.csv"), **values)
    read_all(config)


def assert_refused(parts, function, *arguments, **values):
    with pytest.raises(DataError) as error:
        function(*arguments, **values)
    assert error.value.exit_code == 2
    for part in parts:
        assert part in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("log", "parts"),
    [
        (
            "userid,item_id,timestamp\nu,a,1\n",
            [
                "no column `user_id`",
                "found userid, item_id",
                "Did you mean `userid`?",
                "`data.columns.user_id`",
            ],
        ),
        (
            f"{HEADER}\n{GOOD}\nu,a,yesterday,5\n",
            ["log.csv, line 3", "'yesterday'", "ISO-8601", "`timestamp`"],
        ),
        (f"{HEADER}\n{GOOD}\nu,a,9999-12-31,5\n", ["line 3", "'9999-12-31'"]),
        (f"{HEADER}\n{GOOD}\nu,a,0001-01-01,5\n", ["line 3", "'0001-01-01'"]),
        (f"{HEADER}\n{GOOD}\nu,a,-5,5\n", ["line 3", "`timestamp` is '-5'"]),
        (f"{HEADER}\n{GOOD}\nu,a,99999999999,5\n", ["line 3", "'99999999999'", "to 2100"]),
        (f"{HEADER}\n{GOOD}\nu,a,1e25,5\n", ["line 3", "milliseconds (above 1e11)"]),
        (
            f"{HEADER}\nu,a,09/13/2020 12:26,5\n",
            ["line 2", "'09/13/2020 12:26'", "`data.timestamp_format`", "'%m/%d/%Y %H:%M'"],
        ),
        (f'{HEADER}\n{GOOD}\n"u,a,1,5\nu",a,1,5\n{GOOD}\n', ["log.csv, line 3", "an id on one line", "quotation"]),
        (f'{HEADER}\n{GOOD}\n"u,a,1,5\n{GOOD}\n', ["log.csv, line 3", "quotation mark", "none closes it"]),
        (f"{HEADER}\nu,,1,5\n{GOOD}\nu,,1,5\n", ["line 2", "`item_id` is empty (1 more like it)", "an id"]),
        (f"{HEADER}\n\n{GOOD}\nNaN,a,1,5\n", ["line 4", "`user_id` is 'NaN'"]),
        (f"{HEADER}\n{GOOD}\nu,a,1,good\n", ["line 3", "`rating` is 'good'", "a number"]),
        (f"{HEADER}\n{GOOD}\nu,zzz,1,5\n", ["log.csv, line 3", "'zzz'", "items.csv", "Add the item"]),
        (f"{HEADER}\n", ["log.csv", "no events"]),
        ("", ["log.csv", "empty", "header"]),
        (f"{HEADER}\n{GOOD}\nu,a,1,5,9\n", ["log.csv, line 3", "5 fields", "expected 4"]),
        (f"{HEADER},propensity\n{GOOD},0\n", ["line 2", "`propensity` is '0'", "above 0 and at most 1"]),
        (f"{HEADER},propensity\n{GOOD},1.5\n", ["line 2", "`propensity` is '1.5'"]),
        (f"{HEADER},position\n{GOOD},first\n", ["line 2", "`position` is 'first'", "a rank"]),
    ],
)
def test_bad_log(tmp_path, log, parts):
    assert_refused(parts, read_table, tmp_path, log)


@pytest.mark.parametrize(
    ("items", "parts"),
    [
        (
            "item_id,title\na,Alien\nb,Brazil\na,Again\n",
            ["items.csv, line 4", "`item_id` is 'a'", "on line 2"],
        ),
        ("item_id,titel\na,Alien\n", ["items.csv", "no column `title`", "Did you mean `titel`?"]),
        ("item_id,title\n", ["items.csv", "no items"]),
    ],
)
def test_bad_items(tmp_path, items, parts):
    assert_refused(parts, read_table, tmp_path, f"{HEADER}\n{GOOD}\n", items)


def test_rating_range_can_be_set(tmp_path):
    log = f"{HEADER}\nu,a,1,10\n"
    read_table(tmp_path, log)  # the format has no default range
    parts = ["line 2", "`rating` is '10'", "from 1 to 5", "`data.rating_range`"]
    assert_refused(parts, read_table, tmp_path, log, rating_range=(1.0, 5.0))
    with pytest.raises(ConfigError, match="data.rating_range"):
        read_table(tmp_path, log, rating_range=(5.0, 1.0))


def test_mapped_column_that_is_missing(tmp_path):
    parts = ["no column `events`", "Did you mean `event`?", "`data.columns.event_type`"]
    columns = ColumnsConfig(event_type="events")
    assert_refused(parts, read_table, tmp_path, "user_id,item_id,timestamp,event\nu,a,1,view\n", columns=columns)


def test_unreadable_files(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\na,Alien\n")

    def read(name, content):
        (tmp_path / name).write_bytes(content)
        read_all(DataConfig(format="table", path=str(tmp_path / name), items=str(tmp_path / "items.csv")))

    assert_refused(["log.csv, line 2", "not utf-8", "`data.encoding`"], read, "log.csv", b"user_id\n\xe9\n")
    assert_refused(["log.csv", "zero bytes", "utf-16-le"], read, "log.csv", "user_id\nu\n".encode("utf-16-le"))
    assert_refused(["log.csv", "no column `user_id`", "`data.separator`"], read, "log.csv", b"user_id^item_id\nu^a\n")
    assert_refused(["log.csv.gz", "cannot be read"], read, "log.csv.gz", b"no gzip")
    assert_refused(["log.csv.gz", "cannot be read"], read, "log.csv.gz", gzip.compress(b"user_id\nu\n")[:-9])
    assert_refused(["log.parquet", "not a readable Parquet"], read, "log.parquet", b"no parquet")
    assert_refused(["log.jsonl, line 2", "not JSON"], read, "log.jsonl", b'{"user_id": 1}\n{"user_id": \n')
    assert_refused(["log.jsonl, line 1", "JSON object"], read, "log.jsonl", b"[1]\n")
    assert_refused(["log.xlsx", ".csv, .tsv, .parquet, .jsonl"], read, "log.xlsx", b"")


def test_missing_path(tmp_path):
    (tmp_path / "log.csv").write_text(f"{HEADER}\n{GOOD}\n")
    missing = DataConfig(format="table", path=str(tmp_path / "lgo.csv"), items="items.csv")
    assert_refused(["`data.path`", "no ", "lgo.csv", "Did you mean", "log.csv"], read_log, missing)


def test_movielens(tmp_path):
    config = DataConfig(format="movielens", path=str(tmp_path))
    assert_refused(["u.data", "ratings.dat", "ratings.csv"], read_all, config)
    (tmp_path / "ratings.dat").write_text("1::1::6::978300760\n")
    assert_refused(["no file movies.dat"], read_all, config)
    (tmp_path / "movies.dat").write_text("1::Toy Story (1995)::Comedy\n")
    assert_refused(["ratings.dat, line 1", "`rating` is '6'", "from 0.5 to 5"], read_all, config)
    (tmp_path / "ratings.dat").write_text("1::1::5::978300760\n1::1\n")
    assert_refused(["ratings.dat, line 2", "`timestamp` is empty"], read_all, config)


def test_recbole(tmp_path):
    config = DataConfig(format="recbole", path=str(tmp_path))
    assert_refused(["one interaction file (*.inter)", "found none"], read_all, config)
    (tmp_path / "x.inter").write_text("user_id\titem_id:token\n1\t1\n")
    (tmp_path / "x.item").write_text("item_id:token\tgenre:token_seq\n1\tDrama\n")
    assert_refused(["x.inter, line 1", "'user_id'", "NAME:TYPE", "token_seq"], read_all, config)
    (tmp_path / "x.inter").write_text("user:token\titem_id:token\ttimestamp:float\n1\t1\t1\n")
    assert_refused(["no column `user_id`", "`data.columns.user_id`"], read_all, config)
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n1\t1\t1\n")
    assert_refused(["x.item", "no column `title`"], read_all, config)


def test_amazon(tmp_path):
    config = DataConfig(format="amazon2023", path=str(tmp_path / "Home.jsonl"))
    review = {"user_id": "U", "parent_asin": "B1", "rating": 9, "timestamp": 1588687728923}
    (tmp_path / "Home.jsonl").write_text(json.dumps(review) + "\n")
    assert_refused(["`data.items`", "meta_Home.jsonl"], read_all, config)
    (tmp_path / "meta_Home.jsonl").write_text('{"parent_asin": "B1", "title": "Pan"}\n')
    assert_refused(["Home.jsonl, line 1", "`rating` is 9", "from 0.5 to 5"], read_all, config)
    del review["timestamp"]
    (tmp_path / "Home.jsonl").write_text(json.dumps(review) + "\n")
    assert_refused(["no column `timestamp`"], read_all, config)
    (tmp_path / "Home.jsonl").write_text("")
    assert_refused(["Home.jsonl", "no events"], read_all, config)

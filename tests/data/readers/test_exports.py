"""Logs as programs export them: separators, encodings, forms of time, missing tables, and rows that cannot be used."""

import gzip
import json

import pandas as pd
import pytest

from llmrec.config import ColumnsConfig, DataConfig
from llmrec.data.readers.raw import REPEATED, UNKNOWN_ITEM, UNTITLED
from llmrec.data.readers.table import WITHOUT_EVENTS
from llmrec.errors import ConfigError, DataError
from tests.data.logs import events_of, read_all

ITEMS = "item_id,title\na,Alien\nb,Amélie\n"
NEW_YEAR = 1577836800  # 2020-01-01 in seconds


def read(tmp_path, log: str | bytes, items: str | bytes = ITEMS, name: str = "log.csv", **values):
    for file, content in ((name, log), ("items.csv", items)):
        (tmp_path / file).write_bytes(content.encode() if isinstance(content, str) else content)
    paths = {"path": str(tmp_path / name), "items": str(tmp_path / "items.csv")}
    return read_all(DataConfig(format="table", **paths, **values))


def times(tmp_path, *values: str, **keys) -> list[int]:
    rows = "\n".join(f'u,a,"{value}"' for value in values)
    return events_of(read(tmp_path, f"user_id,item_id,timestamp\n{rows}\n", **keys))["timestamp"].tolist()


# --- syntax and encodings -----------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found_in_each_header(tmp_path, separator):
    log = "user_id,item_id,timestamp\nu,a,5\n".replace(",", separator)
    assert events_of(read(tmp_path, log))["timestamp"].tolist() == [5]
    assert read(tmp_path, log, ITEMS.replace(",", ";")).items["title"].tolist() == ["Alien", "Amélie"]


def test_an_unusual_separator_is_named(tmp_path):
    log, items = (text.replace(",", "::") for text in ("user_id,item_id,timestamp\nu,a,5\n", ITEMS))
    assert events_of(read(tmp_path, log, items, separator="::"))["item_id"].tolist() == ["a"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.jsonl.gz"])
def test_a_byte_order_mark_names_the_encoding(tmp_path, encoding, name):
    record = json.dumps({"user_id": "é", "item_id": "a", "timestamp": 5}, ensure_ascii=False)
    text = "user_id,item_id,timestamp\né,a,5\n" if name.endswith("csv") else record + "\n"
    content = text.encode(encoding)
    log = read(tmp_path, gzip.compress(content) if name.endswith("gz") else content, name=name)
    assert events_of(log)["user_id"].tolist() == ["é"]


def test_an_encoding_is_named(tmp_path):
    items = ITEMS.encode("cp1252")
    with pytest.raises(DataError, match=r"items.csv, line 3: not utf-8 text .* `data.encoding`"):
        read(tmp_path, "user_id,item_id,timestamp\nu,a,5\n", items)
    log = read(tmp_path, "user_id,item_id,timestamp\nu,a,5\n", items, encoding="cp1252")
    assert log.items["title"].tolist() == ["Alien", "Amélie"]
    with pytest.raises(ValueError, match="Python knows no such encoding"):
        DataConfig(format="table", path="x", encoding="utf-9")


def test_movielens_is_utf_8_or_latin_1(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::1::5::978300760\n")
    for encoding in ("utf-8", "latin-1"):
        (tmp_path / "movies.dat").write_bytes("1::Amélie (2001)::Comedy\n".encode(encoding))
        log = read_all(DataConfig(format="movielens", path=str(tmp_path)))
        assert log.items["title"].tolist() == ["Amélie (2001)"]


def test_line_numbers_count_line_breaks_inside_fields(tmp_path):
    items = 'item_id,title\na,"Alien\n(1979)"\na,Brazil\n'
    with pytest.raises(DataError, match=r"items.csv, line 4: `item_id` is 'a'"):
        read(tmp_path, "user_id,item_id,timestamp\nu,a,5\n", items)


# --- times --------------------------------------------------------------------------------------------


def test_times_in_all_units(tmp_path):
    for power in (0, 3, 6, 9):
        assert times(tmp_path, str(NEW_YEAR * 10**power)) == [NEW_YEAR]


def test_numbers_that_are_all_dates_are_dates(tmp_path):
    day = 86400
    assert times(tmp_path, "20200101", "20200102") == [NEW_YEAR, NEW_YEAR + day]
    assert times(tmp_path, "202001010001") == [NEW_YEAR + 60]
    assert times(tmp_path, "20200101000001", "20200102000000") == [NEW_YEAR + 1, NEW_YEAR + day]
    # 20201301 has no month 13, so these are seconds.
    assert times(tmp_path, "20200101", "20201301") == [20200101, 20201301]


def test_a_format_of_times(tmp_path):
    assert times(tmp_path, "01/02/2020 00:01", timestamp_format="%m/%d/%Y %H:%M") == [NEW_YEAR + 86400 + 60]
    with pytest.raises(DataError, match=r"line 3: .* the form of `data.timestamp_format`, '%m/%d/%Y'"):
        times(tmp_path, "01/02/2020", "2020-01-02", timestamp_format="%m/%d/%Y")
    # Both orders of day and month fit, so both are suggested.
    with pytest.raises(DataError, match="'%m/%d/%Y' or '%d/%m/%Y'"):
        times(tmp_path, "01/02/2020")


def test_a_log_without_times_is_in_the_order_of_its_lines(tmp_path):
    log = "user_id,item_id\nu,b\nu,a\n"
    with pytest.raises(DataError, match=r"no column `timestamp`; .*`data.columns.timestamp: null`"):
        read(tmp_path, log)
    untimed = ColumnsConfig(timestamp=None)
    with pytest.raises(ConfigError, match="have no times"):
        read(tmp_path, log, columns=untimed)
    events = events_of(read(tmp_path, log, columns=untimed, splits=["leave_one_out"]))
    assert events.sort_values("timestamp")["item_id"].tolist() == ["b", "a"]


# --- rows that cannot be used -------------------------------------------------------------------------

BAD_LOG = """user_id,item_id,timestamp,rating
u,a,1,5
u,b,2,5,9
,a,3,5
u,a,never,5
u,b,4,high
u,zzz,5,5
u,b,6,4
"""


def test_bad_rows_are_skipped_and_counted_by_reason(tmp_path):
    log = read(tmp_path, BAD_LOG, bad_rows="skip")
    assert events_of(log)["timestamp"].tolist() == [1, 6]
    assert events_of(log)["rating"].tolist() == [5, 4]
    losses = {reason: loss.count for reason, loss in log.event_source.losses.items()}
    assert losses == {
        "line that cannot be read": 1,
        "unusable user_id": 1,
        "unusable timestamp": 1,
        "unusable rating": 1,
        UNKNOWN_ITEM: 1,
    }
    assert log.event_source.losses["unusable timestamp"].examples == [f"{tmp_path}/log.csv, line 5: 'never'"]
    assert log.event_source.losses[UNKNOWN_ITEM].examples == [f"{tmp_path}/log.csv, line 7: 'zzz'"]


def test_a_row_with_two_bad_values_counts_once(tmp_path):
    log = read(tmp_path, "user_id,item_id,timestamp\n,a,never\nu,a,1\n", bad_rows="skip")
    assert {reason: loss.count for reason, loss in log.event_source.losses.items()} == {"unusable user_id": 1}


def test_errors_name_the_key_that_skips_bad_rows(tmp_path):
    for log in (BAD_LOG, "user_id,item_id,timestamp\nu,zzz,1\n"):
        with pytest.raises(DataError, match="`data.bad_rows: skip`"):
            read(tmp_path, log)


def test_json_lines_are_skipped(tmp_path):
    good = '{"user_id": "u", "item_id": "a", "timestamp": 5}\n'
    log = read(tmp_path, f"{good}[1]\n{{oops\n{good}", name="log.jsonl", bad_rows="skip")
    assert events_of(log).index.tolist() == [1, 4]
    assert log.event_source.losses["line that cannot be read"].count == 2


def test_nothing_left_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"all events were left out \(1 for unusable timestamp\)"):
        read(tmp_path, "user_id,item_id,timestamp\nu,a,x\n", bad_rows="skip")


@pytest.mark.parametrize("title", ["nan", "NULL", "<NA>"])
def test_titles_that_a_program_wrote_for_a_missing_one(tmp_path, title):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,a,1\nu,b,2\n")
    (tmp_path / "items.csv").write_text(f"item_id,title\na,{title}\nb,Nan\n")
    log = read_all(DataConfig(format="table", path=str(tmp_path / "log.csv"), items=str(tmp_path / "items.csv")))
    assert log.items["title"].tolist() == ["a", "Nan"]


def test_items_without_a_title_are_titled_by_their_id(tmp_path):
    log = read(tmp_path, "user_id,item_id,timestamp\nu,a,1\n", "item_id,title\na,Alien\nb,\nc,  \n")
    assert log.items["title"].tolist() == ["Alien", "b", "c"]
    assert log.item_source.losses[UNTITLED].count == 2


def test_a_log_without_an_item_table(tmp_path):
    """Its items are those of the usable events, in natural order, and their ids are their titles."""
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,10,1\nu,9,2\nv,10,3\nu,7,never\n")
    section = DataConfig(format="table", path=str(tmp_path / "log.csv"), bad_rows="skip")
    log = read_all(section)
    assert log.items["item_id"].tolist() == log.items["title"].tolist() == ["9", "10"]
    assert len(events_of(log)) == 3
    assert {reason: loss.count for reason, loss in log.event_source.losses.items()} == {"unusable timestamp": 1}
    assert log.item_source.losses[UNTITLED].count == 2
    with pytest.raises(DataError, match="log.csv, line 5: `timestamp` is 'never'"):
        read_all(section.model_copy(update={"bad_rows": "error"}))


def test_a_log_without_usable_events_and_without_an_item_table(tmp_path):
    section = DataConfig(format="table", path=str(tmp_path / "log.csv"), bad_rows="skip")
    for rows, found in (("", "there are no events"), ("u,7,never\n", "left out .1 for unusable timestamp")):
        (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + rows)
        with pytest.raises(DataError, match=f"log.csv: .*{found}"):
            read_all(section)


def test_facts_about_items_without_events_are_counted_if_there_is_no_item_table(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,10,1\nu,9,2\n")
    (tmp_path / "facts.csv").write_text("head,relation,tail\n10,color,red\n11,color,red\n")
    log = read_all(DataConfig(format="table", path=str(tmp_path / "log.csv"), facts=str(tmp_path / "facts.csv")))
    assert log.facts["head"].tolist() == ["10"]
    assert log.fact_source.losses[WITHOUT_EVENTS].count == 1


@pytest.mark.parametrize("missing", ["\\N", "NULL", "None", "nan", "NA", "<NA>"])
def test_text_for_a_missing_value_is_no_id(tmp_path, missing):
    log = f"user_id,item_id,timestamp\nu,a,1\n{missing},a,2\n"
    with pytest.raises(DataError, match="line 3: `user_id` is .*; expected an id"):
        read(tmp_path, log)
    assert events_of(read(tmp_path, log, bad_rows="skip"))["user_id"].tolist() == ["u"]


def test_equal_rows_of_an_item_count_once(tmp_path):
    log = read(tmp_path, "user_id,item_id,timestamp\nu,a,1\n", "item_id,title\na,Alien\na,Alien\n")
    assert log.items["item_id"].tolist() == ["a"]
    assert log.item_source.losses[REPEATED].count == 1
    different = "item_id,title\na,Alien\na,Aliens\n"
    log = read(tmp_path, "user_id,item_id,timestamp\nu,a,1\n", different, bad_rows="skip")
    assert log.items["title"].tolist() == ["Alien"]


def test_amazon_leaves_out_what_has_no_metadata(tmp_path):
    reviews = [{"user_id": "U", "parent_asin": item, "rating": 5, "timestamp": 1588687728923} for item in ("A", "B")]
    metadata = [
        {"parent_asin": "A", "title": "Pan"},
        {"parent_asin": "A", "title": "A pan"},
        {"parent_asin": "C"},  # no review mentions it
    ]
    (tmp_path / "Home.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reviews))
    (tmp_path / "meta_Home.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metadata))
    log = read_all(DataConfig(format="amazon2023", path=str(tmp_path / "Home.jsonl")))
    assert events_of(log)["item_id"].tolist() == ["A"]
    assert log.items["title"].tolist() == ["Pan", "C"]
    assert log.event_source.losses["review of an item without metadata"].count == 1
    assert log.item_source.losses["further metadata of the same item"].count == 1


# --- RecBole ------------------------------------------------------------------------------------------


def test_recbole_with_spaces_and_without_items(tmp_path):
    (tmp_path / "x.inter").write_text("user_id:token item_id:token timestamp:float\nu 10 5\nu 9 6\n")
    log = read_all(DataConfig(format="recbole", path=str(tmp_path)))
    assert log.items["title"].tolist() == ["9", "10"]
    assert log.item_source.losses[UNTITLED].count == 2


def test_recbole_benchmark_files_are_a_given_split(tmp_path):
    header = "user_id:token\titem_id:token\n"
    for part, rows in (("train", "u\ta\nu\tb\n"), ("valid", "u\tc\n"), ("test", "u\td\n")):
        (tmp_path / f"x.{part}.inter").write_text(header + rows)
    config = DataConfig(
        format="recbole", path=str(tmp_path), splits=["given"], columns=ColumnsConfig(timestamp=None), bad_rows="skip"
    )
    events = events_of(read_all(config)).sort_values("timestamp")
    assert events["item_id"].tolist() == list("abcd")
    assert events["split"].tolist() == ["train", "train", "valid", "test"]
    (tmp_path / "x.valid.inter").write_text(header + "u\t\n")
    with pytest.raises(DataError, match=r"x.valid.inter, line 2: `item_id` is empty"):
        read_all(config.model_copy(update={"bad_rows": "error"}))
    assert read_all(config).event_source.losses["unusable item_id"].count == 1


def test_a_category_column_of_lists_can_be_compared(tmp_path):
    items = pd.DataFrame({"item_id": ["a", "a"], "title": ["Alien"] * 2, "categories": [["x"], ["x"]]})
    items.to_parquet(tmp_path / "items.parquet")
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,a,1\n")
    paths = {"path": str(tmp_path / "log.csv"), "items": str(tmp_path / "items.parquet")}
    assert len(read_all(DataConfig(format="table", **paths)).items) == 1

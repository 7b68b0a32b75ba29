"""Parquet and JSON lines with nested columns: refused where a plain value is needed, kept elsewhere."""

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmrec.config import DataConfig
from llmrec.data.dataset import save_data
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.errors import DataError
from tests.data.logs import config, events_of, read_all

ROWS = [
    {"user_id": user, "item_id": item, "timestamp": 1_500_000_000 + n, "rating": 4.0}
    for n, (user, item) in enumerate([("u1", "a"), ("u1", "b"), ("u1", "c"), ("u2", "a"), ("u2", "c"), ("u2", "b")])
]


def write(folder: Path, suffix: str, rows: list[dict]) -> DataConfig:
    """Writes a log and its item table, and the config that reads them."""
    (folder / "items.csv").write_text("item_id,title\na,Alien\nb,Brazil\nc,Contact\n")
    path = folder / f"log{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return config(path=str(path), items=str(folder / "items.csv"))


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("user_id", {"id": "u1"}, "an id"),
        ("item_id", ["a"], "an id"),
        ("timestamp", {"s": 1_500_000_000}, "seconds"),
        ("rating", [4.0], "a number"),
    ],
)
def test_a_nested_value_is_refused_where_a_plain_one_is_needed(tmp_path, suffix, column, value, expected):
    section = write(tmp_path, suffix, [{**row, column: value} for row in ROWS])
    unit = "row 1" if suffix == ".parquet" else "line 1"
    with pytest.raises(DataError, match=rf"log{suffix}, {unit}: `{column}` is .*; expected .*{expected}"):
        read_all(section)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_other_nested_columns_do_no_harm(tmp_path, suffix):
    rows = [{**row, "device": {"kind": "phone", "tags": ["a", "b"]}} for row in ROWS]
    section = write(tmp_path, suffix, rows)
    assert len(events_of(read_all(section))) == 6
    assert build_data(read_log(section), section, seed=0).card["clicks"] == 6


def test_a_log_that_breaks_off_leaves_the_earlier_data(tmp_path, monkeypatch):
    """The failure comes after parts of the log were read and written as numbers."""
    monkeypatch.setattr("llmrec.data.readers.csv_and_json.PART_ROWS", 2)
    section = write(tmp_path, ".jsonl", ROWS)
    target = tmp_path / "run" / "data"
    target.parent.mkdir()
    save_data(build_data(read_log(section), section, 0, target.parent), target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"user_id": "u3", "item_id": "a", "timestamp": "soon"}\n')
    with pytest.raises(DataError, match=r"log.jsonl, line 7: `timestamp` is 'soon'"):
        build_data(read_log(section), section, 0, target.parent)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert [path.name for path in target.parent.iterdir()] == ["data"]


def test_two_rows_of_an_item_that_disagree_are_both_named(tmp_path):
    section = write(tmp_path, ".jsonl", ROWS)
    items = pd.DataFrame({"item_id": ["a", "b", "c", "b"], "title": ["Alien", "Brazil", "Contact", "Braveheart"]})
    items.to_parquet(tmp_path / "items.parquet", index=False)
    section = section.model_copy(update={"items": str(tmp_path / "items.parquet")})
    with pytest.raises(DataError, match=r"items.parquet, row 4: `item_id` is 'b'.*It is also on row 2"):
        read_all(section)

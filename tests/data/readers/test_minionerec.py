"""The reader of MiniOneRec's prediction rows, which come with a split."""

import json

import pytest

from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.errors import ConfigError, DataError
from tests.data.logs import config, events_of, target_pairs


def write_rows(directory, valid, test, items=None):
    header = "user_id,history_item_id,item_id,item_title"
    for name, rows in (("valid", valid), ("test", test)):
        lines = [f'{user},"{history}",{item},"A, title"' for user, history, item in rows]
        (directory / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    about = {str(n): {"title": f"Thing {n}", "brand": "Acme" if n % 2 else "", "categories": ""} for n in range(1, 20)}
    (directory / "items.json").write_text(json.dumps(items or about), encoding="utf-8")


def read(directory, splits=("given",)):
    return read_log(config(format="minionerec", path=str(directory), splits=list(splits)))


VALID = [("A1", [10, 2], 3), ("A1", [10, 2, 3], 4)]
TEST = [("A1", [2, 3, 4], 5), ("B2", [7], 8)]


def test_the_rows_of_a_user_become_one_sequence(tmp_path):
    write_rows(tmp_path, VALID, TEST)
    log = read(tmp_path)
    events = events_of(log)[["user_id", "item_id", "timestamp", "split"]].to_numpy().tolist()
    assert events == [
        ["A1", "10", 0, "train"],
        ["A1", "2", 1, "train"],
        ["A1", "3", 2, "valid"],
        ["A1", "4", 3, "valid"],
        ["A1", "5", 4, "test"],
        ["B2", "7", 0, "train"],
        ["B2", "8", 1, "test"],
    ]
    assert log.items["item_id"].tolist() == ["2", "3", "4", "5", "7", "8", "10"]  # no row has 1, 6 or 9
    assert log.items["categories"].tolist() == [[], ["Acme"], [], ["Acme"], ["Acme"], [], []]
    data = build_data(log, config(click=["purchase"], purchase=[], splits=["given"], min_user_events=2), seed=0)
    assert [data.histories[u][p] for u, p in target_pairs(data.targets["given"]["test"])] == [3, 5]
    assert data.train_lengths.tolist() == [2, 1]
    assert data.card["time"] == {}


@pytest.mark.parametrize(
    ("valid", "test", "words"),
    [
        ([*VALID, ("A1", [2, 9], 6)], TEST, ["valid.csv, line 4", "user 'A1'", "in time order"]),
        ([("A1", "10 2", 3)], TEST, ["valid.csv, line 2", "'10 2'", "a list of item ids"]),
        (VALID, [("B2", [7], 77)], ["items.json", "no item '77'"]),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, valid, test, words):
    write_rows(tmp_path, valid, test)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert all(word in str(caught.value) for word in words), caught.value


def test_rows_without_times_have_no_temporal_split(tmp_path):
    write_rows(tmp_path, VALID, TEST)
    with pytest.raises(ConfigError, match="have no times"):
        read(tmp_path, ["temporal"])

"""The log's own split, and prediction rows that fix one."""

import json

import numpy as np
import pytest

from llmrec.config import parse_config
from llmrec.data.dataset import load_data, save_data
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.data.splits import Clicks, given
from llmrec.errors import ConfigError, DataError
from tests.data.logs import config, raw_log

COLUMNS = "user_id item_id timestamp rating split"
ROWS = [
    ("u", "a", 1, 5, "train"),
    ("u", "b", 2, 5, "train"),
    ("u", "c", 3, 5, "valid"),
    ("u", "d", 4, 5, "test"),
    ("v", "b", 1, 5, "train"),
    ("v", "a", 2, 5, "valid"),
    ("v", "e", 3, 5, "test"),
    ("w", "c", 1, 5, "train"),
    ("w", "d", 2, 5, "train"),
]
#                 user 0      user 1   user 2
USERS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
PARTS = np.array([0, 0, 1, 2, 0, 1, 2, 0, 0])
CLICKS = Clicks(users=USERS, timestamps=np.arange(9), parts=PARTS, num_users=3)
DRAWS = np.array([5, 5, 5, 5, 3, 3, 3, 1, 1])


def pairs(targets):
    return list(zip(targets.users.tolist(), targets.positions.tolist(), strict=True))


def test_targets_are_the_marked_clicks():
    split = given(CLICKS, DRAWS, valid_share=1.0)
    assert split.train_lengths.tolist() == [2, 1, 2]
    assert pairs(split.targets["valid"]) == [(0, 2), (1, 1)]
    assert pairs(split.targets["test"]) == [(0, 3), (1, 2)]


def test_users_who_do_not_validate_train_on_their_validation_clicks():
    # Half of the two users with validation clicks: user 1 has the smaller draw.
    split = given(CLICKS, DRAWS, valid_share=0.5)
    assert split.train_lengths.tolist() == [3, 1, 2]
    assert pairs(split.targets["valid"]) == [(1, 1)]
    assert pairs(split.targets["test"]) == [(0, 3), (1, 2)]


def test_prepared_and_read_back(tmp_path):
    data = build_data(raw_log(ROWS, COLUMNS), config(splits=["given"], min_user_events=2), seed=0)
    save_data(data, tmp_path / "data")
    again = load_data(tmp_path / "data")
    assert again.train_lengths.tolist() == [2, 1, 2]
    assert pairs(again.targets["given"]["test"]) == [(0, 3), (1, 2)]
    assert pairs(again.selection_targets()) == [(0, 2), (1, 1)]
    assert again.card["splits"]["given"]["test"] == {"targets": 2, "users": 2}


def test_equal_times_do_not_mix_the_parts():
    rows = [(user, item, 7, rating, split) for user, item, _, rating, split in ROWS]
    data = build_data(raw_log(rows, COLUMNS), config(splits=["given"], min_user_events=2), seed=3)
    assert data.train_lengths.tolist() == [2, 1, 2]
    assert [data.histories[u][p] for u, p in pairs(data.targets["given"]["test"])] == [3, 4]


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        ([row[:4] for row in ROWS], "user_id item_id timestamp rating", ["no column `split`", "data.columns.split"]),
        ([*ROWS, ("w", "e", 3, 5, "dev")], COLUMNS, ["row 10", "'dev'", "train, valid, test"]),
        ([*ROWS, ("u", "e", 9, 5, "train")], COLUMNS, ["User 'u'", "`test` before one marked `train`"]),
        ([row for row in ROWS if row[4] != "valid"], COLUMNS, ["given split has no valid targets", "Mark more"]),
    ],
)
def test_a_split_that_cannot_be_used(rows, columns, words):
    with pytest.raises(DataError) as caught:
        build_data(raw_log(rows, columns), config(splits=["given"], min_user_events=2), seed=0)
    assert all(word in str(caught.value) for word in words), caught.value


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


def test_rows_become_one_sequence_a_user(tmp_path):
    write_rows(tmp_path, VALID, TEST)
    log = read(tmp_path)
    events = log.events[["user_id", "item_id", "timestamp", "split"]].to_numpy().tolist()
    assert events == [
        ["A1", "10", 0, "train"],
        ["A1", "2", 1, "train"],
        ["A1", "3", 2, "valid"],
        ["A1", "4", 3, "valid"],
        ["A1", "5", 4, "test"],
        ["B2", "7", 0, "train"],
        ["B2", "8", 1, "test"],
    ]
    assert log.items["item_id"].tolist() == ["2", "3", "4", "5", "7", "8", "10"]  # 1, 6, 9 are in no row
    assert log.items["categories"].tolist() == [[], ["Acme"], [], ["Acme"], ["Acme"], [], []]
    data = build_data(log, config(click=["purchase"], purchase=[], splits=["given"], min_user_events=2), seed=0)
    assert [data.histories[u][p] for u, p in pairs(data.targets["given"]["test"])] == [3, 5]
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


def test_the_given_split_stands_alone():
    values = {"format": "table", "path": "x", "items": "y", "splits": ["given", "temporal"]}
    with pytest.raises(ConfigError, match="expected `given` alone"):
        parse_config({"name": "n", "data": values})

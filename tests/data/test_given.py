"""The log's own split."""

import numpy as np
import pytest

from llmrec.config import parse_config
from llmrec.data.dataset import load_data, save_data
from llmrec.data.prepare import build_data
from llmrec.data.splits import Clicks, given
from llmrec.errors import ConfigError, DataError
from tests.data.logs import config, raw_log, target_pairs

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
DRAWS = np.array([5, 3, 1])


def test_targets_are_the_marked_clicks():
    split = given(CLICKS, DRAWS, valid_share=1.0)
    assert split.train_lengths.tolist() == [2, 1, 2]
    assert target_pairs(split.targets["valid"]) == [(0, 2), (1, 1)]
    assert target_pairs(split.targets["test"]) == [(0, 3), (1, 2)]


def test_users_who_do_not_validate_train_on_their_validation_clicks():
    # Half of the two users with validation clicks validate. User 1 has the smaller draw.
    split = given(CLICKS, DRAWS, valid_share=0.5)
    assert split.train_lengths.tolist() == [3, 1, 2]
    assert target_pairs(split.targets["valid"]) == [(1, 1)]
    assert target_pairs(split.targets["test"]) == [(0, 3), (1, 2)]


def test_the_given_split_is_prepared_and_read_back(tmp_path):
    data = build_data(raw_log(ROWS, COLUMNS), config(splits=["given"], min_user_events=2), seed=0)
    save_data(data, tmp_path / "data")
    again = load_data(tmp_path / "data")
    assert again.train_lengths.tolist() == [2, 1, 2]
    assert target_pairs(again.targets["given"]["test"]) == [(0, 3), (1, 2)]
    assert target_pairs(again.selection_targets()) == [(0, 2), (1, 1)]
    assert again.card["splits"]["given"]["test"] == {"targets": 2, "users": 2}


def test_equal_timestamps_do_not_mix_the_parts():
    rows = [(user, item, 7, rating, split) for user, item, _, rating, split in ROWS]
    data = build_data(raw_log(rows, COLUMNS), config(splits=["given"], min_user_events=2), seed=3)
    assert data.train_lengths.tolist() == [2, 1, 2]
    assert [data.histories[u][p] for u, p in target_pairs(data.targets["given"]["test"])] == [3, 4]


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        ([row[:4] for row in ROWS], "user_id item_id timestamp rating", ["no column `split`", "data.columns.split"]),
        ([*ROWS, ("w", "e", 3, 5, "dev")], COLUMNS, ["row 10", "'dev'", "train, valid, test"]),
        ([*ROWS, ("u", "e", 9, 5, "train")], COLUMNS, ["User 'u'", "`test` before one marked `train`"]),
        ([row for row in ROWS if row[4] != "valid"], COLUMNS, ["given split has no valid targets", "Mark more"]),
    ],
)
def test_given_splits_that_cannot_be_used(rows, columns, words):
    with pytest.raises(DataError) as caught:
        build_data(raw_log(rows, columns), config(splits=["given"], min_user_events=2), seed=0)
    assert all(word in str(caught.value) for word in words), caught.value


def test_the_given_split_stands_alone():
    values = {"format": "table", "path": "x", "items": "y", "splits": ["given", "temporal"]}
    with pytest.raises(ConfigError, match="expected `given` alone"):
        parse_config({"name": "n", "data": values})

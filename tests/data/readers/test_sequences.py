"""The reader of sequences without times, one user a line."""

from pathlib import Path

import pytest

from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log
from llmrec.errors import ConfigError, DataError
from tests.data.logs import config, events_of, target_pairs

USERS = "u2 a b c\n\nu10\tb a b d\n"
WORDS = "a red lamp\nb blue lamp\nc old chair\nd\n"


def write(directory: Path, users: str = USERS, words: str | None = WORDS) -> Path:
    (directory / "user_sequence.txt").write_text(users, encoding="utf-8")
    if words is not None:
        (directory / "item_words.txt").write_text(words, encoding="utf-8")
    return directory


def sequences(path: Path, **values):
    return config(format="sequences", path=str(path), click=["interaction"], purchase=[], **values)


def test_a_line_becomes_a_history_in_its_order(tmp_path):
    section = sequences(write(tmp_path))
    data = build_data(read_log(section), section, seed=0)
    assert data.items["title"].tolist() == ["red lamp", "blue lamp", "old chair", "d"]  # d has no words
    assert data.users["user_id"].tolist() == ["u2", "u10"]
    assert [history.tolist() for history in data.histories] == [[0, 1, 2], [1, 0, 3]]  # the second b is a repeat
    assert target_pairs(data.targets["leave_one_out"]["test"]) == [(0, 2), (1, 2)]
    assert (data.card["events"], data.card["clicks"], data.card["time"]) == (7, 6, {})


def test_the_files_may_have_other_names(tmp_path):
    write(tmp_path)
    (tmp_path / "user_sequence.txt").rename(tmp_path / "beauty.txt")
    (tmp_path / "item_words.txt").rename(tmp_path / "names.txt")
    log = read_log(sequences(tmp_path / "beauty.txt", items=str(tmp_path / "names.txt")))
    assert len(events_of(log)) == 7 and len(log.items) == 4


@pytest.mark.parametrize(
    ("users", "words", "parts"),
    [
        (USERS, None, ["item_words.txt", "data.items"]),
        ("u a b c\nv\n", WORDS, ["user_sequence.txt, line 2", "`user_id` is 'v'", "at least one item"]),
        ("u a b c\nv b c\nu d\n", WORDS, ["line 3", "`user_id` is 'u'", "one line for each user", "table"]),
        ("u a b c\nv b x z x\n", WORDS, ["line 2", "no item 'x'", "(2 such items)"]),
        ("", WORDS, ["there are no events"]),
        (USERS, WORDS + "a again\n", ["item_words.txt, line 5", "`item_id` is 'a'", "also on line 1"]),
    ],
)
def test_files_that_cannot_be_used(tmp_path, users, words, parts):
    section = sequences(write(tmp_path, users, words))
    with pytest.raises(DataError) as caught:
        build_data(read_log(section), section, seed=0)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_unknown_items_can_be_skipped(tmp_path):
    section = sequences(write(tmp_path, "u a b x c\nv b c a\n"), bad_rows="skip")
    data = build_data(read_log(section), section, seed=0)
    assert [history.tolist() for history in data.histories] == [[0, 1, 2], [1, 2, 0]]
    assert data.card["losses"]["events_left_out"] == {"item that the item table lacks": 1}


def test_sequences_have_one_split(tmp_path):
    with pytest.raises(ConfigError, match="no times"):
        read_log(sequences(write(tmp_path), splits=["temporal"]))

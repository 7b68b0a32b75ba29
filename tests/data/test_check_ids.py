"""`prepare --check` on ids that stand for many people."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from llmrec.config import parse_config
from llmrec.data.check import LogCheck, check_file
from llmrec.data.prepare import build_data
from llmrec.data.readers import read_log

EVENTS = 600
USERS = 60


def check_of(path: Path, user: Callable[[int], str], item: Callable[[int], str]) -> LogCheck:
    rows = [f"{user(n)},{item(n)},{1_600_000_000 + 4_000 * n}" for n in range(EVENTS)]
    path.write_text("\n".join(["user_id,sku,timestamp", *rows]) + "\n")
    return check_file(path)


def some_item(n: int) -> str:
    return f"i{random.Random(n).randrange(8)}"


def new_item(n: int) -> str:
    """An item that a user among 60 meets once."""
    return f"i{n // USERS}"


@pytest.mark.parametrize("guest", ["0", "-1", "shop@example.org"])
def test_a_user_with_far_more_rows_than_others_may_stand_for_guests(tmp_path, guest):
    """Their repeats do not make the config keep repeats: others buy each item once."""

    def user(n: int) -> str:
        return f"u{n % USERS}" if n % 3 == 0 else guest

    check = check_of(tmp_path / "log.csv", user, new_item)
    assert check.config is not None
    assert "repeats" not in check.config["data"] and "drop" not in check.config["data"]
    assert not any("repeat an earlier one" in one for one in check.notes)
    (note,) = [one for one in check.notes if "guests" in one]
    assert note == (
        f"`user_id`: `{guest}` has 66.7% of the rows, other users at most 1.67%. If these are guests, add "
        f"`user_id=={guest}` to `data.drop`."
    )
    config = parse_config(check.config | {"data": check.config["data"] | {"drop": [f"user_id=={guest}"]}}).data
    assert build_data(read_log(config), config, seed=0).card["events"] == EVENTS / 3


@pytest.mark.parametrize("guest", ["(not set)", "guest", "Anonymous", "unknown", "Gast"])
def test_words_for_guests_are_left_out(tmp_path, guest):
    check = check_of(tmp_path / "log.csv", lambda n: f"u{n % USERS}" if n % 4 else guest, new_item)
    assert check.config is not None and check.config["data"]["drop"] == [f"user_id=={guest.casefold()}"]
    assert any(f"`user_id=={guest.casefold()}` (150) of 600" in one for one in check.notes)
    config = parse_config(check.config).data
    assert build_data(read_log(config), config, seed=0).card["events"] == EVENTS * 3 / 4


def test_users_with_numbers_from_0_are_no_guests(tmp_path):
    check = check_of(tmp_path / "log.csv", lambda n: str(n % 12), some_item)
    assert not any("guests" in one for one in check.notes)
    assert check.config is not None and check.config["data"]["repeats"] == "keep"

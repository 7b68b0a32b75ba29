"""Checks of a log: shares worked out by hand on small logs, and the warnings that they lead to."""

from dataclasses import replace

import numpy as np
import pytest

from llmrec.data.doctor import warnings_of
from llmrec.data.prepare import build_data
from tests.data.logs import config, raw_log

DAY = 86_400


def card_of(rows, columns="user_id item_id timestamp rating", **values):
    return build_data(raw_log(rows, columns), config(**values), seed=0).card


def test_order_and_gaps_by_hand():
    rows = [
        *[("u", item, time, 5.0) for item, time in (("a", 0), ("b", 10), ("c", 20), ("e", DAY + 5))],  # ascending
        *[("v", item, time, 5.0) for item, time in (("d", 3), ("a", 5), ("c", 8))],
        ("v", "a", 9, 5.0),  # one of eight clicks is a repeat
    ]
    checks = card_of(rows)["checks"]
    assert checks["sorted_histories"] == 0.5
    assert checks["sorted_by_chance"] == pytest.approx((1 / 24 + 1 / 6) / 2)
    assert checks["repeated_clicks"] == 1 / 8
    assert checks["same_day_targets"] == {"leave_one_out": 0.5}  # u's test target is a day later, v's is not
    assert checks["median_seconds_before_target"] == {"leave_one_out": (DAY - 15 + 3) / 2}
    assert checks["test_rows_seen_in_training"] is None


def test_ids_of_digits_are_in_order_of_their_numbers():
    log = raw_log([("u", item, time, 5.0) for time, item in enumerate("bca")], items=3)
    renamed = {"a": "10", "b": "2", "c": "9"}
    log = replace(log, events=[part.assign(item_id=part["item_id"].map(renamed)) for part in log.events])
    log.items["item_id"] = log.items["item_id"].map(renamed)
    assert build_data(log, config(), seed=0).card["checks"]["sorted_histories"] == 1.0


def test_a_sequence_that_another_user_has_in_training_is_known():
    rows = [("u", item, time, 5.0) for time, item in enumerate("abc")]
    rows += [("v", item, time, 5.0) for time, item in enumerate("abcde")]  # trains on abc
    rows += [("w", item, time, 5.0) for time, item in enumerate("bac")]
    checks = card_of(rows)["checks"]
    assert checks["known_sequences"] == {"leave_one_out": pytest.approx(1 / 3)}


def test_rows_of_a_given_split_that_repeat_training():
    rows = [
        ("u", "a", 0, "train"),
        ("u", "b", 1, "valid"),
        ("u", "c", 2, "test"),
        ("u", "a", 9, "test"),
    ]
    card = card_of(rows, "user_id item_id timestamp split", click=["rating"], purchase=[], splits=["given"])
    assert card["checks"]["test_rows_seen_in_training"] == 0.5
    assert any("50.0% of the test rows repeat a training row" in warning for warning in card["warnings"])


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"checks": {"sorted_histories": 1.0, "sorted_by_chance": 0.003}}, "the order of this log is not time"),
        ({"checks": {"sorted_histories": 0.13, "sorted_by_chance": 0.003}}, "equal time are probably in order of id"),
        ({"tied_events": 0.4}, "`data.seed`"),
        ({"checks": {"same_day_targets": {"given": 0.39}}}, "`later_day`"),
        ({"checks": {"median_seconds_before_target": {"leave_one_out": 20.0}}}, "one sitting"),
        ({"checks": {"known_sequences": {"given": 0.2}}}, "duplicate users"),
        ({"checks": {"repeated_clicks": 0.6}}, "predict new items"),
        ({"items": 10, "items_with_a_repeated_title": 4}, "Score by item id"),
    ],
)
def test_each_property_has_its_warning(card, words):
    (warning,) = warnings_of(card)
    assert words in warning


def test_harmless_data_and_cards_without_checks_have_no_warnings():
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", item, DAY * (time + 1), 5.0)
        for user in range(40)
        for time, item in enumerate(rng.permutation(list("abcde")))
    ]
    card = card_of(rows)
    assert card["checks"]["sorted_histories"] < 0.06 and card["tied_events"] == 0
    # Five items have few orders, so sequences do repeat.
    assert [warning for warning in card["warnings"] if "duplicate users" not in warning] == []
    assert warnings_of({}) == []

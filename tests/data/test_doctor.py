"""Checks of a log: shares worked out by hand on small logs, and the warnings that they lead to."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from llmrec.data.doctor import warnings_of
from llmrec.data.harm import Warned, as_card
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
    assert any("50.0% of the test rows repeat a training row" in warning["text"] for warning in card["warnings"])


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"checks": {"sorted_histories": 1.0, "sorted_by_chance": 0.003}}, "the order of this log is not time"),
        ({"checks": {"sorted_histories": 0.13, "sorted_by_chance": 0.003}}, "equal time are probably in order of id"),
        ({"tied_events": 0.4}, "`data.seed`"),
        ({"checks": {"same_day_targets": {"given": 0.39}}}, "`later_day`"),
        ({"checks": {"median_seconds_before_target": {"leave_one_out": 20.0}}}, "one sitting"),
        (
            {"checks": {"known_sequences": {"given": 0.2}}, "splits": {"given": {"test": {"targets": 25}}}},
            "duplicate users",
        ),
        ({"checks": {"repeated_clicks": 0.6}}, "predict new items"),
        ({"items": 10, "items_with_a_repeated_title": 4}, "Score by item id"),
        ({"users": 301, "checks": {"largest_user": 0.36}}, "One user has 36% of the clicks, of 301 users"),
        ({"items": 500, "checks": {"largest_item": 0.2}}, "One item has 20% of the clicks, of 500 items"),
        ({"exposures": 800, "checks": {"exposures": {"without_propensity": 0.25}}}, "25.0% of the 800 exposures"),
        ({"checks": {"exposures": {"uniform_sample_size": 0.02}}}, "worth 2.0% of their number"),
    ],
)
def test_each_property_has_its_warning(card, words):
    (warning,) = warnings_of(card)
    assert words in warning.text and 0 < warning.share <= 1 and warning.why


def test_few_known_sequences_may_be_chance():
    checks = {"known_sequences": {"given": 0.2}}
    assert warnings_of({"checks": checks, "splits": {"given": {"test": {"targets": 20}}}}) == []


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
    texts = [warning["text"] for warning in card["warnings"]]
    assert [text for text in texts if "duplicate users" not in text and "from 1970" not in text] == []
    assert warnings_of({}) == []


def test_one_user_with_a_third_of_the_clicks():
    """60 of 180 clicks are of one user; the mean user of 41 has 2.4 %."""
    ids = [f"i{n}" for n in range(60)]
    rows = [("program", item, 10**9 + DAY * time) for time, item in enumerate(ids)]
    rows += [(f"u{user}", ids[(7 * user + n) % 60], 10**9 + DAY * n) for user in range(40) for n in (0, 1, 2)]
    log = raw_log(rows, "user_id item_id timestamp")
    items = pd.DataFrame({"item_id": ids, "title": ids, "categories": [[] for _ in ids], "year": pd.NA})
    log = replace(log, items=items.astype({"year": "Int64"}))
    card = build_data(log, config(click=["rating"], purchase=[]), seed=0).card
    assert card["checks"]["largest_user"] == pytest.approx(1 / 3)
    assert any("One user has 33% of the clicks, of 41 users" in warning["text"] for warning in card["warnings"])
    assert not any("One item" in warning["text"] for warning in card["warnings"])


@pytest.mark.parametrize(("users", "share"), [(301, 0.09), (10, 0.36), (1, 1.0)])
def test_a_user_of_a_small_log_does_not_dominate(users, share):
    assert warnings_of({"users": users, "checks": {"largest_user": share}}) == []


def test_warnings_are_in_the_order_of_harm():
    """A repeated title is the largest share, yet it makes no result wrong."""
    card = {
        "users": 301,
        "items": 10,
        "items_with_a_repeated_title": 10,
        "tied_events": 0.76,
        "checks": {"median_seconds_before_target": {"temporal": 20.0}, "largest_user": 0.36},
    }
    losses = [Warned("odd", 1.0, "why", "odd"), Warned("wrong", 1.0, "why", "all")]
    ordered = as_card([*losses, *warnings_of(card)])
    assert [(one["harm"], one["share"]) for one in ordered] == [
        ("wrong", 1.0),
        ("wrong", 0.76),
        ("wrong", 0.5),
        ("weak", 1.0),
        ("weak", 0.36),
        ("odd", 1.0),
    ]
    assert ordered[0]["text"] == "all" and "seeded hash" in ordered[1]["text"] and "One user" in ordered[4]["text"]

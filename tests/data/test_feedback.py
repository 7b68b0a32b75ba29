"""Feedback rules: which events are clicks and which are purchases."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from llmrec.data.event_store import collect_events, open_store
from llmrec.data.feedback import match_rules
from llmrec.data.prepare import build_data
from llmrec.errors import ConfigError
from tests.data.logs import config, raw_log

EVENTS = pd.DataFrame(
    {
        "user_id": "u",
        "item_id": list("abcd"),
        "event_type": ["view", "buy", "add to cart", "view"],
        "timestamp": range(4),
        "rating": [5.0, None, 3.0, 4.0],
        "note": ["x", "y", "z", "w"],
    }
)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("view", [True, False, False, True]),
        ("add to cart", [False, False, True, False]),
        ("rating>=4", [True, False, False, True]),
        ("rating > 4", [True, False, False, False]),
        ("rating<4", [False, False, True, False]),
        ("rating<=4.0", [False, False, True, True]),
        ("rating==3", [False, False, True, False]),
        ("rating!=3", [True, False, False, True]),  # a missing rating matches nothing
    ],
)
def test_rules(rule, expected):
    assert match_rules(EVENTS, [rule], "data.click").tolist() == expected


def test_an_event_matches_if_one_rule_matches():
    assert match_rules(EVENTS, ["buy", "rating==3"], "data.click").tolist() == [False, True, True, False]
    assert not match_rules(EVENTS, [], "data.purchase").any()


def test_a_purchase_is_a_click():
    rows = [("u", item, time, kind) for time, (item, kind) in enumerate(zip("abcd", EVENTS["event_type"], strict=True))]
    log = raw_log(rows, "user_id item_id timestamp event_type")
    data = build_data(log, config(click=["view"], purchase=["buy"]), seed=0)
    assert data.histories[0].tolist() == [0, 1, 3]  # a and d are viewed, b is bought
    assert data.purchases[0].tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("rule", "clicked"),
    [
        ("rating>=4", [0, 3]),
        ("rating>4", [0]),
        ("rating<4", [2]),
        ("rating<=4.0", [2, 3]),
        ("rating==3", [2]),
        ("rating!=3", [0, 3]),
        ("timestamp>1", [2, 3]),
        ("add to cart", [2]),
    ],
)
def test_a_whole_log_is_matched_like_a_table(rule, clicked, tmp_path):
    log = replace(raw_log([("u", item, 0, 0) for item in "abcd"]), events=[EVENTS[:3], EVENTS[3:]])
    section = config(click=[rule], purchase=[])
    with open_store(collect_events(log, section, tmp_path / "events.parquet", now=0), section) as store:
        assert store.find_clicks().tolist() == [len(clicked)]
        store.keep_users(np.array([0]))
        assert store.histories()["item"].tolist() == clicked


@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        ("rating=>4", ["cannot read the rule `rating=>4`", "`rating>=4`"]),
        ("", ["cannot read the rule"]),
        ("rating>=four", ["'four'", "expected a number"]),
        ("ratings>=4", ["`ratings`", "Did you mean `rating`?", "view", "timestamp"]),
        ("veiw", ["`veiw`", "event types: add to cart, buy, view", "Did you mean `view`?"]),
        ("event_type==buy", ["write the bare word: `buy`"]),
        ("note>1", ["`note`", "no numbers"]),
    ],
)
def test_errors_of_rules_name_the_key_and_the_fix(rule, parts):
    with pytest.raises(ConfigError) as error:
        match_rules(EVENTS, [rule], "data.purchase")
    for part in ["`data.purchase`", *parts]:
        assert part in str(error.value)

"""Feedback rules: which events are clicks and which are purchases."""

import pandas as pd
import pytest

from llmrec.data.feedback import feedback, match_rules
from llmrec.errors import ConfigError

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
    clicks, purchases = feedback(EVENTS, ["view"], ["buy"])
    assert clicks.tolist() == [True, True, False, True]
    assert purchases.tolist() == [False, True, False, False]


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

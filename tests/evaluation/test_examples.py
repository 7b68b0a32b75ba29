"""Examples in report.json: real users, what they really took, and each statement as the checker sees it."""

import pytest

from llmrec.catalogue.facts import FactBook
from llmrec.evaluation.examples import USERS, answers, example_targets, examples
from llmrec.language.groundedness import check, marks
from llmrec.language.prompt import Recommendation
from tests.conftest import make_config


@pytest.fixture(scope="module")
def facts(data) -> FactBook:
    return FactBook.from_data(data)


def test_marks_worked_by_hand(facts):
    """Item 0 (Drama, War, 1990s) after item 1 (Comedy, 1990s, the same director) and item 2, which nobody has had."""
    segments = (" Like", 1, ", it is War from the 1990s by Bob. Bob 7 too, Drama. After", 2, " with the same director.")
    recommendation = Recommendation(0, segments, True)
    found = marks(facts, recommendation, {1})
    assert [(mark.segment, mark.true, mark.fact) for mark in found] == [
        (" Like", None, False),
        (1, True, False),
        (", it is ", None, False),
        ("War", False, True),  # of the cited item it does not hold
        (" ", None, False),
        ("from the 1990s", True, True),
        (" by ", None, False),
        ("Bob", False, False),  # a name that no fact explains
        (". Bob ", None, False),  # the first word of a sentence is no name
        ("7", False, False),
        (" too, ", None, False),
        ("Drama", True, True),  # nothing is cited in this sentence
        (". After", None, False),
        (2, False, False),
        (" ", None, False),
        ("with the same director", False, True),
        (".", None, False),
    ]
    checked = check(facts, recommendation, {1})
    assert (checked.true, checked.statements) == (3, 8) and not checked.grounded


def test_example_targets_are_of_different_users_and_follow_the_seed(data):
    config = make_config("none")
    chosen = example_targets(data, config)
    assert len(chosen) == len(set(chosen.users)) == USERS
    assert chosen.users.tolist() == example_targets(data, config).users.tolist()
    others = [example_targets(data, make_config("none", seed=seed)).users.tolist() for seed in range(1, 5)]
    assert any(users != chosen.users.tolist() for users in others)


def test_answers_stand_beside_what_the_user_took(policy, data):
    config, titles = make_config("none"), data.items["title"].tolist()
    found = examples(data, config, {"sft": answers(policy, data, config)})
    assert len(found) == USERS
    for one in found:
        user = data.user_index[one["user"]]
        history = data.histories[user][:-1]
        assert one["history"] == [titles[item] for item in history][-8:]
        assert one["took"] == titles[data.histories[user][-1]]
        assert one["sft"]["item"] in titles
        said = one["sft"]["justification"]
        for part in said:
            if part["true"] and part["text"].strip().startswith('"'):
                assert part["text"].strip(' "') in {titles[item] for item in history}
        assert not one["sft"]["grounded"] or all(part["true"] is not False for part in said)

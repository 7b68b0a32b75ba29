"""Examples in report.json: users, the items they clicked next, and each statement as the checker marks it."""

import pytest

from llmrec.catalogue.facts import FactBook
from llmrec.evaluation.examples import USERS, answers, example_targets, examples
from llmrec.language.groundedness import check, statements
from llmrec.language.prompt import Recommendation
from tests.conftest import make_config


@pytest.fixture(scope="module")
def facts(data) -> FactBook:
    return FactBook.from_data(data)


def test_marks_worked_by_hand(facts):
    """Item 0 (Drama, War, 1990s) follows item 1 (Comedy, 1990s, same director). Item 2 is cited but was never seen."""
    segments = (" Like", 1, ", it is War from the 1990s by Bob. Bob 7 too, Drama. After", 2, " with the same director.")
    recommendation = Recommendation(0, segments, True)
    found = statements(facts, recommendation, {1})
    assert [(mark.segment, mark.true, mark.fact) for mark in found] == [
        (" Like", None, False),
        (1, True, False),
        (", it is ", None, False),
        ("War", False, True),  # false of the cited item
        (" ", None, False),
        ("from the 1990s", True, True),
        (" by ", None, False),
        ("Bob", False, False),  # an unknown name
        (". Bob ", None, False),  # the first word of a sentence is not taken for a name
        ("7", False, False),
        (" too, ", None, False),
        ("Drama", True, True),  # this sentence cites nothing
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


def test_answers_stand_beside_the_item_that_the_user_clicked(policy, data):
    config = make_config("none")
    titles = data.items["title"].tolist()
    found = examples(data, config, {"sft": answers(policy, data, config)})
    assert len(found) == USERS
    for one in found:
        user = data.user_index[one.user]
        history = data.histories[user][:-1]
        assert one.history == [titles[item] for item in history][-8:]
        assert one.took == titles[data.histories[user][-1]]
        assert one.sft is not None and one.sft.item in titles and one.ppo is None
        statements = one.sft.justification
        for statement in statements:
            if statement.true and statement.text.strip().startswith('"'):
                assert statement.text.strip(' "') in {titles[item] for item in history}
        assert not one.sft.grounded or all(statement.true is not False for statement in statements)

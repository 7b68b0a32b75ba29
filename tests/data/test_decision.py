"""Decisions: a user at a moment, alone and by column."""

import numpy as np
import pytest

from llmrec.config import CatalogueConfig
from llmrec.data.dataset import Targets
from llmrec.data.decision import Decision, Decisions, stranger
from tests.conftest import make_data

CATALOGUE = CatalogueConfig(max_history=2, user_attributes=["age"])


@pytest.fixture(scope="module")
def data():
    return make_data()


def test_a_decision_knows_what_was_known_before_its_target(data):
    position = len(data.histories[2]) - 1
    decisions = Decisions.from_targets(data, Targets(np.array([2]), np.array([position])), CATALOGUE)
    decision = decisions[0]
    history = data.histories[2][:position].tolist()
    assert decision.history.tolist() == history
    assert (list(decision.prior), list(decision.items)) == (history[:-2], history[-2:])
    assert decision.known_purchases.tolist() == data.purchases_before(2, position).tolist()
    assert (decision.user, decision.target, decision.profile) == (2, int(data.histories[2][position]), "42")


def test_the_end_of_a_history_has_no_target(data):
    end = len(data.histories[0])
    decisions = Decisions.from_targets(data, Targets(np.array([0]), np.array([end])), CATALOGUE)
    assert decisions.targets.tolist() == [-1] and decisions[0].target is None


def test_selection_slices_and_batches_keep_rows_together(data):
    targets = Targets(np.array([3, 0, 2, 1]), np.array([2, 1, 2, 1]))
    decisions = Decisions.from_targets(data, targets, CATALOGUE)
    chosen = decisions.select([2, 0])
    assert [one.user for one in chosen] == [2, 3]
    assert [one.history.tolist() for one in chosen] == [decisions[m].history.tolist() for m in (2, 0)]
    assert [one.user for one in decisions[1:3]] == [0, 2]
    assert [len(part) for part in decisions.batches(3)] == [3, 1]


def test_columns_of_single_decisions_give_them_back():
    asked = [Decision("20", [9], [0, 2], [True, False, True], target=4), Decision("31", [], [5])]
    decisions = Decisions.from_decisions(asked, max_history=2)
    first, second = decisions
    assert (first["prior"], first["items"], first["purchased"]) == ([9], [0, 2], [True, False, True])
    assert (first.target, first.user) == (4, None)
    assert second["purchased"] == [False] and second["profile"] == "31"


def test_reward_functions_read_a_decision_as_a_mapping_without_the_target():
    row = Decision("20", [9], np.array([0, 2]), [True, False, True], user=3, target=4)
    assert row.get("user") == 3 and row.get("target", "none") == "none" and "items" in row and "target" not in row
    assert dict(row) == {"user": 3, "profile": "20", "prior": [9], "items": [0, 2], "purchased": [True, False, True]}
    with pytest.raises(KeyError, match="target"):
        row["target"]


def test_a_stranger_is_not_recommended_what_is_excluded():
    decision = stranger([4, 5, 6], max_history=2, excluded=[1])
    assert (decision.prior, decision.items, decision.user) == ([4], [5, 6], None)
    assert sorted(decision.masked.tolist()) == [1, 4, 5, 6]

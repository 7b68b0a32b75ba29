"""Intervals over users, verdicts, and targets that two splits share."""

import numpy as np
import pytest

from llmrec.data.dataset import Targets
from llmrec.data.decision import Decisions
from llmrec.evaluation.comparisons import user_mean
from llmrec.evaluation.ranking import distinct_targets, rank, rank_policy
from llmrec.evaluation.report import Estimate
from llmrec.policy.ranking import item_scores
from tests.conftest import make_config

SETTINGS = {"samples": 200, "seed": 0}


def test_intervals_are_over_users_and_leave_out_what_is_undefined():
    found = user_mean(np.array([1.0, 0.0, np.nan, 1.0, np.nan]), np.array([3, 3, 3, 4, 5]), **SETTINGS)
    assert found.value == 0.75 and found.n == 2
    assert user_mean(np.array([np.nan]), np.array([1]), **SETTINGS) == Estimate(value=None, ci95=None, n=0)


def test_shared_questions_are_asked_once():
    splits = {"a": Targets(np.array([2, 0, 1]), np.array([5, 3, 4])), "b": Targets(np.array([1, 2]), np.array([4, 1]))}
    distinct, rows = distinct_targets(splits)
    assert len(distinct) == 4
    for split, targets in splits.items():
        assert distinct.users[rows[split]].tolist() == targets.users.tolist()
        assert distinct.positions[rows[split]].tolist() == targets.positions.tolist()


@pytest.mark.parametrize("scheme", ["atomic"], indirect=True)
def test_a_policy_is_ranked_in_the_order_of_its_questions(policy, data, tiny_base):
    config = make_config(tiny_base)
    targets = Targets(np.array([0, 3, 0, 2, 5]), np.array([5, 2, 1, 6, 3]))
    decisions = Decisions.from_targets(data, targets, config.catalogue)
    alone = np.concatenate([next(item_scores(policy, [decision])).numpy() for decision in decisions])
    ranked, log_probs = rank_policy(policy, decisions, 0, lambda _: None, keep=True)
    assert log_probs.numpy() == pytest.approx(alone, abs=1e-4)
    whole = rank(lambda _: alone, decisions, 0)
    assert ranked.ranks.tolist() == whole.ranks.tolist() and ranked.lists.tolist() == whole.lists.tolist()


def test_a_merged_policy_is_the_same_policy(policy, data, tiny_base):
    targets = Targets(np.array([0, 3]), np.array([5, 2]))
    decisions = Decisions.from_targets(data, targets, make_config(tiny_base).catalogue)
    before = next(item_scores(policy, decisions))
    policy.merge()
    assert any(getattr(module, "merged", False) for module in policy.model.modules())
    assert next(item_scores(policy, decisions)).numpy() == pytest.approx(before.numpy(), abs=1e-4)

"""Measurements of requests: hand-worked numbers, and controls whose results are known in advance."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from llmrec.data.dataset import Targets
from llmrec.data.decision import Decisions
from llmrec.evaluation import requests
from llmrec.evaluation.ranking import Ranked, rank_batches
from llmrec.evaluation.requests import Asked, draw_requests, request_report, satisfied_share
from llmrec.policy.model import RecPolicy
from llmrec.requests.attributes import Attributes
from llmrec.requests.request import Condition, Request
from tests.conftest import disturb, make_config


def test_the_share_counts_no_more_items_than_can_satisfy():
    satisfied = np.zeros((3, 12), dtype=bool)
    satisfied[0, [0, 5]] = True
    satisfied[1, :] = True
    lists = np.stack([np.arange(10), np.arange(10), np.full(10, -1)])
    asked = Asked(np.arange(3), None, satisfied, np.array([2, 12, 0]))  # pyright: ignore[reportArgumentType]
    # Row 0: both of two. Row 1: ten of ten. Row 2: an empty list.
    assert satisfied_share(lists, asked).tolist() == [1.0, 1.0, 0.0]
    assert satisfied_share(lists, replace(asked, open=np.array([4, 12, 0]))).tolist() == [0.5, 1.0, 0.0]


def test_rankings_by_hand():
    """Two users of six items who have seen item 5. The request leaves items 1 and 3 open."""
    satisfied = np.array([[False, True, False, True, False, True]] * 2)
    decisions = Decisions(
        profiles=["new user"] * 2,
        histories=[np.array([5])] * 2,
        purchased=[np.array([False])] * 2,
        users=np.array([0, 1]),
        targets=np.array([3, 1]),
        max_history=4,
        requests=[Request("x", (Condition("category", "X"),))] * 2,
    )
    asked = Asked(np.arange(2), decisions, satisfied, np.array([2, 2]))
    without = np.log([[0.3, 0.25, 0.2, 0.15, 0.1, 1e-9], [0.1, 0.15, 0.2, 0.25, 0.3, 1e-9]])
    clicks = np.array([50, 4, 3, 9, 1, 7])
    with_request = Ranked(ranks=np.array([1.0, 2.0]), lists=np.array([[3, 1, 0, 2, 4, *[-1] * 5]] * 2))
    found = request_report(asked, with_request, without, clicks, samples=50, seed=0)
    one, second, fourth = 1.0, 1 / np.log2(3), 1 / np.log2(5)
    expected = {
        "satisfied": 1.0,
        "satisfied_without": 1.0,  # five items are left, so the list holds them all
        "ndcg": (one + second) / 2,
        "ndcg_without": fourth,  # fourth of five for both users
        "ndcg_oracle": second,  # second of the two that satisfy
        "ndcg_popular": (one + second) / 2,  # item 3 is the more popular one
        "of_oracle": (one + second) / 2 / second,
    }
    values = {name: getattr(found, name).value for name in expected}
    assert values == pytest.approx(expected) and found.requests == 2 and found.of_oracle.n == 2


def test_requests_are_true_of_the_targets(data):
    lengths = np.array([len(history) for history in data.histories])
    decisions = Decisions.from_targets(data, Targets(np.arange(6), lengths - 1))
    asked = draw_requests(decisions, Attributes.from_data(data), "trained_wording", 1, seed=0)
    assert len(asked.rows) >= 4 and len(asked.decisions.requests) == len(asked.rows) == len(asked.satisfied)
    assert asked.satisfied[np.arange(len(asked.rows)), asked.decisions.targets].all()
    assert (asked.open >= 1).all() and (asked.open <= asked.satisfied.sum(1)).all()


def test_a_policy_that_knows_the_conditions_reaches_the_oracle(tiny_base, data, monkeypatch):
    """If the ranking with the request is the filtered one, all of it satisfies and the ratio is 1."""
    policy = RecPolicy.create(make_config(tiny_base, sft={"requests": 0.5}), data).eval()
    disturb(policy)
    lengths = np.array([len(history) for history in data.histories])
    decisions = Decisions.from_targets(data, Targets(np.arange(6), lengths - 1), policy.catalogue)
    from llmrec.evaluation.ranking import rank_policy

    _, log_probs = rank_policy(policy, decisions, 0, lambda _: None, keep=True)

    def filtered(policy, asked, seed, advance):
        masks = np.array([policy.attributes.satisfied(one.conditions) for one in asked.requests])
        rows = [decisions.users.tolist().index(user) for user in asked.users]
        scores = np.where(masks, log_probs[rows].numpy(), -np.inf)
        ranked = rank_batches([scores], asked, seed)
        lists = [[i if i >= 0 and masks[m, i] else -1 for i in row] for m, row in enumerate(ranked.lists)]
        return Ranked(ranked.ranks, np.array(lists)), torch.from_numpy(scores)

    monkeypatch.setattr(requests, "rank_policy", filtered)
    clicks = np.ones(10)
    found = requests.request_reports(policy, decisions, log_probs, clicks, 50, 0, lambda _: None)
    assert {"trained_wording_1", "unseen_wording_1"} <= set(found)
    for one in found.values():
        assert one.satisfied.value == 1.0 and one.of_oracle.value == pytest.approx(1.0)
        assert one.ndcg.value == one.ndcg_oracle.value >= one.ndcg_without.value

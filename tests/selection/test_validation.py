"""NDCG and list rewards on validation, worked by hand."""

import math

import pytest
import torch

from llmrec.evaluation.metrics import rank_of_target
from llmrec.selection.validation import best_items, mean_list_reward, user_ndcg

SCORES = torch.tensor([[3.0, 2.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, -torch.inf]])
TARGETS = torch.tensor([1, 0, 2])


def test_ndcg_by_hand():
    # Rank 2; tied for rank 1 with one other item, so rank 1.5; not ranked.
    expected = (1 / math.log2(3) + 1 / math.log2(2.5) + 0) / 3
    assert user_ndcg(SCORES, TARGETS).mean() == pytest.approx(expected)
    assert user_ndcg(SCORES, TARGETS, k=1).mean() == 0


def test_the_rank_of_a_target_is_the_same_for_arrays_and_tensors():
    assert rank_of_target(SCORES, TARGETS).tolist() == [2.0, 1.5, math.inf]
    assert rank_of_target(SCORES.numpy(), TARGETS.numpy()).tolist() == [2.0, 1.5, math.inf]


def test_a_more_confident_policy_has_the_same_list_reward():
    scores = torch.tensor([[0.0, 1.0, 2.0, 3.0], [3.0, 2.0, -torch.inf, -torch.inf]])
    lists = best_items(scores, 3)
    assert lists.tolist() == [[3, 2, 1], [0, 1, -1]] and torch.equal(best_items(9 * scores, 3), lists)
    rewards = torch.tensor([[9.0, 1.0, 2.0, 6.0], [5.0, 8.0, 9.0, 9.0]])
    assert mean_list_reward(lists, rewards).tolist() == [3.0, 6.5]

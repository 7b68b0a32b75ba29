"""Metrics of purchases, worked out by hand, and their report."""

import numpy as np
import pytest

from llmrec.evaluation.purchases import purchase_columns, purchase_report


def test_only_purchased_targets_count():
    found = purchase_columns(np.array([1.0, 3.0, 1.0, 11.0]), np.array([True, True, False, True]))
    assert found["purchase_hr@10"] == pytest.approx([1, 1, np.nan, 0], nan_ok=True)
    assert found["purchase_ndcg@10"] == pytest.approx([1, 0.5, np.nan, 0], nan_ok=True)
    assert found["purchases@10"].tolist() == [1, 1, 0, 0]  # a purchased target in the list


def test_the_optimum_is_compared_with_the_rankings_that_need_no_rl():
    ranks = {"optimum": [1.0, 1.0, 1.0, 1.0], "sft_reranked": [3.0, 3.0, 1.0, 1.0], "reward_model": [1.0] * 4}
    rankings = {0.5: {name: np.array(values) for name, values in ranks.items()}}
    purchased = np.array([True, True, False, False])
    found = purchase_report(rankings, purchased, np.arange(4), samples=200, seed=0)["0.5"]
    assert found.models["sft_reranked"]["ndcg@10"].value == 0.75
    assert found.models["sft_reranked"]["purchase_ndcg@10"].value == 0.5
    assert found.models["optimum"]["purchases@10"].value == 0.5
    difference = found.differences["sft_reranked"]
    assert (difference.difference, difference.n, difference.conclusion) == (0.5, 2, None)
    none = purchase_report(rankings, np.zeros(4, dtype=bool), np.arange(4), samples=200, seed=0)["0.5"]
    assert none.differences == {} and none.models["optimum"]["purchase_ndcg@10"].value is None

"""Ranking metrics and bootstrap, against numbers computed by hand."""

import numpy as np
import pytest
import torch

from llmrec.evaluation.metrics import (
    bootstrap_ci,
    bootstrap_ratio,
    coverage,
    hit_rate,
    holm,
    ndcg,
    paired_bootstrap,
    per_user,
    rank_of_target,
    ranks,
    reciprocal_rank,
    resampled_means,
    smallest_detectable,
    tie_keys,
    top_k,
    user_matrix,
)

SCORES = np.array([[0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1]])


def test_ranks_among_allowed_items():
    assert ranks(SCORES, [2, 3]).tolist() == [3, 4]
    excluded = np.zeros((2, 4), dtype=bool)
    excluded[0, 1] = excluded[1, :2] = True
    assert ranks(SCORES, [2, 3], excluded).tolist() == [2, 2]
    assert ranks(SCORES, [2, 3], [np.array([1]), np.array([0, 1])]).tolist() == [2, 2]


def test_excluded_items_count_nowhere_and_once():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (200, 30)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    targets = rng.integers(0, 30, 200)
    excluded = [rng.choice(np.delete(np.arange(30), target), rng.integers(0, 28)) for target in targets]
    allowed = [np.setdiff1d(np.arange(30), items) for items in excluded]
    among = [row[items] for row, items in zip(scores, allowed, strict=True)]
    expected = [
        1 + (values > score).sum() + ((values == score).sum() - 1) / 2 if np.isfinite(score) else np.inf
        for values, score in zip(among, scores[np.arange(200), targets], strict=True)
    ]
    assert ranks(scores, targets, excluded).tolist() == expected
    keys = tie_keys(30, 3)
    for best, items, values in zip(top_k(scores, 5, excluded, seed=3), allowed, among, strict=True):
        in_order = items[np.lexsort((keys[items], -values))][:5]
        assert best.tolist() == [*in_order, *[-1] * (5 - len(in_order))]


def test_tied_items_share_the_mean_of_their_places():
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 1.0, 0.0], [5.0, 5.0, 5.0], [0.0, 1.0, -np.inf]])
    targets = np.array([1, 0, 2, 2])
    assert ranks(scores, targets).tolist() == [2.0, 1.5, 2.0, np.inf]
    assert rank_of_target(torch.from_numpy(scores), torch.from_numpy(targets)).tolist() == [2.0, 1.5, 2.0, np.inf]
    assert ranks(scores[2:3], [2], [[0]]).tolist() == [1.5]  # an excluded item does not tie


def test_the_rank_is_the_expected_rank_under_a_random_order_of_ties():
    rng = np.random.default_rng(0)
    scores = np.round(rng.random((20, 12)), 1)
    targets = rng.integers(0, 12, 20)
    shuffled = [ranks(scores + 1e-6 * rng.random(scores.shape), targets) for _ in range(4000)]
    # One rank has a standard deviation of at most 2 here, so the mean of 4,000 has one of at most .03.
    assert ranks(scores, targets) == pytest.approx(np.mean(shuffled, axis=0), abs=0.15)


def test_lists_order_ties_by_their_keys():
    assert top_k(np.zeros((1, 5)), 5, seed=4)[0].tolist() == np.argsort(tie_keys(5, 4)).tolist()


def test_lists_are_the_front_of_the_whole_order():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (20, 30)).astype(np.float32)  # many ties, also at the end of the list
    scores[rng.random(scores.shape) < 0.3] = -np.inf
    excluded = [rng.permutation(30)[:count] for count in range(6, 26)]
    found = top_k(scores, 7, excluded, seed=3)
    for row, hidden in enumerate(excluded):
        order = [item for item in np.lexsort((tie_keys(30, 3), -scores[row])).tolist() if item not in hidden][:7]
        assert found[row].tolist() == order + [-1] * (7 - len(order))


def test_tie_keys_depend_on_seed_only():
    assert tie_keys(5, 1).tolist() == tie_keys(9, 1)[:5].tolist()
    assert tie_keys(5, 1).tolist() != tie_keys(5, 2).tolist()
    positions = np.argsort(tie_keys(10_000, 0))
    assert abs(np.corrcoef(positions, np.arange(10_000))[0, 1]) < 0.05


def test_ranks_refuse_invalid_arguments():
    with pytest.raises(ValueError, match="NaN"):
        ranks(np.array([[np.nan, 1.0]]), [0])
    with pytest.raises(ValueError, match="row 1 is among its excluded"):
        ranks(SCORES, [2, 3], [[], [3]])
    with pytest.raises(ValueError, match="excluded has 1 rows"):
        ranks(SCORES, [2, 3], [[]])


def test_hit_rate_ndcg_and_reciprocal_rank():
    rank = np.array([1, 3, 11])
    assert hit_rate(rank, 10).tolist() == [1, 1, 0]
    assert ndcg(rank, 10).tolist() == [1.0, 0.5, 0.0]  # 1 / log2(1 + 3) = 1 / 2
    assert reciprocal_rank(rank).tolist() == pytest.approx([1, 1 / 3, 1 / 11])


def test_metrics_equal_those_of_ranx():
    """The expected numbers are those of ranx 0.3.21 with one relevant item per query."""
    rng = np.random.default_rng(5)
    scores = rng.random((40, 30))
    targets = rng.integers(0, 30, 40)
    rank = ranks(scores, targets)
    found = {"mrr": reciprocal_rank(rank).mean()}
    for k in (5, 10):
        found |= {f"hit_rate@{k}": hit_rate(rank, k).mean(), f"ndcg@{k}": ndcg(rank, k).mean()}
    assert found == pytest.approx(
        {
            "hit_rate@5": 0.175,  # ranx's recall@5 and recall@10 are the same numbers as its hit rates
            "hit_rate@10": 0.3,
            "ndcg@5": 0.11011588420101352,
            "ndcg@10": 0.15146097438466716,
            "mrr": 0.14453452926914426,
        }
    )


def test_ranks_are_mean_positions_in_the_sorted_list():
    rng = np.random.default_rng(1)
    scores = np.round(rng.random((30, 12)), 1)
    targets = rng.integers(0, 12, 30)
    excluded = [np.setdiff1d(rng.integers(0, 12, 4), target) for target in targets]
    keys = tie_keys(12, 3)
    for row, target in enumerate(targets):
        order = sorted(set(range(12)) - set(excluded[row]), key=lambda i: (-scores[row, i], keys[i]))
        tied = [place for place, item in enumerate(order, start=1) if scores[row, item] == scores[row, target]]
        assert ranks(scores, targets, excluded)[row] == np.mean(tied)
        assert top_k(scores, 12, excluded, seed=3)[row, : len(order)].tolist() == order


def test_top_k_and_coverage():
    top = top_k(SCORES, 3, [[1], [0, 1]])
    assert top.tolist() == [[3, 2, 0], [2, 3, -1]]
    assert coverage(top, 4) == 0.75
    assert coverage(top[:, :1], 4) == 0.5


def test_per_user_averages_within_users_first():
    users, means = per_user(np.array([1.0, 0.0, 1.0, 1.0]), np.array([7, 7, 2, 7]))
    assert users.tolist() == [2, 7]
    assert means.tolist() == pytest.approx([1.0, 2 / 3])


def test_the_interval_of_a_constant_has_no_width():
    assert bootstrap_ci(np.full(5, 0.25), samples=100, seed=0) == (0.25, 0.25, 0.25)


def test_the_bootstrap_interval_matches_the_normal_interval():
    values = np.tile([0.0, 1.0], 200)
    mean, low, high = bootstrap_ci(values, samples=4000, seed=1)
    # The standard error of a fair coin over 400 users is 0.5 / 20; the interval is 1.96 of them to each side.
    assert mean == 0.5
    assert (low, high) == (pytest.approx(0.451, abs=0.004), pytest.approx(0.549, abs=0.004))
    assert bootstrap_ci(values, 200, 7) == bootstrap_ci(values, 200, 7)


def test_paired_bootstrap_uses_the_pairing():
    rng = np.random.default_rng(0)
    b = rng.random(300)
    difference, low, high, p = paired_bootstrap(b + 0.01, b, samples=500)
    assert (difference, low, high) == pytest.approx((0.01, 0.01, 0.01))
    assert p == pytest.approx(2 / 501)
    assert paired_bootstrap(b, b, samples=100)[3] == 1.0


def test_the_bootstrap_refuses_invalid_arguments():
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_ci(np.array([]))
    with pytest.raises(ValueError, match="finite"):
        bootstrap_ci(np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match="for the same users"):
        paired_bootstrap(np.zeros(2), np.zeros(3))


def test_several_seeds_are_resampled_with_the_users():
    """Users that are all alike leave only the variance of seeds, and equal seeds only that of users."""
    seeds = np.array([0.0, 0.3, 0.9])
    mean, low, high = bootstrap_ci(np.tile(seeds[:, None], (1, 50)), samples=2000, seed=0)
    assert (mean, low, high) == pytest.approx((0.4, 0.0, 0.9))  # three times the same seed has probability 1/27 each
    users = np.tile([0.0, 1.0], 200)
    assert bootstrap_ci(np.stack([users] * 3), 2000, 1) == pytest.approx(bootstrap_ci(users, 2000, 1), abs=0.01)
    wide = resampled_means(np.stack([users, users + 0.3]), 4000, 0).std()
    # Variances add: .5 / 20 of users, and of two seeds that differ by .3 the mean of two draws, .15 / sqrt(2).
    assert wide == pytest.approx(np.hypot(0.025, 0.15 / np.sqrt(2)), rel=0.05)


def test_seeds_with_other_users_are_lined_up_by_user():
    of_seeds = [np.array(["b", "b", "a", "d"]), np.array(["c"])]
    users, table = user_matrix([np.array([1.0, 0.0, 3.0, np.nan]), np.array([5.0])], of_seeds)
    assert users.tolist() == ["a", "b", "c"]
    assert np.array_equal(table, [[3.0, 0.5, np.nan], [np.nan, np.nan, 5.0]], equal_nan=True)
    assert bootstrap_ci(table, samples=200)[0] == (1.75 + 5) / 2
    with pytest.raises(ValueError, match="a seed without any"):
        bootstrap_ci(np.array([[1.0], [np.nan]]))


def test_a_ratio_is_resampled_in_pairs():
    denominator = np.tile([1.0, 3.0], 50)
    assert bootstrap_ratio(0.5 * denominator, denominator, samples=100) == pytest.approx((0.5, 0.5, 0.5))
    assert bootstrap_ratio(denominator, np.tile([-1.0, 1.1], 50), samples=500) is None  # its interval holds 0
    assert bootstrap_ratio(denominator, -denominator, samples=100) is None
    with pytest.raises(ValueError, match="same users"):
        bootstrap_ratio(np.zeros(2), np.zeros(3))


def test_the_smallest_detectable_difference():
    # An interval of +-1.96 standard errors; 1.960 + 0.842 of them are detected with probability .8.
    assert smallest_detectable(-1.96, 1.96) == pytest.approx(2.802, abs=1e-3)
    assert smallest_detectable(-1.96, 1.96, tests=10) == pytest.approx(2.807 + 0.842, abs=1e-3)
    rng = np.random.default_rng(0)
    users = 100
    edge = smallest_detectable(-1.96 / np.sqrt(users), 1.96 / np.sqrt(users))
    draws = edge + rng.normal(size=(2000, users)).mean(1)
    assert (draws > 1.96 / np.sqrt(users)).mean() == pytest.approx(0.8, abs=0.03)


def test_holm_adjusts_in_the_given_order():
    # In ascending order 0.01 x 3, 0.03 x 2 and 0.04 x 1, then made non-decreasing.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


def test_few_users_are_never_significant():
    for users in (1, 2, 5):
        assert paired_bootstrap(np.ones(users), np.zeros(users))[3] == 2.0 ** (1 - users)
    mostly_equal = np.r_[np.ones(5), np.zeros(100)]
    assert paired_bootstrap(mostly_equal, np.zeros(105))[3] >= 2.0**-4
    assert paired_bootstrap(np.ones(40), np.zeros(40))[3] == pytest.approx(2 / 1001)

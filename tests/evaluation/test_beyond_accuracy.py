"""Metrics of lists, against numbers computed by hand and loops that follow the definitions."""

import numpy as np
import pytest

from llmrec.evaluation.beyond_accuracy import (
    category_calibration,
    category_matrix,
    diversity,
    gini,
    novelty,
    popularity_bias,
)

NAMES = [["Drama", "War"], ["Drama"], ["War", "Comedy"], [], ["Comedy"]]
CATEGORIES = category_matrix(NAMES)
CLICKS = np.array([7, 3, 1, 0, 0])


def test_category_matrix_has_one_column_per_name():
    assert CATEGORIES.astype(int).tolist() == [[0, 1, 1], [0, 1, 0], [1, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert category_matrix([[], []]).shape == (2, 0)


def test_diversity_is_the_mean_jaccard_distance():
    # Drama+War and Drama share 1 of 2, Drama+War and War+Comedy 1 of 3, Drama and War+Comedy nothing.
    assert diversity(np.array([[0, 1, 2]]), CATEGORIES) == pytest.approx([(1 / 2 + 2 / 3 + 1) / 3])
    # Items without categories and the filler -1 form no pair.
    assert diversity(np.array([[0, 1, 3], [0, 1, -1]]), CATEGORIES) == pytest.approx([1 / 2, 1 / 2])
    assert np.isnan(diversity(np.array([[0, 3], [3, -1]]), CATEGORIES)).all()


def test_novelty_is_self_information_in_bits():
    # Of 7 users, 7 and 1 clicked: -log2(8/8) and -log2(2/8).
    assert novelty(np.array([[0, 2], [0, -1]]), CLICKS, 7) == pytest.approx([1.0, 0.0])


def test_popularity_bias_is_relative_to_the_history_of_the_user():
    # The list: (8 + 4) / 2 = 6. The histories: 4, and (2 + 1 + 1) / 3.
    bias = popularity_bias(np.array([[0, 1]] * 3), [np.array([1]), np.array([2, 3, 4]), np.array([], int)], CLICKS)
    assert bias[:2] == pytest.approx([0.5, 3.5]) and np.isnan(bias[2])


def test_category_calibration_follows_steck():
    histories = [np.array([0, 4]), np.array([0, 1]), np.array([3]), np.array([1])]
    lists = np.array([[1, 2, 3, -1], [0, 1, -1, -1], [1, 2, -1, -1], [3, -1, -1, -1]])
    p = {"Comedy": 0.5, "Drama": 0.25, "War": 0.25}
    q = {"Comedy": 0.25, "Drama": 0.5, "War": 0.25}
    expected = sum(p[g] * np.log(p[g] / (0.99 * q[g] + 0.01 * p[g])) for g in p)
    values = category_calibration(lists, histories, CATEGORIES)
    assert values[:2] == pytest.approx([expected, 0.0])
    assert np.isnan(values[2:]).all()  # no categories in the third history and in the fourth list


def test_a_category_missing_from_the_list_has_a_finite_cost():
    value = category_calibration(np.array([[4]]), [np.array([1])], CATEGORIES)
    assert value == pytest.approx([np.log(1 / 0.01)])


def test_gini_of_equal_counts_and_of_a_single_item():
    assert gini(np.array([[0, 1], [2, 3]]), 4) == pytest.approx(0)
    assert gini(np.array([[1], [1]]), 4) == pytest.approx(3 / 4)


def test_gini_is_half_the_relative_mean_difference():
    lists = np.random.default_rng(0).integers(-1, 6, (40, 5))
    counts = np.array([(lists == item).sum() for item in range(8)])
    expected = np.abs(counts[:, None] - counts).mean() / (2 * counts.mean())
    assert gini(lists, 8) == pytest.approx(expected)

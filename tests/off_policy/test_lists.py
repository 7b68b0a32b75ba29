"""Lists: below the first position, a policy chooses among the items that are not shown above."""

import itertools

import numpy as np
import pandas as pd
import pytest

from llmrec.off_policy import estimators
from llmrec.off_policy.policies import without_items_above


def rounds(rows: list[tuple[int, int, int]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["ranking", "position", "item"])


def test_items_above_are_masked_and_the_rest_is_normalized() -> None:
    """Two lists in mixed order, and a round without a list. 0.2 + 0.1 + 0.2 = 0.5 and so on, by hand."""
    one = [0.5, 0.2, 0.1, 0.2]
    shown = rounds([(0, 2, 1), (7, 1, 3), (0, 1, 0), (0, 3, 3), (7, 2, 0), (-1, 5, 2)])
    found = without_items_above(np.array([one] * 6), shown)
    expected = [
        [0, 0.4, 0.2, 0.4],  # item 0 is above
        one,
        one,
        [0, 0, 1 / 3, 2 / 3],  # items 0 and 1 are above
        [0.625, 0.25, 0.125, 0],  # item 3 is above
        one,
    ]
    assert found == pytest.approx(np.array(expected))


def test_a_policy_that_has_nothing_left_has_no_probability() -> None:
    found = without_items_above(np.array([[1.0, 0.0]] * 2), rounds([(0, 1, 0), (0, 2, 1)]))
    assert found.tolist() == [[1, 0], [0, 0]]


def test_weights_of_lists_estimate_a_policy_without_bias() -> None:
    """All lists of two of three items, each with its probability: the estimates are exact at both positions.

    The clicks have the rates 0.1, 0.5 and 0.9. Both policies draw items one after the other without those above. The
    value of the policy at position 2 is the one after the items that the logging policy shows above.
    """
    logging = np.array([0.5, 0.3, 0.2])
    policy = np.array([0.1, 0.2, 0.7])
    rates = np.array([0.1, 0.5, 0.9])
    lists = list(itertools.permutations(range(3), 2))
    chance = np.array([logging[a] * logging[b] / (1 - logging[a]) for a, b in lists])
    shown = rounds([(n, p, item) for n, pair in enumerate(lists) for p, item in enumerate(pair, start=1)])
    propensity = np.array([value for a, b in lists for value in (logging[a], logging[b] / (1 - logging[a]))])
    of_policy = without_items_above(np.array([policy] * len(shown)), shown)
    weights = estimators.importance_weights(of_policy[np.arange(len(shown)), shown["item"]], propensity)
    products = weights * rates[shown["item"]]
    assert chance @ products[::2] == pytest.approx(policy @ rates)
    # Position 2 by hand: P(above) of the log, times the policy's rate among the two others.
    after = [(0.2 * 0.5 + 0.7 * 0.9) / 0.9, (0.1 * 0.1 + 0.7 * 0.9) / 0.8, (0.1 * 0.1 + 0.2 * 0.5) / 0.3]
    assert chance @ products[1::2] == pytest.approx(logging @ np.array(after))
    without_mask = policy[shown["item"]] / propensity
    assert chance @ (without_mask * rates[shown["item"]])[1::2] != pytest.approx(logging @ np.array(after), abs=0.05)

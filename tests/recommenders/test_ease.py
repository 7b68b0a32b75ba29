"""EASE against numbers worked by hand and against its definition."""

import numpy as np

from llmrec.recommenders.ease import ease_weights


def test_weights_of_two_items_by_hand():
    # X = [[1,1],[1,1],[1,0]]: G + I = [[4,2],[2,3]], inverse [[3,-2],[-2,4]] / 8; B01 = 2/4, B10 = 2/3.
    weights = ease_weights([np.array([0, 1]), np.array([1, 0]), np.array([0])], 2, l2=1.0)
    assert np.allclose(weights, [[0, 1 / 2], [2 / 3, 0]])


def test_weights_minimize_the_loss():
    rng = np.random.default_rng(0)
    x = (rng.random((30, 6)) < 0.4).astype(float)
    weights = ease_weights([np.flatnonzero(row) for row in x], 6, l2=5.0).astype(float)
    for column in range(6):
        others = np.arange(6) != column
        solution = np.linalg.solve(x[:, others].T @ x[:, others] + 5 * np.eye(5), x[:, others].T @ x[:, column])
        assert np.allclose(weights[others, column], solution, atol=1e-5)

"""P(click | item, position) of a log, by a model small enough to be fitted anew on every bootstrap sample.

The log-odds are those of the whole log plus one number an item and one a position, with a Gaussian prior (ridge) on
both. Every round gets the rate of a model that was fitted without any round of its fold (cross-fitting: Chernozhukov et
al., Econometrics J. 2018), so that no click is used twice.
"""

import numpy as np

RIDGE = 1.0  # log-odds of an item or a position have a prior of standard deviation 1
MAX_STEPS = 100
TOLERANCE = 1e-8


def fit_rates(shown: np.ndarray, clicked: np.ndarray) -> np.ndarray:
    """Click rates of F independent additive logistic regressions, by Newton's method.

    Args:
        shown, clicked: counts, [F, A, K] for A items at K positions.

    Returns:
        rates in (0, 1), float64 [F, A, K].
    """
    total = (clicked.sum((1, 2)) + 0.5) / (shown.sum((1, 2)) + 1)
    level = np.log(total / (1 - total))[:, None, None]
    item, position = np.zeros(shown.shape[:2]), np.zeros((shown.shape[0], shown.shape[2]))
    for _ in range(MAX_STEPS):
        rates = 1 / (1 + np.exp(-(level + item[:, :, None] + position[:, None, :])))
        residual, curvature = clicked - shown * rates, shown * rates * (1 - rates)
        item_step, position_step = _newton(
            residual.sum(2) - RIDGE * item, residual.sum(1) - RIDGE * position, curvature
        )
        size = np.maximum(np.abs(item_step).max(1), np.abs(position_step).max(1))[:, None]
        scale = 1 / np.maximum(size, 1)  # far from the optimum a full step overshoots
        item, position = item + scale * item_step, position + scale * position_step
        if size.max() < TOLERANCE:
            break
    return 1 / (1 + np.exp(-(level + item[:, :, None] + position[:, None, :])))


def _newton(item: np.ndarray, position: np.ndarray, curvature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Newton's steps from gradients [F, A], [F, K] and the curvature of each cell [F, A, K].

    The items' block of the Hessian is diagonal, so only a K x K system (its Schur complement) has to be solved.
    """
    of_item = curvature.sum(2) + RIDGE
    scaled = curvature / of_item[:, :, None]
    schur = -np.einsum("fak,fal->fkl", scaled, curvature)
    places = np.arange(curvature.shape[2])
    schur[:, places, places] += curvature.sum(1) + RIDGE
    position_step = np.linalg.solve(schur, (position - np.einsum("fak,fa->fk", scaled, item))[:, :, None])[:, :, 0]
    return (item - np.einsum("fak,fk->fa", curvature, position_step)) / of_item, position_step


def cross_fitted_rates(
    clicks: np.ndarray, actions: np.ndarray, positions: np.ndarray, folds: np.ndarray, shape: tuple[int, int, int]
) -> np.ndarray:
    """Rates for the rounds of each fold, from all other folds.

    Args:
        clicks: 0 or 1, [n].
        actions, positions, folds: indices, int [n].
        shape: (F, A, K).

    Returns:
        float64 [F, A, K]: the rate to use for a round is [its fold, action, its position].
    """
    cell = np.ravel_multi_index((folds, actions, positions), shape)
    size = int(np.prod(shape))
    shown = np.bincount(cell, minlength=size).reshape(shape).astype(np.float64)
    clicked = np.bincount(cell, weights=clicks, minlength=size).reshape(shape)
    return fit_rates(shown.sum(0) - shown, clicked.sum(0) - clicked)

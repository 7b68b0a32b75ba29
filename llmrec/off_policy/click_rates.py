"""A model of P(click | item, position), small enough to be fitted again on every bootstrap resample.

The log-odds of a click are those of the whole log plus one parameter for the item and one for the position, both with a
Gaussian prior (ridge). Rates are cross-fitted: each round gets the rate of a model that was fitted without the fold of
the round (Chernozhukov et al., Econometrics J. 2018). So no click is used twice.
"""

import numpy as np

RIDGE = 1.0  # precision of the prior of an item's and a position's log-odds
MAX_STEPS = 100  # of Newton's method
TOLERANCE = 1e-8  # largest step at convergence, in log-odds


def fit_rates(shown: np.ndarray, clicked: np.ndarray) -> np.ndarray:
    """Click rates of F independent additive logistic regressions, fitted by Newton's method.

    Args:
        shown: how often each of A items was shown at each of K positions, [F, A, K].
        clicked: how often it was clicked there, [F, A, K].

    Returns:
        rates in (0, 1), float64 [F, A, K].
    """
    total = (clicked.sum((1, 2)) + 0.5) / (shown.sum((1, 2)) + 1)
    level = np.log(total / (1 - total))[:, None, None]
    item = np.zeros(shown.shape[:2])
    position = np.zeros((shown.shape[0], shown.shape[2]))
    for _ in range(MAX_STEPS):
        rates = 1 / (1 + np.exp(-(level + item[:, :, None] + position[:, None, :])))
        residual = clicked - shown * rates
        curvature = shown * rates * (1 - rates)
        item_step, position_step = _newton_steps(
            residual.sum(2) - RIDGE * item, residual.sum(1) - RIDGE * position, curvature
        )
        size = np.maximum(np.abs(item_step).max(1), np.abs(position_step).max(1))[:, None]
        scale = 1 / np.maximum(size, 1)  # far from the optimum, full steps overshoot
        item = item + scale * item_step
        position = position + scale * position_step
        if size.max() < TOLERANCE:
            break
    return 1 / (1 + np.exp(-(level + item[:, :, None] + position[:, None, :])))


def _newton_steps(
    item_gradient: np.ndarray, position_gradient: np.ndarray, curvature: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Newton steps of items [F, A] and positions [F, K].

    The items' block of the Hessian is diagonal, so only its Schur complement, a K x K system, has to be solved.

    Args:
        item_gradient: gradients of items, [F, A].
        position_gradient: gradients of positions, [F, K].
        curvature: curvature of each cell, [F, A, K].
    """
    item_curvature = curvature.sum(2) + RIDGE
    scaled = curvature / item_curvature[:, :, None]
    schur = -np.einsum("fak,fal->fkl", scaled, curvature)
    diagonal = np.arange(curvature.shape[2])
    schur[:, diagonal, diagonal] += curvature.sum(1) + RIDGE
    right = position_gradient - np.einsum("fak,fa->fk", scaled, item_gradient)
    position_step = np.linalg.solve(schur, right[:, :, None])[:, :, 0]
    item_step = (item_gradient - np.einsum("fak,fk->fa", curvature, position_step)) / item_curvature
    return item_step, position_step


def cross_fitted_rates(
    clicks: np.ndarray, actions: np.ndarray, positions: np.ndarray, folds: np.ndarray, shape: tuple[int, int, int]
) -> np.ndarray:
    """Rates for the rounds of each fold, fitted on all other folds.

    Args:
        clicks: 0 or 1, [n].
        actions: item index of each round, int [n].
        positions: position index of each round, int [n].
        folds: fold of each round, int [n].
        shape: numbers (F, A, K) of folds, items and positions.

    Returns:
        float64 [F, A, K]. The rate of a round is at [its fold, its item, its position].
    """
    cell = np.ravel_multi_index((folds, actions, positions), shape)
    size = int(np.prod(shape))
    shown = np.bincount(cell, minlength=size).reshape(shape).astype(np.float64)
    clicked = np.bincount(cell, weights=clicks, minlength=size).reshape(shape)
    return fit_rates(shown.sum(0) - shown, clicked.sum(0) - clicked)

"""Logistic regressions that the behavior and the purchases of a world are fitted with."""

import numpy as np

from llmrec.simulator.behavior import sigmoid

STEPS = 50


def logistic_regression(features: np.ndarray, labels: np.ndarray, l2: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
    """Maximum likelihood by Newton's method, with a small ridge that keeps separable data finite.

    Args:
        features: float [n, d].
        labels: 0 or 1, [n].
        l2: ridge.

    Returns:
        coefficients and their standard errors, each float64 [d].
    """
    weights = np.zeros(features.shape[1])
    ridge = l2 * np.eye(features.shape[1])
    for _ in range(STEPS):
        p = sigmoid(features @ weights)
        hessian = (features * (p * (1 - p))[:, None]).T @ features + ridge
        change = np.linalg.solve(hessian, features.T @ (labels - p) - l2 * weights)
        weights += np.clip(change, -5.0, 5.0)
        if np.abs(change).max() < 1e-9:
            break
    return weights, np.sqrt(np.diag(np.linalg.inv(hessian)))


def purchase_factors(
    users: np.ndarray,
    items: np.ndarray,
    positions: np.ndarray,
    purchased: np.ndarray,
    shape: tuple[int, int],
    l2: float = 3.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of a purchase: intercept + user + item + slope log(1 + clicks before), with a ridge on users and items.

    Fitted by cyclic Newton steps on one block at a time (backfitting); a block of a user or an item is one number.

    Args:
        users: user of each click, int64 [n].
        items: item of each click, int64 [n].
        positions: clicks before each click, int64 [n].
        purchased: whether the click was a purchase, bool [n].
        shape: number of users and of items.
        l2: ridge.

    Returns:
        float32 [U, 3] and [N, 3]. The log-odds is the sum of their products, where the last product is also multiplied
        by log(1 + clicks before).
    """
    num_users, num_items = shape
    of_user = np.zeros(num_users)
    of_item = np.zeros(num_items)
    shared = np.zeros(2)
    drift = np.stack([np.ones(len(positions)), np.log1p(positions)], axis=1)
    for _ in range(STEPS):
        p = sigmoid(drift @ shared + of_user[users] + of_item[items])
        hessian = (drift * (p * (1 - p))[:, None]).T @ drift + 1e-3 * np.eye(2)
        shared += np.clip(np.linalg.solve(hessian, drift.T @ (purchased - p) - 1e-3 * shared), -5.0, 5.0)
        of_user += _newton(drift @ shared + of_user[users] + of_item[items], purchased, users, of_user, l2)
        of_item += _newton(drift @ shared + of_user[users] + of_item[items], purchased, items, of_item, l2)
    first = np.stack([of_user + shared[0], np.ones(num_users), np.full(num_users, shared[1])], axis=1)
    second = np.stack([np.ones(num_items), of_item, np.ones(num_items)], axis=1)
    return first.astype(np.float32), second.astype(np.float32)


def _newton(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray, values: np.ndarray, l2: float) -> np.ndarray:
    """Newton step of one number for each group, float64 [groups]."""
    p = sigmoid(logits)
    gradient = np.bincount(groups, labels - p, len(values)) - l2 * values
    return gradient / (np.bincount(groups, p * (1 - p), len(values)) + l2)

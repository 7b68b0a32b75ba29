"""Metrics of recommendation lists beyond accuracy: diversity, novelty, popularity, calibration and concentration.

Shapes: M lists of K items, N catalogue items, G categories. Lists are int64 [M, K], filled up with -1. Metrics of
single lists are float [M], NaN where they are undefined (items without categories, for instance).
"""

from collections.abc import Sequence

import numpy as np

STECK_ALPHA = 0.01  # smoothing weight in `category_calibration`


def category_matrix(categories: Sequence[Sequence[str]]) -> np.ndarray:
    """Marks the categories of each item among the G distinct ones, in alphabetical order: bool [N, G]."""
    columns = {name: column for column, name in enumerate(sorted({name for values in categories for name in values}))}
    matrix = np.zeros((len(categories), len(columns)), dtype=bool)
    for item, values in enumerate(categories):
        matrix[item, [columns[name] for name in values]] = True
    return matrix


def diversity(lists: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """Intra-list diversity (Ziegler et al., WWW 2005): the mean Jaccard distance of two items of a list.

    The distance is 1 - |shared categories| / |categories of either|. Items without categories are left out.

    Args:
        lists: [M, K].
        categories: bool [N, G].

    Returns:
        float [M] between 0 and 1.
    """
    size = categories.sum(1)[lists] * (lists >= 0)  # [M, K]
    shared = np.stack([one @ one.T for one in (categories[items].astype(np.float32) for items in lists)])  # [M, K, K]
    union = size[:, :, None] + size[:, None] - shared
    known = (size[:, :, None] > 0) & (size[:, None] > 0) & ~np.eye(lists.shape[1], dtype=bool)
    distance = np.where(known, 1.0 - shared / np.maximum(union, 1.0), 0.0)
    return _ratio(distance.sum((1, 2)), known.sum((1, 2)))


def novelty(lists: np.ndarray, clicks: np.ndarray, num_users: int) -> np.ndarray:
    """Mean self-information of the items of a list (Zhou et al., PNAS 2010).

    An item that k of U users clicked in training has -log2((k + 1) / (U + 1)) bits, which is finite for k = 0.

    Args:
        lists: [M, K].
        clicks: number of users who clicked each item in training, [N].
        num_users: U.

    Returns:
        float [M], in bits.
    """
    return _mean_over_lists(-np.log2((clicks + 1.0) / (num_users + 1.0)), lists)


def popularity_bias(lists: np.ndarray, histories: Sequence[np.ndarray], clicks: np.ndarray) -> np.ndarray:
    """Popularity of a list relative to its user's history (popularity lift: Abdollahpouri et al., RecSys 2020).

    It is mean clicks of the list / mean clicks of the history - 1; 0 means that both are equally popular. One is added
    to the clicks of every item, so that no mean is 0. The source defines the lift for groups of users.

    Args:
        lists: [M, K].
        histories: seen items of each user, [M].
        clicks: training clicks of each item, [N].

    Returns:
        float [M], NaN for a user without history.
    """
    own = np.array([(clicks[history] + 1.0).mean() if len(history) else np.nan for history in histories])
    return _mean_over_lists(clicks + 1.0, lists) / own - 1.0


def category_calibration(lists: np.ndarray, histories: Sequence[np.ndarray], categories: np.ndarray) -> np.ndarray:
    """Divergence of the category shares of a list from those of its user's history; 0 means equal shares.

    It is KL(p || q') of Steck (Calibrated Recommendations, RecSys 2018, eq. 2-6). p and q are the mean of
    p(category | item) over the history and over the list; an item spreads its mass evenly over its categories.
    q' = 0.99 q + 0.01 p keeps the divergence finite. Items without categories are left out.

    Args:
        lists: [M, K].
        histories: seen items of each user, [M].
        categories: bool [N, G].

    Returns:
        float [M], in nats; NaN if the history or the list has no categories.
    """
    shares = categories / np.maximum(categories.sum(1, keepdims=True), 1)
    known = np.asarray(categories.any(1))
    values = []
    for history, items in zip(histories, lists, strict=True):
        seen = history[known[history]]
        listed = items[items >= 0]
        listed = listed[known[listed]]
        if not len(seen) or not len(listed):
            values.append(np.nan)
            continue
        p = shares[seen].mean(0)
        q = shares[listed].mean(0)
        mixed = (1.0 - STECK_ALPHA) * q + STECK_ALPHA * p
        values.append((p[p > 0] * np.log(p[p > 0] / mixed[p > 0])).sum())
    return np.array(values)


def gini(lists: np.ndarray, num_items: int) -> float:
    """Gini coefficient of the recommendation counts of the N items.

    G = sum_i (2i - N - 1) x_i / (N sum_i x_i) over the counts x in ascending order, i = 1..N.

    Args:
        lists: [M, K].
        num_items: N.

    Returns:
        Between 0 (all items equally often) and (N - 1) / N (one item only).
    """
    counts = np.sort(np.bincount(lists[lists >= 0], minlength=num_items)).astype(np.float64)
    order = np.arange(1, num_items + 1)
    return float(((2 * order - num_items - 1) * counts).sum() / (num_items * counts.sum()))


def _mean_over_lists(values: np.ndarray, lists: np.ndarray) -> np.ndarray:
    inside = lists >= 0
    return _ratio((values[lists] * inside).sum(1), inside.sum(1))


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """total / count, NaN where count is 0."""
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)

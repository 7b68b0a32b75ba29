"""What lists of recommendations are like, beyond whether they hold what was taken next: pure functions of arrays.

Shapes: M lists of K items, N catalogue items, G categories. Lists are int64 [M, K], -1 where they end. What is defined
for one list comes as float [M], NaN where it is not defined (items without categories, for instance).
"""

from collections.abc import Sequence

import numpy as np

STECK_ALPHA = 0.01  # of the smoothing in `miscalibration`


def category_matrix(categories: Sequence[Sequence[str]]) -> np.ndarray:
    """Which of the G distinct categories each item has, bool [N, G]."""
    names = {name: place for place, name in enumerate(sorted({name for values in categories for name in values}))}
    matrix = np.zeros((len(categories), len(names)), dtype=bool)
    for item, values in enumerate(categories):
        matrix[item, [names[name] for name in values]] = True
    return matrix


def diversity(lists: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """Intra-list diversity (Ziegler et al., WWW 2005): the mean distance of two items of a list, float [M] in 0..1.

    The distance is Jaccard's: 1 - |both categories| / |either's|. Pairs with an item without categories are left out.

    Args:
        lists: [M, K].
        categories: bool [N, G].
    """
    size = categories.sum(1)[lists] * (lists >= 0)  # [M, K]
    both = np.stack([one @ one.T for one in (categories[items].astype(np.float32) for items in lists)])  # [M, K, K]
    either = size[:, :, None] + size[:, None] - both
    known = (size[:, :, None] > 0) & (size[:, None] > 0) & ~np.eye(lists.shape[1], dtype=bool)
    distance = np.where(known, 1.0 - both / np.maximum(either, 1.0), 0.0)
    return _ratio(distance.sum((1, 2)), known.sum((1, 2)))


def novelty(lists: np.ndarray, clicks: np.ndarray, num_users: int) -> np.ndarray:
    """Mean self-information of the items of a list, bits, float [M] (Zhou et al., PNAS 2010).

    An item that k of U users clicked in training has -log2((k + 1) / (U + 1)): finite for one that nobody did.

    Args:
        lists: [M, K].
        clicks: users who clicked each item in training, [N].
        num_users: U.
    """
    return _mean_over_lists(-np.log2((clicks + 1.0) / (num_users + 1.0)), lists)


def popularity_bias(lists: np.ndarray, histories: Sequence[np.ndarray], clicks: np.ndarray) -> np.ndarray:
    """How much more popular a list is than what its user had, float [M]: mean clicks of the list / mean clicks of the
    history - 1. 0 is the user's own taste (popularity lift: Abdollahpouri et al., RecSys 2020, there of groups).

    NaN for a user without history; an item's clicks count one more, so that none is nought.

    Args:
        lists: [M, K].
        histories: item indices that each user had, [M].
        clicks: [N].
    """
    own = np.array([(clicks[history] + 1.0).mean() if len(history) else np.nan for history in histories])
    return _mean_over_lists(clicks + 1.0, lists) / own - 1.0


def miscalibration(lists: np.ndarray, histories: Sequence[np.ndarray], categories: np.ndarray) -> np.ndarray:
    """How far the categories of a list are from those of the user's history, nats, float [M]; 0 is the same shares.

    KL(p || q') of Steck (Calibrated Recommendations, RecSys 2018, eq. 2-6): p and q are the mean over the items of the
    history and of the list of p(category | item), which an item spreads evenly over its categories, and
    q' = 0.99 q + 0.01 p. Items without categories are left out; NaN where nothing is left.

    Args:
        lists: [M, K].
        histories: item indices that each user had, [M].
        categories: bool [N, G].
    """
    shares = categories / np.maximum(categories.sum(1, keepdims=True), 1)
    known = categories.any(1)
    values = []
    for history, items in zip(histories, lists, strict=True):
        had, listed = history[known[history]], items[items >= 0]
        listed = listed[known[listed]]
        if not len(had) or not len(listed):
            values.append(np.nan)
            continue
        p, q = shares[had].mean(0), shares[listed].mean(0)
        mixed = (1.0 - STECK_ALPHA) * q + STECK_ALPHA * p
        values.append((p[p > 0] * np.log(p[p > 0] / mixed[p > 0])).sum())
    return np.array(values)


def gini(lists: np.ndarray, num_items: int) -> float:
    """Gini coefficient of how often each of the N items is recommended: 0 all alike, (N - 1) / N one item for all.

    G = sum_i (2i - N - 1) x_i / (N sum_i x_i) over counts x in ascending order, i = 1..N.
    """
    counts = np.sort(np.bincount(lists[lists >= 0], minlength=num_items)).astype(np.float64)
    place = np.arange(1, num_items + 1)
    return float(((2 * place - num_items - 1) * counts).sum() / (num_items * counts.sum()))


def _mean_over_lists(values: np.ndarray, lists: np.ndarray) -> np.ndarray:
    inside = lists >= 0
    return _ratio((values[lists] * inside).sum(1), inside.sum(1))


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """total / count, NaN where count is 0."""
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)

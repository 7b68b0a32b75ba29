"""Lists of recommendations: the best items, or items drawn at random, with the probability of each.

The server shows the best list, except in a declared share of requests, in which it draws each item from the policy
without those above it (the Plackett-Luce distribution, drawn by Gumbel noise). A log of the best lists alone has
propensities of 0 and 1, from which no other policy can be evaluated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Pick = Callable[[np.ndarray], int]  # an index of log-probabilities [A]


@dataclass(frozen=True)
class Candidates:
    """The A items that may be recommended, one of those that people cannot tell apart.

    Attributes:
        items: item indices, ascending, int64 [A].
        log_probs: normalized log-probability of each, float64 [A].
        categories: which categories each has, float64 [A, F].
    """

    items: np.ndarray
    log_probs: np.ndarray
    categories: np.ndarray

    @classmethod
    def from_scores(cls, scores: np.ndarray, representatives: np.ndarray, categories: np.ndarray) -> "Candidates":
        """The candidates of one person.

        Args:
            scores: log-probability of every item, -inf for those that may not be recommended, [N].
            representatives: one of the items that look like each item, the same for all of them, int64 [N].
            categories: which categories each item has, bool [N, F].
        """
        possible = np.flatnonzero(np.isfinite(scores))
        best_first = possible[np.argsort(-scores[possible], kind="stable")]
        _, first = np.unique(representatives[best_first], return_index=True)
        items = np.sort(best_first[first])
        return cls(items, _normalized(scores[items].astype(np.float64)), categories[items].astype(np.float64))


@dataclass(frozen=True)
class RankedList:
    """A list of K items.

    Attributes:
        items: item indices, best first, int64 [K].
        scores: probability of each item under the policy, float64 [K].
        propensities: probability with which the server shows each item at its position, given the items above it,
            float64 [K].
        sampled: whether the list was drawn at random.
    """

    items: np.ndarray
    scores: np.ndarray
    propensities: np.ndarray
    sampled: bool


def choose_list(
    candidates: Candidates, length: int, sampled_share: float, diversity: float, random: np.random.Generator
) -> RankedList:
    """Chooses a list: with probability `sampled_share` at random, otherwise the best one.

    Propensities count both ways to a list. They are exact: the product over a list is its probability.

    Args:
        candidates: the items, [A].
        length: number K of items; fewer if there are fewer candidates.
        sampled_share: probability of a list that is drawn at random.
        diversity: nats by which the log-probability of an item falls if its categories equal those of an item above. It
            falls in proportion if they overlap (Jaccard index). 0 leaves the policy as it is.
        random: source of the random numbers.
    """
    best, best_given = _build(candidates, length, diversity, lambda log_probs: int(log_probs.argmax()))
    sampled = bool(random.random() < sampled_share)
    chosen, given = best, best_given
    if sampled:
        chosen, given = _build(candidates, length, diversity, lambda log_probs: _draw(log_probs, random))
    return RankedList(
        items=candidates.items[chosen],
        scores=np.exp(candidates.log_probs[chosen]),
        propensities=_propensities(chosen, given, best, sampled_share),
        sampled=sampled,
    )


def _build(candidates: Candidates, length: int, diversity: float, pick: Pick) -> tuple[list[int], np.ndarray]:
    """Fills the positions of a list from the top.

    Returns:
        indices of candidates, [K], and the log-probability with which a random draw takes each after those above it,
        float64 [K].
    """
    left = candidates.log_probs.copy()
    overlap = np.zeros(len(left))
    chosen: list[int] = []
    given: list[float] = []
    for _ in range(min(length, len(left))):
        log_probs = _normalized(left - diversity * overlap)
        item = pick(log_probs)
        chosen.append(item)
        given.append(float(log_probs[item]))
        left[item] = -np.inf
        if diversity:
            overlap = np.maximum(overlap, _jaccard(candidates.categories, item))
    return chosen, np.array(given)


def _draw(log_probs: np.ndarray, random: np.random.Generator) -> int:
    """Draws an index from log-probabilities by Gumbel noise."""
    return int((log_probs + random.gumbel(size=len(log_probs))).argmax())


def _propensities(chosen: Sequence[int], given: np.ndarray, best: Sequence[int], sampled_share: float) -> np.ndarray:
    """Probability of each item given those above it, if a share of lists is drawn and the others are the best list.

    Args:
        chosen: the list, [K].
        given: log-probability with which a random draw takes each item, [K].
        best: the best list, [K].
        sampled_share: share of lists that are drawn.
    """
    same = np.cumprod(np.array(chosen) == np.array(best)).astype(bool)  # the best list begins like this
    with np.errstate(divide="ignore"):
        drawn = np.log(sampled_share) + np.concatenate([[0.0], np.cumsum(given)])
        of_best = np.log1p(-sampled_share) + np.where(np.concatenate([[True], same]), 0.0, -np.inf)
    reached = np.logaddexp(drawn, of_best)  # log-probability of the first 0, 1, ... K items
    after_best = np.concatenate([[True], same[:-1]])
    steps = np.where(after_best, reached[1:] - reached[:-1], given)  # after another start the list must be a drawn one
    return np.minimum(np.exp(steps), 1.0)


def _jaccard(categories: np.ndarray, item: int) -> np.ndarray:
    """Shared categories with an item, as a share of the categories of both, [A]; 0 without categories."""
    shared = categories @ categories[item]
    union = categories.sum(1) + categories[item].sum() - shared
    return np.divide(shared, union, out=np.zeros(len(shared)), where=union > 0)


def _normalized(log_probs: np.ndarray) -> np.ndarray:
    """Log-probabilities that sum to 1."""
    highest = log_probs.max()
    return log_probs - (highest + np.log(np.exp(log_probs - highest).sum()))

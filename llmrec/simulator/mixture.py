"""Tastes as a mixture of G groups of items: each user, and each moment, weighs the groups.

P(i | u, h) is the sum over groups g of w_g(u, h) phi_g(i). The weights are theta_u, tilted by the last clicks h:
w_g is proportional to theta_u(g) times the product over j in h of (phi_g(j) / p(j)) ^ tilt. Without the tilt this is
probabilistic latent semantic analysis (Hofmann, Machine Learning 2001), fitted by expectation maximization. The utility
also has the drift of popularity of `ChainTastes`.
"""

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np

from llmrec.simulator.events import Choices, LogFacts
from llmrec.simulator.tastes import Moments

GROUPS = (4, 8, 16)
TILTS = (0.0, 0.1, 0.2, 0.4)
DRIFTS = (0.0, -0.05, -0.1, -0.2)
ITERATIONS = 60
USER_PRIOR = 2.0  # pseudo-clicks of each user in each group
ITEM_PRIOR = 100.0  # pseudo-clicks of each group, spread over the items by their popularity


@dataclass(frozen=True)
class MixtureTastes:
    """Utility of an item: the logarithm of its probability under the mixture, and a drift of popularity.

    Attributes:
        shares: theta, float32 [U, G].
        groups: phi, float32 [G, N].
        log_ratio: log(phi_g(j) / p(j)) of each item j, float32 [N + 1, G]. The last row is 0: no click.
        tilt: how strongly the last clicks change the weights, float32 [1].
        drift: what log(1 + clicks so far) adds to the utility of each item, float32 [N].
    """

    shares: np.ndarray
    groups: np.ndarray
    log_ratio: np.ndarray
    tilt: np.ndarray
    drift: np.ndarray
    family: ClassVar[str] = "mixture"

    @property
    def num_items(self) -> int:
        """Number N of items."""
        return self.groups.shape[1]

    def utilities(self, at: Moments, items: np.ndarray) -> np.ndarray:
        """Utilities of some items, float32 [n, K]; see `Tastes`."""
        mixed = np.log(np.einsum("ng,gnk->nk", self._weights(at), self.groups[:, items]))
        return mixed + np.log1p(at.taken).astype(np.float32)[:, None] * self.drift[items]

    def all_utilities(self, at: Moments) -> np.ndarray:
        """Utilities of all items, float32 [n, N]; see `Tastes`."""
        mixed = np.log(self._weights(at) @ self.groups)
        return mixed + np.log1p(at.taken).astype(np.float32)[:, None] * self.drift

    def _weights(self, at: Moments) -> np.ndarray:
        """Weight of each group at present, float32 [n, G]."""
        logits = np.log(self.shares[at.users]) + self.tilt[0] * self.log_ratio[at.recent].sum(axis=1)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are saved, by name."""
        return {name: getattr(self, name) for name in ("shares", "groups", "log_ratio", "tilt", "drift")}


def fit_mixture(train: Choices, valid: Choices, facts: LogFacts, seed: int) -> MixtureTastes:
    """Fits the groups by expectation maximization: `valid` chooses their number, the tilt and the drift.

    Both parts are fitted again with these.

    Arguments as in `fit_chain`.
    """
    counts = _counts(train, facts.first.shape)
    tried = []
    for number in GROUPS:
        shares, groups = expectation_maximization(counts, number, seed)
        for tilt, drift in product(TILTS, DRIFTS):
            value = log_likelihood(_tastes(shares, groups, counts, tilt, drift), valid, facts).mean()
            tried.append((float(value), number, tilt, drift))
    _, number, tilt, drift = max(tried)
    counts = _counts(train.joined(valid), facts.first.shape)
    return _tastes(*expectation_maximization(counts, number, seed), counts, tilt, drift)


def _counts(chosen: Choices, shape: tuple[int, ...]) -> np.ndarray:
    counts = np.zeros(shape)
    np.add.at(counts, (chosen.users, chosen.items), 1.0)
    return counts


def expectation_maximization(counts: np.ndarray, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of users and distributions of groups that explain counts of clicks.

    Args:
        counts: clicks of each user on each item, float [U, N].
        number: number G of groups.
        seed: seed of the start.

    Returns:
        theta [U, G] and phi [G, N]; rows sum to 1.
    """
    rng = np.random.default_rng(seed)
    num_users, num_items = counts.shape
    popularity = (counts.sum(axis=0) + 0.5) / (counts.sum() + 0.5 * num_items)
    shares = rng.dirichlet(np.ones(number), num_users)
    groups = rng.dirichlet(num_items * popularity, number) + 1e-12
    for _ in range(ITERATIONS):
        # Responsibilities times counts, without holding [U, N, G]: counts / mixture is shared by all groups.
        ratio = counts / np.maximum(shares @ groups, 1e-300)
        new_shares = shares * (ratio @ groups.T) + USER_PRIOR
        new_groups = groups * (shares.T @ ratio) + ITEM_PRIOR * popularity
        shares = new_shares / new_shares.sum(axis=1, keepdims=True)
        groups = new_groups / new_groups.sum(axis=1, keepdims=True)
    return shares, groups


def _tastes(shares: np.ndarray, groups: np.ndarray, counts: np.ndarray, tilt: float, drift: float) -> MixtureTastes:
    popularity = (counts.sum(axis=0) + 0.5) / (counts.sum() + 0.5 * counts.shape[1])
    log_ratio = np.concatenate([np.log(groups / popularity).T, np.zeros((1, len(groups)))])
    log_popularity = np.log(popularity) - np.log(popularity).mean()
    arrays = (shares, groups, log_ratio, np.array([tilt]), drift * log_popularity)
    return MixtureTastes(*(array.astype(np.float32) for array in arrays))


def log_likelihood(tastes: MixtureTastes, chosen: Choices, facts: LogFacts) -> np.ndarray:
    """Log-probability of each choice among the items that the user had not taken before, [M]."""
    utilities = tastes.all_utilities(chosen.moments) - facts.loss(chosen)
    utilities[facts.seen(chosen)] = -np.inf
    largest = utilities.max(axis=1, keepdims=True)
    total = np.log(np.exp(utilities - largest).sum(axis=1)) + largest[:, 0]
    return utilities[np.arange(len(chosen)), chosen.items] - total

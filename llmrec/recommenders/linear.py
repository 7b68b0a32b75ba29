"""A linear next-item model in closed form: every item of a history adds its weights to the scores of all items.

Ridge regression of the next item on two feature vectors: recent items with decay, and the whole history. A recent item
has the weight `DECAY` to the power of its age in steps. The whole history is divided by the square root of its length.
Every prefix of a training history is one row of X, and the item after it is the same row of Y.

    W = argmin |Y - X W|^2 + l2 |W|^2 = (X'X + l2 I)^-1 X'Y,        X [E, 2K], Y one-hot [E, K]

It is the autoregressive relative of EASE (Steck, WWW 2019) and of SLIT (Choi et al., Session-aware Linear Item-Item
Models for Session-based Recommendation, WWW 2021). Without repeats, an item of a history is never the next one, so the
diagonal needs no constraint. Its errors differ from those of a transformer over recent items: it reads the whole
history, has no latent dimension and is fitted to its optimum. That makes it useful in a pool of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmrec.data.ragged import Ragged
from llmrec.recommenders.bags import LONGEST
from llmrec.recommenders.popularity import item_counts
from llmrec.recommenders.protocol import Histories

DECAY = 0.7  # factor on an item's recent weights with every newer item
# Only the MAX_ITEMS most clicked items are modeled, because a 2K x 2K matrix is solved. Rarer items contribute nothing
# and do not advance the decay.
MAX_ITEMS = 5_000
PAIRS = 4_000_000  # pairs of items that are added at once


@dataclass(frozen=True)
class LinearWeights:
    """The solution of the regression for one strength of L2 regularization.

    Attributes:
        covered: catalogue indices of the K modeled items, ascending, int64 [K].
        recent_weights: weights of the items in the bag of recent items (rows) for all items (columns), float [K, K].
        history_weights: the same for the bag of the whole history, float [K, K].
        share: smoothed share of training clicks of every item, float [N].
    """

    covered: Tensor
    recent_weights: Tensor
    history_weights: Tensor
    share: Tensor

    def log_scores(self, recent_bag: Tensor, history_bag: Tensor) -> Tensor:
        """log(score + share) of all items; negative scores count as 0.

        Args:
            recent_bag: decayed counts of the modeled items of each history, float [B, K].
            history_bag: counts of the modeled items of each history, float [B, K].

        Returns:
            float [B, N].
        """
        length = history_bag.sum(1, keepdim=True).clamp(min=1)
        score = recent_bag @ self.recent_weights + history_bag @ self.history_weights / length.sqrt()
        scores = self.share.repeat(len(recent_bag), 1)
        scores[:, self.covered] += score.clamp(min=0)
        return scores.log_()


class Linear:
    """The baseline: `LinearWeights` as a recommender.

    Args:
        weights: the solved regression.
    """

    def __init__(self, weights: LinearWeights) -> None:
        self.weights = weights
        self._row_of_item = np.full(len(weights.share), -1)
        self._row_of_item[weights.covered.numpy()] = np.arange(len(weights.covered))

    def scores(self, histories: Histories) -> np.ndarray:
        """Log-scores of all items after each of B histories, float32 [B, N]."""
        bags = torch.zeros(2, len(histories), len(self.weights.covered))
        for row, history in enumerate(histories):
            rows = self._row_of_item[np.asarray(history, dtype=np.int64)]
            covered = torch.from_numpy(rows[rows >= 0])
            bags[0, row].index_add_(0, covered, DECAY ** torch.arange(len(covered) - 1, -1, -1.0))
            bags[1, row].index_add_(0, covered, torch.ones(len(covered)))
        return self.weights.log_scores(*bags).numpy()


class LinearFit:
    """The matrices X'X and X'Y of training histories, from which models of several strengths `l2` are solved.

    A history of n items changes its own rows and columns only, so its cost is n^2 instead of K^2. Of a long history the
    newest `LONGEST` modeled items are read.

    Args:
        histories: item indices of each user in time order.
        num_items: size N of the catalogue.
    """

    def __init__(self, histories: Sequence[np.ndarray], num_items: int):
        clicks = item_counts(histories, num_items)
        self.share = torch.from_numpy((clicks + 0.5) / (clicks.sum() + 0.5 * num_items)).float()
        self.covered = torch.from_numpy(np.sort(np.argsort(-clicks, kind="stable")[:MAX_ITEMS]))
        count = len(self.covered)
        row_of_item = np.full(num_items, -1)
        row_of_item[self.covered.numpy()] = np.arange(count)
        self.gram = torch.zeros(2 * count, 2 * count)
        self.cross = torch.zeros(2 * count, count)
        for part in Ragged.of(histories).parts():
            rows = row_of_item[part.flat()]
            owners = np.repeat(np.arange(len(part)), part.lengths)[rows >= 0]
            modeled = Ragged.of_lengths(rows[rows >= 0], np.bincount(owners, minlength=len(part))).newest(LONGEST)
            for length in np.unique(modeled.lengths[modeled.lengths > 1]):
                same_length = modeled.select(np.flatnonzero(modeled.lengths == length))
                self._add(torch.from_numpy(same_length.flat().reshape(-1, length)))

    def _add(self, histories: Tensor) -> None:
        """Adds histories of one length: modeled items, int64 [U, n].

        The two bags before each event are linear in the items' positions, so histories of one length share the products
        of the bags of positions.
        """
        bags = _bags_of_positions(histories.shape[1])
        products = bags.T @ bags
        for some in histories.split(max(1, PAIRS // products.numel())):
            both = torch.cat([some, len(self.gram) // 2 + some], 1)[:, :, None]  # rows of the two bags, [U, 2n, 1]
            self.gram.index_put_((both, both.mT), products, accumulate=True)
            self.cross.index_put_((both, some[:, None]), bags.T, accumulate=True)

    def solve(self, l2: float) -> LinearWeights:
        """Solves the regression for one strength of L2 regularization, in events."""
        regularized = self.gram.clone()
        regularized.diagonal().add_(l2)
        recent_weights, history_weights = torch.linalg.solve(regularized, self.cross).chunk(2)
        return LinearWeights(self.covered, recent_weights, history_weights, self.share)


def _bags_of_positions(length: int) -> Tensor:
    """Weight of each position of a history (columns) in both bags before each event (rows): float [n, 2n]."""
    lag = torch.arange(length)[:, None] - torch.arange(length) - 1  # steps from the position to the event
    is_before = lag >= 0
    recent = torch.where(is_before, DECAY ** lag.clamp(min=0).float(), 0.0)
    whole = is_before / torch.arange(length).clamp(min=1).sqrt()[:, None]
    return torch.cat([recent, whole], 1)

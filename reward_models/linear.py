"""A linear next-item model in closed form: every item of a history adds its weights to the scores of all items.

Ridge regression of the next item on two feature vectors: recent items with decay, and the whole history. A recent item
has the weight `DECAY` to the power of its age in steps. The whole history is divided by the square root of its length.
Every prefix of a training history is one row of X, and the item after it is the same row of Y.

    W = argmin |Y - X W|^2 + l2 |W|^2 = (X'X + l2 I)^-1 X'Y,        X [E, 2K], Y one-hot [E, K]

It is the autoregressive relative of EASE (Steck, WWW 2019) and of SLIT (Choi et al., Session-aware Linear Item-Item
Models for Session-based Recommendation, WWW 2021). An item of a history is never the next one, so the diagonal needs no
constraint. Its errors differ from those of a transformer over recent items: it reads the whole history, has no latent
dimension and is fitted to its optimum. That makes it useful in a pool of models (`ensemble.py`).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reward_models.storage import read_state

DECAY = 0.7  # factor on an item's recent weights with every newer item
# Only the MAX_ITEMS most clicked items are modeled, because a 2K x 2K matrix is solved. Rarer items contribute nothing
# and do not advance the decay.
MAX_ITEMS = 5_000
# Names of the tensors in files of earlier versions.
FORMER_NAMES = {"newest": "recent_weights", "whole": "history_weights", "powers": "pool_weights"}


class LinearNextItem(nn.Module):
    """Log-scores of all items after a history; made by `LinearFit.solve`.

    Attributes:
        covered: catalogue indices of the K modeled items, int64 [K].
        recent_weights: weights of the items in the bag of recent items (rows) for all items (columns), float [K, K].
        history_weights: the same for the bag of the whole history, float [K, K].
        share: smoothed share of training clicks of every item, float [N].
        pool_weights: exponents in the pool: of the other models, of these scores and of `share`, float [3]. The first
            two are at least 0.
    """

    covered: Tensor
    recent_weights: Tensor
    history_weights: Tensor
    share: Tensor
    pool_weights: Tensor

    def __init__(self, num_items: int, covered_items: int):
        super().__init__()
        self.register_buffer("covered", torch.zeros(covered_items, dtype=torch.long))
        self.register_buffer("recent_weights", torch.zeros(covered_items, covered_items))
        self.register_buffer("history_weights", torch.zeros(covered_items, covered_items))
        self.register_buffer("share", torch.full((num_items,), 1 / num_items))
        self.register_buffer("pool_weights", torch.tensor([1.0, 0.0, 0.0]))

    @classmethod
    def load(cls, path: Path, num_items: int, covered_items: int) -> "LinearNextItem":
        """Loads the weights of a model of this shape, also those of earlier versions.

        Raises:
            ModelError: the file is missing, damaged or of another shape.
        """
        model = cls(num_items, covered_items)
        model.load_state_dict(read_state(path, model.state_dict(), FORMER_NAMES))
        return model

    def log_scores(self, history: Tensor, mask: Tensor, seen_before: Tensor) -> Tensor:
        """log(score + share) before the first item and after each item; negative scores count as 0.

        Args:
            history: recent items, left-aligned, int64 [B, L].
            mask: bool [B, L], False at padding.
            seen_before: items that the user had seen before these, bool [B, N]. Only the bag of the whole history
                contains them.

        Returns:
            float [B, L + 1, N].
        """
        row, covered = self._rows(history, mask)
        recent_rows = self.recent_weights[row] * covered[..., None]  # [B, L, K]
        history_rows = self.history_weights[row] * covered[..., None]  # [B, L, K]
        known = seen_before[:, self.covered].float()
        recent = torch.zeros_like(known)
        total = known @ self.history_weights
        count = known.sum(1)
        scores = self.share.repeat(len(history), history.shape[1] + 1, 1)
        for t in range(history.shape[1] + 1):
            if t:
                is_covered = covered[:, t - 1, None]
                recent = torch.where(is_covered, DECAY * recent + recent_rows[:, t - 1], recent)
                total = total + history_rows[:, t - 1]
                count = count + covered[:, t - 1]
            score = recent + total / count.clamp(min=1).sqrt()[:, None]
            scores[:, t, self.covered] += score.clamp(min=0)
        return scores.log_()

    def log_scores_at_end(self, history: Tensor, mask: Tensor, seen_before: Tensor) -> Tensor:
        """`log_scores` after the last item only, by two matrix products: float [B, N]."""
        row, covered = self._rows(history, mask)
        newer = covered.sum(1, keepdim=True) - covered.cumsum(1)  # number of newer covered items
        known = seen_before[:, self.covered].float()
        recent_bag = torch.zeros_like(known).scatter_add_(1, row, DECAY**newer * covered)
        history_bag = known.scatter_add(1, row, covered.float())
        length = history_bag.sum(1, keepdim=True).clamp(min=1)
        score = recent_bag @ self.recent_weights + history_bag @ self.history_weights / length.sqrt()
        scores = self.share.repeat(len(history), 1)
        scores[:, self.covered] += score.clamp(min=0)
        return scores.log_()

    def _rows(self, history: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Row of each item in the weights (0 if it has none), int64 [B, L], and whether it has one, bool [B, L]."""
        row_of_item = torch.full((len(self.share),), -1, device=history.device)
        row_of_item[self.covered] = torch.arange(len(self.covered), device=history.device)
        rows = row_of_item[history].masked_fill(~mask, -1)
        return rows.clamp(min=0), rows >= 0


class LinearFit:
    """The matrices X'X and X'Y of training histories, from which models of several strengths `l2` are solved.

    A history of n items changes its own rows and columns only, so its cost is n^3 instead of K^2.

    Args:
        histories: item indices of each user in time order.
        num_items: size N of the catalogue.
    """

    def __init__(self, histories: Sequence[np.ndarray], num_items: int):
        clicks = np.bincount(np.concatenate([np.zeros(0, np.int64), *histories]), minlength=num_items)
        self.share = torch.from_numpy((clicks + 0.5) / (clicks.sum() + 0.5 * num_items)).float()
        self.covered = torch.from_numpy(np.sort(np.argsort(-clicks, kind="stable")[:MAX_ITEMS]))
        count = len(self.covered)
        row_of_item = torch.full((num_items,), -1)
        row_of_item[self.covered] = torch.arange(count)
        self.gram = torch.zeros(2 * count, 2 * count)
        self.cross = torch.zeros(2 * count, count)
        for history in histories:
            covered = row_of_item[torch.tensor(history)]
            items, column = covered[covered >= 0].unique(return_inverse=True)
            if len(column) < 2:
                continue
            bags = _bags(column, len(items))[1:]
            both = torch.cat([items, count + items])
            self.gram[both[:, None], both] += bags.T @ bags
            self.cross[both[:, None], items] += bags.T @ nn.functional.one_hot(column[1:], len(items)).float()

    def solve(self, l2: float) -> LinearNextItem:
        """Solves the regression for one strength of L2 regularization, in events."""
        regularized = self.gram.clone()
        regularized.diagonal().add_(l2)
        recent_weights, history_weights = torch.linalg.solve(regularized, self.cross).chunk(2)
        model = LinearNextItem(len(self.share), len(self.covered))
        model.recent_weights.copy_(recent_weights)
        model.history_weights.copy_(history_weights)
        model.covered.copy_(self.covered)
        model.share.copy_(self.share)
        return model


def _bags(history: Tensor, num_items: int) -> Tensor:
    """Both bags before each event of a history: int64 [n] to float [n, 2 num_items]; the first row is 0."""
    length = len(history)
    lag = torch.arange(length)[:, None] - torch.arange(length) - 1  # steps from the item (column) to the event (row)
    is_before = lag >= 0
    recent = torch.where(is_before, DECAY ** lag.clamp(min=0).float(), 0.0)
    whole = is_before / torch.arange(length).clamp(min=1).sqrt()[:, None]
    bags = torch.zeros(2, length, num_items)
    bags[0].index_add_(1, history, recent)
    bags[1].index_add_(1, history, whole)
    return torch.cat([bags[0], bags[1]], 1)

"""The linear next-item model of `llmrec/recommenders/linear.py` as a part of a reward model."""

from pathlib import Path

import torch
from torch import Tensor, nn

from llmrec.recommenders.linear import DECAY, MAX_ITEMS, LinearWeights
from reward_models.storage import read_state

__all__ = ["DECAY", "FORMER_NAMES", "MAX_ITEMS", "LinearNextItem"]

# Names of the tensors in files of earlier versions.
FORMER_NAMES = {"newest": "recent_weights", "whole": "history_weights", "powers": "pool_weights"}


class LinearNextItem(nn.Module):
    """Log-scores of all items after a history; made by `from_weights`.

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
    def from_weights(cls, weights: LinearWeights) -> "LinearNextItem":
        """A module that holds a copy of the weights and does not yet count in the pool."""
        model = cls(len(weights.share), len(weights.covered))
        model.recent_weights.copy_(weights.recent_weights)
        model.history_weights.copy_(weights.history_weights)
        model.covered.copy_(weights.covered)
        model.share.copy_(weights.share)
        return model

    @classmethod
    def load(cls, path: Path, num_items: int, covered_items: int) -> "LinearNextItem":
        """Loads the weights of a model of this shape, also those of earlier versions.

        Raises:
            ModelError: the file is missing, damaged or of another shape.
        """
        model = cls(num_items, covered_items)
        model.load_state_dict(read_state(path, model.state_dict(), FORMER_NAMES))
        return model

    def log_scores(self, history: Tensor, mask: Tensor, clicks_before: Tensor | None = None) -> Tensor:
        """log(score + share) before the first item and after each item; negative scores count as 0.

        Args:
            history: recent items, left-aligned, int64 [B, L].
            mask: bool [B, L], False at padding.
            clicks_before: number of the user's clicks on each item before these, [B, N]; None means none. Only the
                bag of the whole history contains them.

        Returns:
            float [B, L + 1, N].
        """
        row, covered = self._rows(history, mask)
        recent_rows = self.recent_weights[row] * covered[..., None]  # [B, L, K]
        history_rows = self.history_weights[row] * covered[..., None]  # [B, L, K]
        older = self._bag(clicks_before, len(history))
        recent = torch.zeros_like(older)
        total = older @ self.history_weights
        count = older.sum(1)
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

    def log_scores_at_end(self, history: Tensor, mask: Tensor, clicks_before: Tensor | None = None) -> Tensor:
        """`log_scores` after the last item only, by two matrix products: float [B, N]."""
        row, covered = self._rows(history, mask)
        newer = covered.sum(1, keepdim=True) - covered.cumsum(1)  # number of newer covered items
        older = self._bag(clicks_before, len(history))
        recent_bag = torch.zeros_like(older).scatter_add_(1, row, DECAY**newer * covered)
        history_bag = older.scatter_add(1, row, covered.float())
        weights = LinearWeights(self.covered, self.recent_weights, self.history_weights, self.share)
        return weights.log_scores(recent_bag, history_bag)

    def _bag(self, clicks: Tensor | None, batch: int) -> Tensor:
        """Counts of the modeled items in `clicks` [B, N], float [B, K]; zeros for None."""
        if clicks is None:
            return torch.zeros(batch, len(self.covered), device=self.covered.device)
        return clicks.to(self.covered.device)[:, self.covered].float()

    def _rows(self, history: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Row of each item in the weights (0 if it has none), int64 [B, L], and whether it has one, bool [B, L]."""
        row_of_item = torch.full((len(self.share),), -1, device=history.device)
        row_of_item[self.covered] = torch.arange(len(self.covered), device=history.device)
        rows = row_of_item[history].masked_fill(~mask, -1)
        return rows.clamp(min=0), rows >= 0

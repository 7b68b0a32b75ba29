"""A linear model of the next item in closed form: what stands in a history votes for every item.

The event after each prefix of each training history is regressed on two bags of items: the newest ones, weighed by
`DECAY` for every step back, and all of them, divided by the root of their number.

    W = argmin |Y - X W|^2 + l2 |W|^2 = (X'X + l2 I)^-1 X'Y,        X [E, 2K], Y one-hot [E, K]

It is the autoregressive sibling of EASE (Steck, WWW 2019) and of SLIT (Choi et al., Session-aware Linear Item-Item
Models for Session-based Recommendation, WWW 2021): no item of a history can be the next one, so the diagonal needs no
constraint. It errs in other places than a transformer over the newest items: it reads the whole history, has no latent
dimension and is fitted to its optimum. That makes it worth pooling (`ensemble`).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

DECAY = 0.7  # of an item's vote with every newer item
# Items that vote and are voted for: 2K x 2K numbers are inverted. Rarer ones neither vote nor age what does.
MAX_ITEMS = 5_000


class LinearNextItem(nn.Module):
    """Log-scores of all items after a history; made by `LinearFit.solve`.

    Attributes:
        covered: catalogue indices of the K items that vote and are voted for, int64 [K].
        newest, whole: each item's votes for all items in the two bags, float [K, K].
        share: smoothed share of training clicks of every item, float [N].
        powers: in the pool, of the other models, of these scores (neither below 0) and of `share`, float [3].
    """

    def __init__(self, num_items: int, covered_items: int):
        super().__init__()
        self.register_buffer("covered", torch.zeros(covered_items, dtype=torch.long))
        self.register_buffer("newest", torch.zeros(covered_items, covered_items))
        self.register_buffer("whole", torch.zeros(covered_items, covered_items))
        self.register_buffer("share", torch.full((num_items,), 1 / num_items))
        self.register_buffer("powers", torch.tensor([1.0, 0.0, 0.0]))

    def log_scores(self, history: Tensor, mask: Tensor, prior: Tensor) -> Tensor:
        """log(votes + share), where votes below 0 are none, before the first item and after each: float
        [B, L + 1, N].

        Args:
            history: the newest items, int64 [B, L], left-aligned.
            mask: bool [B, L], False at padding.
            prior: items had before them, bool [B, N]: the second bag alone knows them.
        """
        place, votes = self._places(history, mask)
        newest, whole = (weights[place] * votes[..., None] for weights in (self.newest, self.whole))  # [B, L, K]
        known = prior[:, self.covered].float()
        recent, total, count = torch.zeros_like(known), known @ self.whole, known.sum(1)
        scores = self.share.repeat(len(history), history.shape[1] + 1, 1)
        for t in range(history.shape[1] + 1):
            if t:
                votes_now = votes[:, t - 1, None]
                recent = torch.where(votes_now, DECAY * recent + newest[:, t - 1], recent)
                total, count = total + whole[:, t - 1], count + votes[:, t - 1]
            said = recent + total / count.clamp(min=1).sqrt()[:, None]
            scores[:, t, self.covered] += said.clamp(min=0)
        return scores.log_()

    def log_scores_at_end(self, history: Tensor, mask: Tensor, prior: Tensor) -> Tensor:
        """`log_scores` after the last item alone, by two products of bags and votes: float [B, N]."""
        place, votes = self._places(history, mask)
        newer = votes.sum(1, keepdim=True) - votes.cumsum(1)
        known = prior[:, self.covered].float()
        recent = torch.zeros_like(known).scatter_add_(1, place, DECAY**newer * votes)
        whole = known.scatter_add(1, place, votes.float())
        said = recent @ self.newest + whole @ self.whole / whole.sum(1, keepdim=True).clamp(min=1).sqrt()
        scores = self.share.repeat(len(history), 1)
        scores[:, self.covered] += said.clamp(min=0)
        return scores.log_()

    def _places(self, history: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Row of each item in the votes, 0 for one without, int64 [B, L], and which items have one, bool [B, L]."""
        place = torch.full((len(self.share),), -1, device=history.device)
        place[self.covered] = torch.arange(len(self.covered), device=history.device)
        rows = place[history].masked_fill(~mask, -1)
        return rows.clamp(min=0), rows >= 0


class LinearFit:
    """X'X and X'Y of training histories, once; a solution for one l2 is quick beside it.

    A history of n items touches its own rows and columns alone, so its cost is n^3, not K^2.

    Args:
        histories: item indices of each user in time order.
        num_items: size N of the catalogue.
    """

    def __init__(self, histories: Sequence[np.ndarray], num_items: int):
        clicks = np.bincount(np.concatenate([np.zeros(0, np.int64), *histories]), minlength=num_items)
        self.share = torch.from_numpy((clicks + 0.5) / (clicks.sum() + 0.5 * num_items)).float()
        self.covered = torch.from_numpy(np.sort(np.argsort(-clicks, kind="stable")[:MAX_ITEMS]))
        place, count = torch.full((num_items,), -1), len(self.covered)
        place[self.covered] = torch.arange(count)
        self.gram, self.cross = torch.zeros(2 * count, 2 * count), torch.zeros(2 * count, count)
        for history in histories:
            inside = place[torch.tensor(history)]
            items, column = inside[inside >= 0].unique(return_inverse=True)
            if len(column) < 2:
                continue
            bags = _bags(column, len(items))[1:]
            both = torch.cat([items, count + items])
            self.gram[both[:, None], both] += bags.T @ bags
            self.cross[both[:, None], items] += bags.T @ nn.functional.one_hot(column[1:], len(items)).float()

    def solve(self, l2: float) -> LinearNextItem:
        """The model of one strength of regularisation, in events."""
        regularised = self.gram.clone()
        regularised.diagonal().add_(l2)
        weights = torch.linalg.solve(regularised, self.cross)
        model = LinearNextItem(len(self.share), len(self.covered))
        for name, value in zip(("newest", "whole"), weights.chunk(2), strict=True):
            getattr(model, name).copy_(value)
        model.covered.copy_(self.covered)
        model.share.copy_(self.share)
        return model


def _bags(history: Tensor, num_items: int) -> Tensor:
    """Both bags before each event of a history, int64 [n] -> float [n, 2 num_items]; empty before the first."""
    length = len(history)
    lag = torch.arange(length)[:, None] - torch.arange(length) - 1  # of the event in a row, to the item in a column
    before = lag >= 0
    newest = torch.where(before, DECAY ** lag.clamp(min=0).float(), 0.0)
    whole = before / torch.arange(length).clamp(min=1).sqrt()[:, None]
    bags = torch.zeros(2, length, num_items)
    bags[0].index_add_(1, history, newest)
    bags[1].index_add_(1, history, whole)
    return torch.cat([bags[0], bags[1]], 1)

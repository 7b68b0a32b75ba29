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
MAX_ITEMS = 5_000  # that vote and are voted for: 2K x 2K numbers are inverted; rarer items are popularity alone
EVENTS = 4_096  # rows of X held at once


class LinearNextItem(nn.Module):
    """Log-scores of all items after a history; made by `LinearFit.solve`.

    Attributes:
        covered: catalogue indices of the K items that vote and are voted for, int64 [K].
        newest, whole: each item's votes for all items in the two bags, float [K, K].
        share: smoothed share of training clicks of every item, float [N].
        powers: in the pool, of the other models, of these scores and of `share`, float [3].
    """

    def __init__(self, num_items: int, covered_items: int):
        super().__init__()
        self.register_buffer("covered", torch.zeros(covered_items, dtype=torch.long))
        self.register_buffer("newest", torch.zeros(covered_items, covered_items))
        self.register_buffer("whole", torch.zeros(covered_items, covered_items))
        self.register_buffer("share", torch.full((num_items,), 1 / num_items))
        self.register_buffer("powers", torch.tensor([1.0, 0.0, 0.0]))

    def log_scores(self, history: Tensor, mask: Tensor, prior: Tensor) -> Tensor:
        """log(votes + share), where votes below 0 are none, before the first item and after each: float [B, L + 1, N].

        Args:
            history: the newest items, int64 [B, L], left-aligned.
            mask: bool [B, L], False at padding.
            prior: items had before them, bool [B, N]: the second bag alone knows them.
        """
        place = torch.full_like(self.share, -1, dtype=torch.long)
        place[self.covered] = torch.arange(len(self.covered), device=place.device)
        rows = place[history].masked_fill(~mask, -1)
        votes = (rows >= 0)[..., None]
        newest, whole = (weights[rows.clamp(min=0)] * votes for weights in (self.newest, self.whole))  # [B, L, K]
        recent, total = torch.zeros_like(prior[:, self.covered], dtype=newest.dtype), prior[:, self.covered].float()
        total, count = total @ self.whole, prior.sum(1)
        scores = self.share.repeat(len(history), history.shape[1] + 1, 1)
        for t in range(history.shape[1] + 1):
            if t:
                recent, total = DECAY * recent + newest[:, t - 1], total + whole[:, t - 1]
                count = count + mask[:, t - 1]
            said = recent + total / count.clamp(min=1).sqrt()[:, None]
            scores[:, t, self.covered] += said.clamp(min=0)
        return scores.log()


class LinearFit:
    """X'X and X'Y of training histories: seconds to minutes, once; a solution for one l2 is quick beside it.

    Args:
        histories: item indices of each user in time order.
        num_items: size N of the catalogue.
    """

    def __init__(self, histories: Sequence[np.ndarray], num_items: int):
        clicks = np.bincount(np.concatenate([np.zeros(0, np.int64), *histories]), minlength=num_items)
        self.share = torch.from_numpy((clicks + 0.5) / (clicks.sum() + 0.5 * num_items)).float()
        self.covered = torch.from_numpy(np.sort(np.argsort(-clicks, kind="stable")[:MAX_ITEMS]))
        place, count = np.full(num_items, -1), len(self.covered)
        place[self.covered] = np.arange(count)
        self.gram, self.cross = torch.zeros(2 * count, 2 * count), torch.zeros(2 * count, count)
        rows, targets, held = [], [], 0
        for history in histories:
            inside = torch.from_numpy(place[history])
            inside = inside[inside >= 0]
            rows.append(_bags(inside, count)[1:])
            targets.append(inside[1:])
            held += len(targets[-1])
            if held >= EVENTS:
                self._add(torch.cat(rows), torch.cat(targets))
                rows, targets, held = [], [], 0
        if held:
            self._add(torch.cat(rows), torch.cat(targets))

    def _add(self, bags: Tensor, targets: Tensor) -> None:
        self.gram.addmm_(bags.T, bags)
        self.cross.index_add_(1, targets, bags.T.contiguous())

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
    """Both bags before each event of a history, int64 [n] -> float [n, 2K]; both are empty before the first."""
    length = len(history)
    lag = torch.arange(length)[:, None] - torch.arange(length) - 1  # of the event in a row, to the item in a column
    before = lag >= 0
    weights = torch.where(before, DECAY ** lag.clamp(min=0).float(), 0.0)
    bags = torch.zeros(2, length, num_items)
    bags[0].index_add_(1, history, weights)
    bags[1].index_add_(1, history, before.float() / torch.arange(length).clamp(min=1).sqrt()[:, None])
    return torch.cat([bags[0], bags[1]], 1)

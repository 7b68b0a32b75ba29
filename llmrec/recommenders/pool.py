"""Logarithmic opinion pools of recommenders (Genest & Zidek, Statistical Science 1986)."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llmrec.data.decision import Decisions
from llmrec.data.seen_mask import seen_mask
from llmrec.recommenders.protocol import Histories, Score

FIT_SCORES = 24_000_000  # scores that the powers are fitted on; with more, a seeded sample of decisions is used
BATCH_SIZE = 64  # histories scored at a time


class Pool:
    """Recommenders whose scores are multiplied as powers; the powers are fitted on validation.

    The score of an item is the sum of power x log-score over recommenders, plus power x log(share), where share is the
    smoothed share of training clicks.

    Args:
        parts: scoring functions that return log-scores.
        share: smoothed share of training clicks of every item, float [N].
    """

    def __init__(self, parts: Sequence[Score], share: np.ndarray) -> None:
        self.parts = parts
        self.share = share
        self.powers = np.ones(len(parts) + 1, dtype=np.float32)

    def fit(self, decisions: Decisions) -> "Pool":
        """Fits the powers by maximum likelihood of the targets of decisions."""
        count = max(1, FIT_SCORES // ((len(self.parts) + 1) * len(self.share)))
        rows = np.sort(np.random.default_rng(0).permutation(len(decisions))[:count])
        sample = decisions.select(rows)
        scores = np.concatenate([self._log_scores(batch.histories) for batch in sample.batches(BATCH_SIZE)], 1)
        masked = torch.from_numpy(seen_mask(sample.masked, len(self.share)))
        weights, _ = fit_pool_weights(torch.from_numpy(scores), masked, torch.from_numpy(sample.targets))
        self.powers = weights.numpy()
        return self

    def scores(self, histories: Histories) -> np.ndarray:
        """Pooled log-scores of all items after each of B histories, float32 [B, N]."""
        return np.einsum("k,kbn->bn", self.powers, self._log_scores(histories))

    def _log_scores(self, histories: Histories) -> np.ndarray:
        """Log-scores of every part and log-popularity, float32 [K + 1, B, N]."""
        popularity = np.broadcast_to(np.log(self.share), (len(histories), len(self.share)))
        return np.stack([*(log_scores(histories) for log_scores in self.parts), popularity])


def smoothed(scores: Score, share: np.ndarray) -> Score:
    """The log-scores log(max(score, 0) + share) of a recommender with scores of about the size of probabilities.

    Args:
        scores: scores of the recommender.
        share: smoothed share of training clicks of every item, float [N].
    """
    return lambda histories: np.log(np.maximum(scores(histories), 0) + share)


class MeanLogSoftmax:
    """The geometric mean of the distributions of several models, which is their pool with equal powers.

    Args:
        parts: scoring functions that return logits.
    """

    def __init__(self, parts: Sequence[Score]) -> None:
        self.parts = parts

    def scores(self, histories: Histories) -> np.ndarray:
        """Mean of the log-softmax over all items, float32 [B, N]."""
        logits = torch.stack([torch.from_numpy(scores(histories)) for scores in self.parts])
        return logits.log_softmax(-1).mean(0).numpy()


def fit_pool_weights(scores: Tensor, impossible: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """Fits the weights w that minimize the cross-entropy of softmax(sum of w_k scores_k): a logarithmic opinion pool.

    A weak penalty pulls the weights towards the first model alone.

    Args:
        scores: scores of K models and, last, of a correction such as log-popularity, float [K + 1, M, N].
        impossible: items that cannot be the target, bool [M, N].
        targets: index of the item that was clicked, int64 [M].

    Returns:
        w [K + 1], of which the first K are at least 0, and the cross-entropy that w reaches, in nats.
    """
    scores = torch.where(impossible, 0.0, scores)
    first_alone = torch.zeros(len(scores), device=scores.device)
    first_alone[0] = 1.0

    def weights_of(parameters: Tensor) -> Tensor:
        return torch.cat([parameters[:-1].square(), parameters[-1:]])

    def entropy(weights: Tensor) -> Tensor:
        pooled = torch.where(impossible, -torch.inf, torch.einsum("k,kmn->mn", weights, scores))
        return F.cross_entropy(pooled, targets)

    def loss(parameters: Tensor) -> Tensor:
        return entropy(weights_of(parameters)) + 1e-3 * (weights_of(parameters) - first_alone).square().sum()

    start = torch.where(first_alone > 0, first_alone, 0.3)
    fitted = weights_of(minimize(start, loss))
    return fitted, float(entropy(fitted))


def minimize(parameters: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Parameters at the minimum of a smooth loss, by L-BFGS."""
    parameters = parameters.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(parameters)
        value.backward()
        return value

    optimizer.step(closure)
    return parameters.detach()

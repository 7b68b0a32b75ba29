"""How good scores are as probabilities, and the few numbers that make them better: pure functions."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: P(a positive scores above a negative), ties counting half.

    Args:
        scores: float [M].
        labels: bool [M].

    Raises:
        ValueError: NaN scores, or labels of one class only.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        raise ValueError(f"AUC needs both classes, found {positives} positives and {negatives} negatives.")
    if np.isnan(scores).any():
        raise ValueError("AUC needs comparable scores, found NaN.")
    _, level, count = np.unique(scores, return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(count) - (count - 1) / 2  # 1-based, of equal scores the mean
    above = middle_rank[level][labels].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood of binary labels in nats; probabilities are kept 1e-12 from 0 and 1."""
    p = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-12, 1 - 1e-12)
    return float(-np.where(np.asarray(labels, dtype=bool), np.log(p), np.log1p(-p)).mean())


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 10, by: str = "count") -> float:
    """Expected calibration error: mean over equal-mass bins of |mean probability - share of positives|.

    Args:
        probabilities: [M].
        labels: bool [M].
        bins: number of bins, in order of probability.
        by: what equal mass means. `count`: examples (Nguyen & O'Connor, EMNLP 2015). `probability`: predicted
            positives, and the error is |sum of probabilities - positives| summed over bins and divided by the
            sum of probabilities; for rare events over a catalogue, where bins by count would nearly all be at
            zero.

    Returns:
        0 for perfectly calibrated; `count`: at most 1; `probability`: relative to the predicted number of
        positives.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    p, y = p[order], y[order]
    mass = np.ones_like(p) if by == "count" else p
    # An example belongs to the bin in which the middle of its mass lies.
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    bin_of = np.minimum((middle * bins).astype(np.int64), bins - 1)
    gaps = np.abs(np.bincount(bin_of, weights=p - y, minlength=bins))
    return float(gaps.sum() / mass.sum())


def _minimise(parameters: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
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


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """Temperature T of least cross-entropy of softmax(logits / T) (Guo et al., ICML 2017).

    Args:
        logits: float [M, N]; -inf where an item cannot be the target.
        targets: int64 [M].

    Returns:
        T in 0.1 .. 10; 1 without targets.
    """
    if not len(targets):
        return 1.0
    # Masked after the division: the gradient of -inf / T is not a number.
    impossible = logits.isneginf()
    logits = logits.masked_fill(impossible, 0.0)

    def loss(log_t: Tensor) -> Tensor:
        scaled = (logits / log_t.exp()).masked_fill(impossible, float("-inf"))
        return F.cross_entropy(scaled, targets) + 1e-4 * log_t.square()

    log_t = _minimise(torch.zeros(()), loss)
    return float(log_t.exp().clamp(0.1, 10.0))


def fit_powers(scores: Tensor, impossible: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """Powers w of least cross-entropy of softmax(sum of w_k scores_k): a logarithmic opinion pool.

    Args:
        scores: of K models and, last, of what corrects them, float [K + 1, M, N]. The powers of the models are not
            below 0, and those of all are drawn, weakly, to the first alone.
        impossible: items that cannot be the target, bool [M, N].
        targets: int64 [M].

    Returns:
        w [K + 1], and the cross-entropy that it reaches, nats.
    """
    scores = scores.masked_fill(impossible, 0.0)
    alone = torch.zeros(len(scores), device=scores.device)
    alone[0] = 1.0

    def powers(parameters: Tensor) -> Tensor:
        return torch.cat([parameters[:-1].square(), parameters[-1:]])

    def entropy(weights: Tensor) -> Tensor:
        pooled = torch.einsum("k,kmn->mn", weights, scores).masked_fill(impossible, float("-inf"))
        return F.cross_entropy(pooled, targets)

    start = torch.where(alone > 0, alone, 0.3)
    fitted = powers(_minimise(start, lambda w: entropy(powers(w)) + 1e-3 * (powers(w) - alone).square().sum()))
    return fitted, float(entropy(fitted))


def fit_platt(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Scale a > 0 and offset b of least log-loss of sigmoid(a logit + b) (Platt, 1999), near (1, 0).

    Args:
        logits: float [M].
        labels: bool [M]; with one class only there is nothing to fit and (1, 0) is returned.
    """
    labels = labels.float()
    if not len(labels) or labels.min() == labels.max():
        return 1.0, 0.0

    def loss(v: Tensor) -> Tensor:
        scaled = v[0].exp() * logits + v[1]
        return F.binary_cross_entropy_with_logits(scaled, labels) + v.square().sum() / len(labels)

    log_scale, offset = _minimise(torch.zeros(2), loss)
    return float(log_scale.exp().clamp(0.1, 10.0)), float(offset)


def weighted_auc(level: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """`auc` of weighted examples; NaN where one class has no weight.

    Args:
        level: rank of each score among the distinct scores, int64 [M].
        labels: bool [M].
        weights: [M].
    """
    positive = np.bincount(level, weights * labels)
    negative = np.bincount(level, weights * ~labels)
    total = positive.sum() * negative.sum()
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / total) if total else float("nan")


@dataclass(frozen=True)
class Bins:
    """Ten bins of equal count, fixed so that resampled examples fall into the same.

    Attributes:
        of_example: bin of each example, int64 [M].
    """

    of_example: np.ndarray

    @classmethod
    def of(cls, probabilities: np.ndarray, bins: int = 10) -> "Bins":
        """The bins that `calibration_error` makes of equal numbers of examples."""
        place = np.empty(len(probabilities), dtype=np.int64)
        place[np.argsort(probabilities, kind="stable")] = np.arange(len(probabilities))
        return cls(place * bins // max(1, len(probabilities)))

    def error(self, gaps: np.ndarray, weights: np.ndarray) -> float:
        """Calibration error of weighted examples with probability - label `gaps` [M]."""
        return float(np.abs(np.bincount(self.of_example, weights * gaps)).sum() / weights.sum())

"""Calibration: fits temperature, scale and offset on validation, and measures the calibration error.

AUC, log-loss and Brier score come from scikit-learn (`binary_metrics.py`).
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llmrec.recommenders.pool import minimize


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 10, by: str = "count") -> float:
    """Expected calibration error: the mean over equal-mass bins of |mean probability - share of positives|.

    Args:
        probabilities: [M].
        labels: bool [M].
        bins: number of bins, in order of probability.
        by: mass of a bin. `count` is its number of examples (Nguyen & O'Connor, EMNLP 2015). `probability` is its
            predicted number of positives: the error is |sum of probabilities - positives| summed over bins and divided
            by the sum of probabilities. It suits rare events over a catalogue, whose probabilities are nearly all 0.

    Returns:
        0 for perfectly calibrated probabilities. At most 1 with `count`; relative to the predicted number of positives
        with `probability`.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    labels = np.asarray(labels, dtype=np.float64)
    order = np.argsort(probabilities, kind="stable")
    p = probabilities[order]
    y = labels[order]
    mass = np.ones_like(p) if by == "count" else p
    # An example belongs to the bin that holds the middle of its mass.
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    bin_of = np.minimum((middle * bins).astype(np.int64), bins - 1)
    gaps = np.abs(np.bincount(bin_of, weights=p - y, minlength=bins))
    return float(gaps.sum() / mass.sum())


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """Fits the temperature T that minimizes the cross-entropy of softmax(logits / T) (Guo et al., ICML 2017).

    Args:
        logits: float [M, N]; -inf where an item cannot be the target.
        targets: index of the item that was clicked, int64 [M].

    Returns:
        T between 0.1 and 10; 1 without targets.
    """
    if not len(targets):
        return 1.0
    # The mask is applied after the division, because the gradient of -inf / T is NaN.
    impossible = logits.isneginf()
    logits = torch.where(impossible, 0.0, logits)

    def loss(log_t: Tensor) -> Tensor:
        scaled = torch.where(impossible, -torch.inf, logits / log_t.exp())
        return F.cross_entropy(scaled, targets) + 1e-4 * log_t.square()

    log_t = minimize(torch.zeros(()), loss)
    return float(log_t.exp().clamp(0.1, 10.0))


def fit_platt(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Fits scale a > 0 and offset b that minimize the log-loss of sigmoid(a logit + b) (Platt, 1999).

    A weak penalty pulls them towards (1, 0).

    Args:
        logits: float [M].
        labels: bool [M].

    Returns:
        (a, b), with a between 0.1 and 10; (1, 0) if all labels are equal.
    """
    labels = labels.float()
    if not len(labels) or labels.min() == labels.max():
        return 1.0, 0.0

    def loss(v: Tensor) -> Tensor:
        scaled = v[0].exp() * logits + v[1]
        return F.binary_cross_entropy_with_logits(scaled, labels) + v.square().sum() / len(labels)

    log_scale, offset = minimize(torch.zeros(2), loss)
    return float(log_scale.exp().clamp(0.1, 10.0)), float(offset)

"""Quality of probabilities of yes/no events, with intervals over users, and their reliability diagram.

All intervals are 95 % percentile bootstraps over users.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

BOOTSTRAP_SAMPLES = 300
FLOOR_SAMPLES = 30  # simulated outcomes from which `ece_floor` is averaged
SMALLEST = 1e-12  # probabilities are kept this far from 0 and 1, so that the log-loss is finite


@dataclass(frozen=True)
class LabeledEvents:
    """Predicted probabilities of M events, and whether each event happened.

    Attributes:
        probabilities: float [M].
        labels: whether the event happened, bool [M].
        users: user of each event, int64 [M].
        scores: what orders the events for AUC, float [M]; often the probabilities themselves.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    users: np.ndarray
    scores: np.ndarray

    def select(self, rows: np.ndarray) -> "LabeledEvents":
        """The events of some rows, bool or int64."""
        return LabeledEvents(
            probabilities=self.probabilities[rows],
            labels=self.labels[rows],
            users=self.users[rows],
            scores=self.scores[rows],
        )


@dataclass(frozen=True)
class Bins:
    """Ten bins of equal count, fixed so that resampled events stay in their bins.

    Attributes:
        of_event: bin of each event, int64 [M].
    """

    of_event: np.ndarray

    @classmethod
    def from_probabilities(cls, probabilities: np.ndarray, bins: int = 10) -> "Bins":
        """The bins of `calibration.calibration_error` with `by="count"`."""
        rank = np.empty(len(probabilities), dtype=np.int64)
        rank[np.argsort(probabilities, kind="stable")] = np.arange(len(probabilities))
        return cls(rank * bins // max(1, len(probabilities)))

    def error(self, gaps: np.ndarray, weights: np.ndarray) -> float:
        """Calibration error of weighted events, from the gaps probability - label, [M]."""
        return float(np.abs(np.bincount(self.of_event, weights * gaps)).sum() / weights.sum())


def auc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Area under the ROC curve; None if all labels are equal.

    Raises:
        ValueError: a score is NaN.
    """
    labels = np.asarray(labels, dtype=bool)
    if labels.all() or not labels.any():
        return None
    return float(roc_auc_score(labels, scores))


def resampled_auc(ranks: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """AUC of weighted events whose scores are sorted already; NaN if one class has no weight.

    It equals `roc_auc_score(labels, ranks, sample_weight=weights)`. That function sorts the scores in every call, which
    made the bootstrap about twenty times slower.

    Args:
        ranks: rank of each score among the distinct scores, int64 [M].
        labels: bool [M].
        weights: how often each event was drawn, float [M].
    """
    positive = np.bincount(ranks, weights * labels)
    negative = np.bincount(ranks, weights * ~labels)
    total = positive.sum() * negative.sum()
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / total) if total else float("nan")


def binary_quality(events: LabeledEvents, seed: int) -> dict[str, Any]:
    """AUC, log-loss (nats), Brier score and calibration error (ten bins of equal count), each with its interval.

    `auc` is None if all labels are equal. `ece_floor` is the calibration error that perfectly calibrated probabilities
    of these sizes would show: an error near it is noise.

    Args:
        events: the events.
        seed: seed of the bootstrap.
    """
    p = np.clip(events.probabilities, SMALLEST, 1 - SMALLEST)
    labels = events.labels
    rng = np.random.default_rng(seed)
    ranks = np.unique(events.scores, return_inverse=True)[1]
    log_losses = -np.where(labels, np.log(p), np.log1p(-p))
    squares = np.square(p - labels)
    bins = Bins.from_probabilities(p)
    draws = []
    for weights in _resampled_weights(events.users, rng):
        total = weights.sum()
        draws.append(
            (
                resampled_auc(ranks, labels, weights),
                weights @ log_losses / total,
                weights @ squares / total,
                bins.error(p - labels, weights),
            )
        )
    aucs, losses, scores, errors = np.array(draws).T
    once = np.ones(len(p))
    value = auc(events.scores, labels)
    result = {
        "n": len(labels),
        "positives": int(labels.sum()),
        "auc": None if value is None else _estimate(value, aucs),
        "log_loss": _estimate(log_loss(labels, p, labels=[False, True]), losses),
        "brier": _estimate(brier_score_loss(labels, p, pos_label=True), scores),
        "ece": _estimate(bins.error(p - labels, once), errors),
    }
    simulated = [bins.error(p - (rng.random(len(p)) < p), once) for _ in range(FLOOR_SAMPLES)]
    return result | {"ece_floor": float(np.mean(simulated))}


def auc_with_interval(events: LabeledEvents, seed: int) -> dict[str, Any] | None:
    """AUC and its interval, as in `binary_quality`; None if all labels are equal."""
    value = auc(events.scores, events.labels)
    if value is None:
        return None
    rng = np.random.default_rng(seed)
    ranks = np.unique(events.scores, return_inverse=True)[1]
    draws = [resampled_auc(ranks, events.labels, weights) for weights in _resampled_weights(events.users, rng)]
    return _estimate(value, np.array(draws))


def _resampled_weights(users: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each event counts in each resample of users, float [M] a resample."""
    distinct, owner = np.unique(users, return_inverse=True)
    times = rng.multinomial(len(distinct), np.full(len(distinct), 1 / len(distinct)), BOOTSTRAP_SAMPLES)
    for drawn in times:
        yield drawn[owner].astype(np.float64)


def _estimate(value: float, draws: np.ndarray) -> dict[str, Any]:
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return {"value": float(value), "ci95": [float(low), float(high)]}


def reliability(events: LabeledEvents) -> dict[str, list[float]]:
    """The reliability diagram in ten bins of equal count.

    Returns:
        `predicted` (mean probability), `observed` (share of events that happened) and `count` of each bin, [10] each,
        or shorter if there are fewer than ten events.
    """
    _, bins = np.unique(Bins.from_probabilities(events.probabilities).of_event, return_inverse=True)
    count = np.bincount(bins)
    return {
        "predicted": (np.bincount(bins, events.probabilities) / count).tolist(),
        "observed": (np.bincount(bins, events.labels) / count).tolist(),
        "count": count.tolist(),
    }

"""AUC, log-loss, Brier score, calibration error and reliability, by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from reward_models.binary_metrics import LabeledEvents, auc, binary_quality, reliability, resampled_auc


def events(probabilities, labels) -> LabeledEvents:
    """One event a user, ordered by its probability."""
    p = np.asarray(probabilities, dtype=np.float64)
    return LabeledEvents(probabilities=p, labels=np.asarray(labels, dtype=bool), users=np.arange(len(p)), scores=p)


def test_auc_counts_ordered_pairs():
    # Positives .8 and .4, negatives .6 and .2: ordered pairs .8>.6, .8>.2, .4>.2 of four.
    assert auc(np.array([0.8, 0.4, 0.6, 0.2]), np.array([1, 1, 0, 0])) == 0.75


def test_auc_counts_ties_half():
    # .5 ties with one negative and beats the other: (0.5 + 1) / 2.
    assert auc(np.array([0.5, 0.5, 0.1]), np.array([1, 0, 0])) == 0.75


@pytest.mark.parametrize("labels", [[1, 1], [0, 0]])
def test_one_class_has_no_auc(labels):
    assert auc(np.array([0.1, 0.2]), np.array(labels)) is None
    quality = binary_quality(events([0.1, 0.2], labels), seed=0)
    assert quality["auc"] is None
    assert np.isfinite(quality["log_loss"]["value"])
    assert quality["brier"]["value"] == pytest.approx(np.mean((np.array([0.1, 0.2]) - labels) ** 2))


def test_auc_refuses_nan():
    with pytest.raises(ValueError, match="NaN"):
        auc(np.array([0.1, np.nan]), np.array([1, 0]))


def test_resampled_auc_is_the_weighted_auc_of_scikit_learn():
    rng = np.random.default_rng(0)
    for levels in (3, 1000):  # with many ties and with few
        scores = rng.integers(0, levels, 200)
        labels = rng.random(200) < 0.3
        weights = rng.integers(0, 4, 200).astype(float)
        expected = roc_auc_score(labels, scores, sample_weight=weights)
        assert resampled_auc(np.unique(scores, return_inverse=True)[1], labels, weights) == pytest.approx(expected)


def test_resampled_auc_is_nan_if_one_class_was_not_drawn():
    assert np.isnan(resampled_auc(np.array([0, 1]), np.array([True, False]), np.array([1.0, 0.0])))


def test_quality_by_hand():
    quality = binary_quality(events([0.5, 0.25], [1, 0]), seed=0)
    assert quality["log_loss"]["value"] == pytest.approx((np.log(2) + np.log(4 / 3)) / 2)
    assert quality["brier"]["value"] == pytest.approx((0.25 + 0.0625) / 2)
    assert quality["ece"]["value"] == pytest.approx((0.5 + 0.25) / 2)  # each event is a bin of its own
    assert (quality["n"], quality["positives"]) == (2, 1)


def test_log_loss_is_finite_for_certain_mistakes():
    assert np.isfinite(binary_quality(events([0.0, 0.5], [1, 0]), seed=0)["log_loss"]["value"])


def test_reliability_diagram():
    """Twenty events, two a bin: probabilities n / 40, and the upper half happens."""
    p = np.arange(20)[::-1] / 40
    found = reliability(events(p, p >= 0.25))
    assert found["count"] == [2] * 10
    assert found["predicted"] == pytest.approx([(2 * bin + 0.5) / 40 for bin in range(10)])
    assert found["observed"] == [0.0] * 5 + [1.0] * 5

"""AUC, log-loss, calibration error and calibration, against numbers worked by hand."""

import numpy as np
import pytest
import torch

from reward_models.calibration import auc, calibration_error, fit_platt, fit_temperature, log_loss
from reward_models.quality import Labelled, reliability


def test_auc_counts_ordered_pairs():
    # Positives .8 and .4, negatives .6 and .2: ordered pairs .8>.6, .8>.2, .4>.2 of four.
    assert auc([0.8, 0.4, 0.6, 0.2], [1, 1, 0, 0]) == 0.75


def test_auc_counts_ties_half():
    # .5 ties with one negative and beats the other: (0.5 + 1) / 2.
    assert auc([0.5, 0.5, 0.1], [1, 0, 0]) == 0.75


def test_auc_needs_two_classes():
    with pytest.raises(ValueError, match="both classes"):
        auc([0.1, 0.2], [1, 1])


def test_auc_refuses_nan():
    with pytest.raises(ValueError, match="NaN"):
        auc([0.1, np.nan], [1, 0])


def test_log_loss():
    assert log_loss([0.5, 0.25], [1, 0]) == pytest.approx((np.log(2) + np.log(4 / 3)) / 2)
    assert np.isfinite(log_loss([0.0], [1]))


def test_calibration_error_by_count():
    # Bins {.1, .3} with one positive: |.4 - 1| = .6; {.6, .8} with two: |1.4 - 2| = .6; over 4 examples.
    assert calibration_error([0.8, 0.1, 0.6, 0.3], [1, 0, 1, 1], bins=2) == pytest.approx(0.3)


def test_calibration_error_by_probability():
    # Masses .1 .1 .2 | .4: bin 1 predicts .4 and has 1, bin 2 predicts .4 and has 0: (.6 + .4) / .8.
    error = calibration_error([0.1, 0.1, 0.2, 0.4], [1, 0, 0, 0], bins=2, by="probability")
    assert error == pytest.approx(1.25)


def test_reliability_diagram():
    """Twenty examples, two a bin: probabilities n / 40, and the upper half happens."""
    p = np.arange(20)[::-1] / 40
    found = reliability(Labelled(p, p >= 0.25, np.zeros(20), p))
    assert found["count"] == [2] * 10
    assert found["predicted"] == pytest.approx([(2 * bin + 0.5) / 40 for bin in range(10)])
    assert found["observed"] == [0.0] * 5 + [1.0] * 5


def test_temperature_is_recovered():
    torch.manual_seed(0)
    true = torch.randn(4000, 6) * 1.5
    targets = torch.distributions.Categorical(logits=true).sample()
    assert fit_temperature(true * 3, targets) == pytest.approx(3, rel=0.1)


def test_temperature_ignores_impossible_items():
    logits = torch.tensor([[0.0, 1.0, float("-inf")]] * 10)
    targets = torch.tensor([1] * 7 + [0] * 3)
    # P(1) = sigmoid(1 / T) = .7, so T = 1 / log(7 / 3).
    assert fit_temperature(logits, targets) == pytest.approx(1 / np.log(7 / 3), rel=0.01)


def test_platt_is_recovered():
    torch.manual_seed(0)
    logits = torch.randn(20_000)
    scale, offset = fit_platt(logits, torch.rand(20_000) < torch.sigmoid(2 * logits - 1))
    assert (scale, offset) == (pytest.approx(2, rel=0.1), pytest.approx(-1, rel=0.1))


def test_platt_of_one_class_changes_nothing():
    assert fit_platt(torch.randn(5), torch.ones(5)) == (1.0, 0.0)

"""Calibration error, and the numbers that calibrate, against numbers worked by hand."""

import numpy as np
import pytest
import torch

from reward_models.calibration import calibration_error, fit_platt, fit_temperature


def test_calibration_error_by_count():
    # Bins {.1, .3} with one positive: |.4 - 1| = .6; {.6, .8} with two: |1.4 - 2| = .6; over 4 examples.
    assert calibration_error([0.8, 0.1, 0.6, 0.3], [1, 0, 1, 1], bins=2) == pytest.approx(0.3)


def test_calibration_error_by_probability():
    # Masses .1 .1 .2 | .4: bin 1 predicts .4 and has 1, bin 2 predicts .4 and has 0: (.6 + .4) / .8.
    error = calibration_error([0.1, 0.1, 0.2, 0.4], [1, 0, 0, 0], bins=2, by="probability")
    assert error == pytest.approx(1.25)


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

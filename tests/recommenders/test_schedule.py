"""The learning-rate schedule of the small models, against its formula and numbers worked by hand."""

import math

import pytest

from llmrec.recommenders.schedule import warmup_cosine


def test_warm_up_and_cosine_by_hand():
    # The warm-up over 4 of 8 steps multiplies a cosine from 1 to 0.05.
    assert warmup_cosine(0, 8, 4) == pytest.approx(1 / 4)
    assert warmup_cosine(4, 8, 4) == pytest.approx(0.05 + 0.95 / 2)
    assert warmup_cosine(8, 8, 4) == pytest.approx(0.05)
    assert warmup_cosine(4, 8, 4, peak=2e-3) == pytest.approx(2e-3 * 0.525)


def test_the_schedule_of_sasrec():
    """The warm-up takes a twentieth of the steps and starts at a twentieth of the peak."""
    for step in range(61):
        progress = step / 60
        expected = min(1.0, 20 * progress + 0.05) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))
        assert warmup_cosine(step, 60, 3.0, first_step=0.15) == pytest.approx(expected, rel=1e-12)

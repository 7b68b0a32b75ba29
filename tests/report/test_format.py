"""Numbers for people."""

import math

import pytest

from llmrec.evaluation.report import Comparison, Count, Estimate
from llmrec.report.format import digits_for, interval, measured, number, percent, seeds, typeset


@pytest.mark.parametrize(
    ("value", "options", "text"),
    [
        (0.12345, {}, "0.123"),
        (-1234.5, {"digits": 1}, "-1,234.5"),
        (12345, {"digits": 3}, "12,345"),
        (0.5, {"digits": 2, "sign": True}, "+0.50"),
        (3, {"sign": True}, "+3"),
        (None, {}, "undefined"),
        (math.nan, {"sign": True}, "undefined"),
    ],
)
def test_numbers(value, options, text):
    assert number(value, **options) == text


def test_percent():
    assert (percent(0.8647), percent(0.8647, 0), percent(None)) == ("86.5 %", "86 %", "undefined")


def test_measurements_with_their_intervals():
    assert measured(Estimate(value=0.1, ci95=(0.05, 0.2))) == "0.100 [0.050, 0.200]"
    assert measured(Comparison(difference=0.1, ci95=(-0.05, 0.2)), 2) == "+0.10 [-0.05, +0.20]"
    assert measured(Estimate(value=0.1), sign=True) == "+0.100"
    assert measured(Count(count=1417)) == "1,417"


def test_an_undefined_number_and_one_that_was_not_measured_differ():
    assert measured(Estimate(value=None, ci95=None, n=0)) == "undefined"
    assert measured(None) == "-" and interval(None) == ""


def test_seeds():
    assert seeds(Estimate(value=0.2, seeds=[0.1, None, 0.3])) == "0.100, undefined, 0.300"
    assert seeds(Comparison(difference=0.1, seeds=[0.1, -0.1]), 1) == "+0.1, -0.1"
    assert seeds(Estimate(value=0.2)) == seeds(None) == ""


def test_a_column_of_small_numbers_gets_a_fourth_decimal():
    assert digits_for([Estimate(value=0.04), Estimate(value=-0.01), None, Estimate(value=None)]) == 4
    assert digits_for([Estimate(value=0.04), Estimate(value=0.05)]) == digits_for([]) == 3


def test_only_hyphens_of_negative_numbers_become_minus_signs():
    assert typeset("-0.5 [-0.7, -0.3], leave-one-out, SHA-2, 1e-05") == "−0.5 [−0.7, −0.3], leave-one-out, SHA-2, 1e-05"

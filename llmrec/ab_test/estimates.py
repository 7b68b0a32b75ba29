"""The difference between two arms in a ratio of means: delta method, CUPED and the fixed-horizon interval.

Sources: the delta method for ratio metrics with users as units is that of Deng, Knoblich & Lu (KDD 2018). CUPED is that
of Deng, Xu, Kohavi & Walker (WSDM 2013), with ratios as covariates.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from llmrec.ab_test.moments import Moments


@dataclass(frozen=True)
class Difference:
    """Treatment minus control at each of L looks.

    Attributes:
        users: users of both arms, float64 [L].
        control: ratio of the control arm, without adjustment, float64 [L].
        treatment: ratio of the treatment arm, without adjustment, float64 [L].
        value: estimated difference, float64 [L].
        variance: variance of `value`, float64 [L].
        degrees: degrees of freedom by Welch and Satterthwaite, float64 [L].
        unadjusted_variance: variance of the difference without CUPED, float64 [L].
    """

    users: np.ndarray
    control: np.ndarray
    treatment: np.ndarray
    value: np.ndarray
    variance: np.ndarray
    degrees: np.ndarray
    unadjusted_variance: np.ndarray

    def fixed_interval(self, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """Welch's interval, valid if the test is looked at once. Lower and upper bound, float64 [L] each."""
        radius = stats.t.isf(alpha / 2, self.degrees) * np.sqrt(self.variance)
        return self.value - radius, self.value + radius

    def fixed_p_value(self) -> np.ndarray:
        """Two-sided p-value of Welch's test, valid if the test is looked at once, float64 [L]."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return 2 * stats.t.sf(np.abs(self.value) / np.sqrt(self.variance), self.degrees)


def difference(control: Moments, treatment: Moments, cuped: bool) -> Difference:
    """Difference of the ratios of two arms.

    Args:
        control: moments of the control arm.
        treatment: moments of the treatment arm at the same looks.
        cuped: whether the covariate reduces the variance.
    """
    pooled = control + treatment
    coefficient = regression_coefficient(pooled) if cuped else np.zeros(len(pooled.users))
    arms = {
        "control": (ratio(control), *_adjusted(control, pooled, coefficient)),
        "treatment": (ratio(treatment), *_adjusted(treatment, pooled, coefficient)),
    }
    plain_control, value_control, variance_control = arms["control"]
    plain_treatment, value_treatment, variance_treatment = arms["treatment"]
    variance = variance_control + variance_treatment
    none = np.zeros(len(pooled.users))
    with np.errstate(invalid="ignore", divide="ignore"):
        degrees = variance**2 / (
            variance_control**2 / (control.users - 1) + variance_treatment**2 / (treatment.users - 1)
        )
    return Difference(
        users=pooled.users,
        control=plain_control,
        treatment=plain_treatment,
        value=value_treatment - value_control,
        variance=variance,
        degrees=degrees,
        unadjusted_variance=_adjusted(control, pooled, none)[1] + _adjusted(treatment, pooled, none)[1],
    )


def ratio(moments: Moments) -> np.ndarray:
    """Ratio of the means of numerator and denominator, float64 [L]; NaN without a denominator."""
    return _divide(moments.mean[:, 0], moments.mean[:, 1])


def regression_coefficient(pooled: Moments) -> np.ndarray:
    """CUPED's coefficient: covariance of metric and covariate over the variance of the covariate, float64 [L].

    It is 0 where the covariate does not vary.
    """
    metric, covariate = _gradients(pooled)
    shared = _quadratic(metric, pooled.covariance, covariate)
    spread = _quadratic(covariate, pooled.covariance, covariate)
    return np.where(spread > 0, _divide(shared, spread), 0.0)


def linearized_variance(moments: Moments, cuped: bool) -> np.ndarray:
    """Variance of one user's contribution to the ratio, float64 [L]; divided by the users it is that of the ratio."""
    coefficient = regression_coefficient(moments) if cuped else np.zeros(len(moments.users))
    return _adjusted(moments, moments, coefficient)[1] * moments.users


def _adjusted(arm: Moments, pooled: Moments, coefficient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ratio of an arm minus what the covariate explains, and its variance, float64 [L] each."""
    metric, covariate = _gradients(arm)
    gradient = metric - coefficient[:, None] * covariate
    shift = _divide(arm.mean[:, 2], arm.mean[:, 3]) - _divide(pooled.mean[:, 2], pooled.mean[:, 3])
    value = ratio(arm) - coefficient * np.where(coefficient == 0, 0.0, shift)
    return value, _divide(_quadratic(gradient, arm.covariance, gradient), arm.users)


def _gradients(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of the metric and of the covariate by the four means, float64 [L, 4] each.

    The derivative of a ratio without denominator is taken as 0.
    """
    mean = moments.mean
    metric = np.zeros_like(mean)
    covariate = np.zeros_like(mean)
    metric[:, 0] = _divide(1.0, mean[:, 1])
    metric[:, 1] = -_divide(mean[:, 0], mean[:, 1] ** 2)
    covariate[:, 2] = np.nan_to_num(_divide(1.0, mean[:, 3]))
    covariate[:, 3] = -np.nan_to_num(_divide(mean[:, 2], mean[:, 3] ** 2))
    return metric, covariate


def _quadratic(left: np.ndarray, matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.einsum("li,lij,lj->l", left, matrix, right)


def _divide(numerator: np.ndarray | float, denominator: np.ndarray) -> np.ndarray:
    """A quotient that is NaN where the denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator == 0, np.nan, numerator / denominator)

"""Asymptotic confidence sequences: intervals that hold at every look together.

Source: Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences", Annals of Statistics 2024. Each user counts once, when the outcome is known, so the users in the order of
that time are the sequence. The estimate may use CUPED, because its regression adjustment is asymptotically linear.
"""

import math

import numpy as np
from scipy.special import lambertw


def mixture_scale(planned_users: float, alpha: float) -> float:
    """The scale rho^2 of Robbins' normal mixture for which the interval is tightest at a number of users.

    With u = n rho^2 the squared half width is proportional to (1 + 1/u) (log(1 + u) - 2 log alpha). Its minimum solves
    u - log(1 + u) = -2 log alpha.

    Args:
        planned_users: number of users n at which the interval is tightest.
        alpha: probability of a false positive.
    """
    return _tightest(alpha) / planned_users


def critical_value(alpha: float) -> float:
    """Half width of the sequence at the planned number of users, in standard errors; 1.96 for one look alone."""
    return math.sqrt(_tightest(alpha) + 1)


def _tightest(alpha: float) -> float:
    return float(-lambertw(-(alpha**2) / math.e, -1).real - 1)


def radius(variance: np.ndarray, users: np.ndarray, scale: float, alpha: float) -> np.ndarray:
    """Half width of the confidence sequence, float64 [L].

    Args:
        variance: variance of the estimate at each look, float64 [L].
        users: users of the estimate, float64 [L].
        scale: see `mixture_scale`.
        alpha: probability that any interval of the sequence misses the truth.
    """
    growth = users * scale
    return np.sqrt(variance * 2 * (growth + 1) / growth * np.log(np.sqrt(growth + 1) / alpha))


def p_values(value: np.ndarray, variance: np.ndarray, users: np.ndarray, scale: float) -> np.ndarray:
    """Smallest alpha at which the sequence excludes 0 at each look or an earlier one, float64 [L].

    Looks with an undefined value count as 1.
    """
    growth = users * scale
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        evidence = value**2 / variance * growth / (2 * (growth + 1))
        p = np.minimum(1.0, np.sqrt(growth + 1) * np.exp(-evidence))
    return np.minimum.accumulate(np.nan_to_num(p, nan=1.0))

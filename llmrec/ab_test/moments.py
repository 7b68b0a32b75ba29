"""Sums over users at several looks, from which every estimate of a test is computed.

A metric is a ratio of two means over users, and so is its covariate. Each user contributes four numbers: numerator and
denominator of the metric, then numerator and denominator of the covariate. A plain mean has the denominator 1.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Sums of the four numbers over the users that count at each of L looks.

    Attributes:
        users: number of users, float64 [L].
        center: a constant that is subtracted before products are summed, for accuracy, float64 [4].
        first: sums of the centered numbers, float64 [L, 4].
        second: sums of their products, float64 [L, 4, 4].
    """

    users: np.ndarray
    center: np.ndarray
    first: np.ndarray
    second: np.ndarray

    def __add__(self, other: "Moments") -> "Moments":
        """The moments of both groups of users together; the centers must be equal."""
        return Moments(
            users=self.users + other.users,
            center=self.center,
            first=self.first + other.first,
            second=self.second + other.second,
        )

    @cached_property
    def mean(self) -> np.ndarray:
        """Means, float64 [L, 4]; NaN without users."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.center + self.first / self.users[:, None]

    @cached_property
    def covariance(self) -> np.ndarray:
        """Unbiased covariances, float64 [L, 4, 4]; NaN for fewer than two users."""
        with np.errstate(invalid="ignore", divide="ignore"):
            outer = self.first[:, :, None] * self.first[:, None, :] / self.users[:, None, None]
            return (self.second - outer) / (self.users - 1)[:, None, None]


def moments_at_looks(values: np.ndarray, ready: np.ndarray, looks: np.ndarray, center: np.ndarray) -> Moments:
    """Moments of the users whose outcome is known at each look.

    Args:
        values: the four numbers of each user, float64 [U, 4].
        ready: time at which a user's outcome is known, in the units of `looks`, [U].
        looks: ascending times, [L].
        center: a number near the mean of each column, float64 [4].
    """
    look = np.searchsorted(looks, ready)  # the first look at which the user counts
    order = np.argsort(look, kind="stable")
    ends = np.searchsorted(look[order], np.arange(len(looks)), side="right")
    centered = values[order] - center
    first = np.zeros((len(looks), 4))
    second = np.zeros((len(looks), 4, 4))
    begin = 0
    for index, end in enumerate(ends):
        new = centered[begin:end]
        first[index] = new.sum(0)
        second[index] = new.T @ new
        begin = end
    return Moments(ends.astype(np.float64), center, first.cumsum(0), second.cumsum(0))

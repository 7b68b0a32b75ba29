"""Assignment of users to arms by a salted hash.

The arm is a function of salt, name of the test and user id, so no state is kept and every service agrees. Tests with
other names assign independently.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from llmrec.config import ABTestConfig
from llmrec.errors import ConfigError

_SEPARATOR = b"\x1f"  # keeps ("a", "bc") and ("ab", "c") apart


@dataclass(frozen=True)
class Assignment:
    """The arm of one user, as an exposure log should hold it.

    Attributes:
        user_id: the user.
        arm: name of the arm.
        propensity: probability with which a user is assigned to this arm.
    """

    user_id: str
    arm: str
    propensity: float


class Assigner:
    """Assigns users to the arms of one test.

    Args:
        config: the test; its salt must be set.

    Raises:
        ConfigError: the test has no salt.
    """

    def __init__(self, config: ABTestConfig) -> None:
        if config.salt is None:
            raise ConfigError(
                "`salt` is null; expected a secret text, because the hash of users needs one. Set `salt`, or assign "
                "users by the other system."
            )
        self.arms = list(config.arms)
        self._shares = list(config.arms.values())
        self._upper = np.cumsum(self._shares)[:-1]
        self._hash = _hash_of(config.salt, config.name)

    def indices(self, user_ids: Iterable[str]) -> np.ndarray:
        """Index of each user's arm, int64 [U]: the share of the hash space in which the user's SHA-256 lies."""
        draws = np.array([_draw(self._hash, user) for user in user_ids], dtype=np.float64)
        return np.searchsorted(self._upper, draws, side="right")

    def assign(self, user_ids: Iterable[str]) -> list[Assignment]:
        """The arm and propensity of each user."""
        users = list(user_ids)
        return [
            Assignment(user, self.arms[arm], self._shares[arm])
            for user, arm in zip(users, self.indices(users), strict=True)
        ]


def draw(salt: str, test: str, user_id: str) -> float:
    """The place of a user in the hash space of a test, in [0, 1). Arms are served to consecutive parts of it."""
    return _draw(_hash_of(salt, test), user_id)


def _hash_of(salt: str, test: str) -> "hashlib._Hash":
    return hashlib.sha256(_SEPARATOR.join([salt.encode(), test.encode(), b""]))


def _draw(prefix: "hashlib._Hash", user_id: str) -> float:
    """A number in [0, 1) from the first 53 bits of the hash."""
    digest = prefix.copy()
    digest.update(user_id.encode())
    return (int.from_bytes(digest.digest()[:8], "big") >> 11) / 2**53

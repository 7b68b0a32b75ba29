"""Which version serves whom: a declared share of users, by a salted hash, gets the canary."""

from dataclasses import dataclass

from llmrec.ab_test.assignment import draw


def canary_test(number: int) -> str:
    """Name of the A/B test between the current version and a canary. It is hashed with the user id."""
    return f"version-{number}"


@dataclass(frozen=True)
class Traffic:
    """The versions in use.

    Attributes:
        current: number of the current version.
        canary: number of the canary; None without one.
        share: share of users that the canary is served to.
        salt: secret that is hashed with user ids.
    """

    current: int
    canary: int | None = None
    share: float = 0.0
    salt: str = ""

    def version_of(self, user: str | None) -> int:
        """The version that serves a person, always the same one. Requests that name nobody get the current one."""
        if self.canary is None or user is None:
            return self.current
        served = draw(self.salt, canary_test(self.canary), user) >= 1 - self.share
        return self.canary if served else self.current

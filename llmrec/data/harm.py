"""Warnings about a log in the order of the harm that they do to results."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Harm = Literal["wrong", "weak", "odd"]

# Most harmful first. `wrong`: results say something else than they seem to. `weak`: results are right, but models learn
# less or the result holds for less. `odd`: results hardly change.
HARMS: tuple[Harm, ...] = ("wrong", "weak", "odd")


@dataclass(frozen=True)
class Warned:
    """A property of a log that harms results.

    Attributes:
        harm: how much, one of `HARMS`.
        share: how large a part of the log it is about, 0 to 1: of its events, users, items or test targets.
        why: how it harms.
        text: what was found, and what to do.
    """

    harm: Harm
    share: float
    why: str
    text: str


def by_harm(warnings: Iterable[Warned]) -> list[Warned]:
    """The warnings, most harmful first; of equal harm, the one about the largest share first."""
    return sorted(warnings, key=lambda one: (HARMS.index(one.harm), -one.share))


def as_card(warnings: Iterable[Warned]) -> list[dict[str, Any]]:
    """The warnings as JSON values of the dataset card, most harmful first."""
    return [asdict(one) for one in by_harm(warnings)]

"""Random numbers that are functions of (seed, life, step, purpose), without any hidden state.

Two policies that act in the same world then meet the same luck (common random numbers). The result depends neither on
the order of the calls nor on how many lives advance together, and a saved state continues exactly.

The mixing function is the finalizer of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014).
"""

from enum import IntEnum

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # the odd integer next to 2^64 divided by the golden ratio
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_TO_UNIT = 2.0**-53  # 53 bits fill the mantissa of a float64


class Purpose(IntEnum):
    """What a random number decides. Numbers for different purposes are independent."""

    USER = 1
    CHOICE = 2
    PURCHASE = 3
    END = 4
    RETURN = 5
    GAP = 6
    EXPLORE = 7


def keys(seed: int, lives: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """One key for each (seed, life, step).

    Args:
        seed: seed of the world, 0 or more.
        lives: number of each life, int64 [n].
        steps: steps that each life has taken, int64 [n].

    Returns:
        uint64 [n].
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        world = _mix(np.asarray([seed], dtype=np.uint64) + _GOLDEN)
        of_life = _mix(world + lives.astype(np.uint64) * _GOLDEN)
        return _mix(of_life + steps.astype(np.uint64) * _GOLDEN)


def uniforms(key: np.ndarray, purpose: Purpose) -> np.ndarray:
    """One uniform number in [0, 1) for each key, float64 [n]."""
    with np.errstate(over="ignore"):
        mixed = _mix(key + np.asarray(int(purpose), dtype=np.uint64) * _GOLDEN)
    return (mixed >> np.uint64(11)).astype(np.float64) * _TO_UNIT


def _mix(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    return values ^ (values >> np.uint64(31))

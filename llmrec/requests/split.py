"""Which values and pairs of conditions are held out: requests with them are for tests and never trained on.

A hash of the names decides, so that the split is the same in every run, process and version of a catalogue. Wordings
are split in `english.yaml`.
"""

import hashlib

from llmrec.requests.request import Condition

VALUES = 0.15  # share of values that are held out
PAIRS = 0.2  # share of pairs of conditions that are held out
SALT = "6"  # changes which are; of MovieLens-100K's values it holds out adventure, horror and the 1960s


def is_held_out_value(attribute: str, value: str) -> bool:
    """Whether training requests never name a value of an attribute."""
    return _draw(f"value|{attribute}|{value}") < VALUES


def is_held_out_pair(one: Condition, two: Condition) -> bool:
    """Whether training requests never hold two conditions together. Their order and negations do not matter."""
    return _draw("pair|" + "|".join(sorted((one.key, two.key)))) < PAIRS


def _draw(name: str) -> float:
    """A number in [0, 1) that depends on a name alone."""
    return int.from_bytes(hashlib.sha256(f"{SALT}{name}".encode()).digest()[:6], "big") / 2**48

"""How measured numbers are written for people: one formatter for the console, the model card and the page.

The text is ASCII, so that it prints on any terminal; `typeset` replaces the hyphens of negative numbers by minus signs.
"""

import math
import re
from collections.abc import Iterable

from llmrec.evaluation.report import Comparison, Interval, Measurement

UNDEFINED = "undefined"  # measured, but no number: an empty slice, say
ABSENT = "-"  # not measured


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A whole number in full with thousands separators, any other to `digits` decimals; None and NaN are undefined."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    plus = "+" if sign else ""
    return f"{value:{plus},d}" if isinstance(value, int) else f"{value:{plus},.{digits}f}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share between 0 and 1 in percent."""
    return UNDEFINED if share is None or not math.isfinite(share) else f"{100 * share:,.{digits}f} %"


def interval(bounds: Interval, digits: int = 3, sign: bool = False) -> str:
    """An interval in brackets; empty if it is undefined."""
    return f"[{', '.join(number(bound, digits, sign) for bound in bounds)}]" if bounds else ""


def measured(measurement: Measurement | None, digits: int = 3, sign: bool | None = None) -> str:
    """A measurement with its interval, as in `0.123 [0.101, 0.145]`.

    Args:
        measurement: the number; None if it was not measured.
        digits: decimals.
        sign: whether positive numbers get a plus sign; None: those of comparisons do.
    """
    if measurement is None:
        return ABSENT
    signed = isinstance(measurement, Comparison) if sign is None else sign
    return f"{number(measurement.number, digits, signed)} {interval(measurement.ci95, digits, signed)}".rstrip()


def measured_percent(measurement: Measurement, digits: int = 0) -> str:
    """A ratio with its interval in percent, as in `63 % [48 %, 79 %]`."""
    shown = percent(measurement.number, digits)
    bounds = measurement.ci95
    return f"{shown} [{', '.join(percent(bound, digits) for bound in bounds)}]" if bounds else shown


def seeds(measurement: Measurement | None, digits: int = 3, sign: bool | None = None) -> str:
    """The values of the training seeds, separated by commas; empty if there was one run."""
    if measurement is None or not measurement.seeds:
        return ""
    signed = isinstance(measurement, Comparison) if sign is None else sign
    return ", ".join(number(value, digits, signed) for value in measurement.seeds)


def digits_for(measurements: Iterable[Measurement | None]) -> int:
    """Decimals for a column of numbers: 4 if all are below 0.05, else 3."""
    numbers = [one.number for one in measurements if one is not None]
    sizes = [abs(value) for value in numbers if value is not None and math.isfinite(value)]
    return 4 if max(sizes, default=1.0) < 0.05 else 3


def typeset(text: str) -> str:
    """The text with minus signs in place of the hyphens before numbers, and a dash for an absent number."""
    return "–" if text == ABSENT else re.sub(r"(?<![\w.])-(?=\d)", "−", text)

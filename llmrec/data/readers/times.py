"""Times: numbers of several units, dates that look like numbers, ISO 8601 and named formats, as seconds since 1970."""

import pandas as pd

from llmrec.data.readers.raw import Table, as_text
from llmrec.data.readers.values import as_numbers, is_nested, rounded_down

# Parts of a second, and the smallest number that counts them. 1e11 seconds are in the year 5138, 1e11 ms in 1973.
_UNITS = {1e3: 1e11, 1e6: 1e14, 1e9: 1e17}
HORIZON = 4_102_444_800  # start of the year 2100, in seconds since 1970; later times are mistakes
# Dates that look like numbers, by their number of digits.
_COMPACT_DATES = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
DATE_SHARE = 0.9  # share of the numbers that must be such dates; 3 % of arbitrary numbers are
# Formats that an error message suggests if they fit.
_COMMON_DATES = (
    *("%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%m/%d/%y", "%d/%m/%y", "%d.%m.%y"),
    *("%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%d-%b-%y", "%d/%b/%Y", "%b %d, %Y", "%B %d, %Y", "%m %d, %Y"),
)
_COMMON_TIMES = (
    *("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", ", %H:%M", ", %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", " %H.%M.%S"),
    *(":%H:%M:%S", " %H:%M:%S %z", " %H:%M:%S UTC"),
)
# Formats of whole times: Apache logs, e-mails, `date`, JavaScript, and dates in ISO form with other times.
_COMMON_FORMATS = (
    *("%d/%b/%Y:%H:%M:%S %z", "[%d/%b/%Y:%H:%M:%S %z]", "%a, %d %b %Y %H:%M:%S %z", "%a, %d %b %Y %H:%M:%S GMT"),
    *("%a %b %d %H:%M:%S %z %Y", "%a %b %d %H:%M:%S UTC %Y", "%a %b %d %H:%M:%S %Y", "%a %b %d %Y %H:%M:%S"),
    *("%Y-%m-%d %H:%M:%S UTC", "%Y-%m-%d %I:%M:%S %p", "%Y-%m-%d %I:%M %p", "%Y-%m-%d-%H.%M.%S", "%Y%m%d %H:%M:%S"),
    *(date + time for date in _COMMON_DATES for time in _COMMON_TIMES),
)


def to_seconds(table: Table, column: str, date_format: str | None = None, dates: bool | None = None) -> pd.Series:
    """Timestamps as int64 seconds since 1970, rounded down; 0 for a row that is left out.

    Accepts numbers of seconds, milliseconds (above 1e11), microseconds (above 1e14) and nanoseconds (above 1e17),
    ISO 8601 text (UTC if it names no zone) and datetime columns. A column whose numbers are dates such as 20200131 or
    20200131235959, nine of ten at least, holds dates.

    Args:
        table: the table.
        column: name of the column.
        date_format: format of all times, in the codes of `strptime`; None for the forms above.
        dates: whether numbers such as 20200131 are dates; None if the values of this table decide.

    Raises:
        DataError: a value is none of these, is before 1970 or after 2100, and bad rows are errors.
    """
    values = table.frame[column]
    if date_format is not None:
        seconds = _seconds_of(pd.to_datetime(as_text(values), utc=True, format=date_format, errors="coerce"))
        expected, fix = f"a time in the form of `data.timestamp_format`, {date_format!r}", "Correct the row or the key."
    else:
        seconds = _seconds_in_any_form(values, dates)
        expected = (
            "seconds, milliseconds (above 1e11), microseconds (above 1e14) or nanoseconds (above 1e17) from 1970 to "
            "2100, or an ISO-8601 date"
        )
        fix = "Convert the column, or delete the row."
    bad = ~seconds.between(0, HORIZON)
    if date_format is None and bad.any() and not table.source.skip:
        fix = _suggested_formats(values[bad]) or fix
    table.source.refuse(values, bad, expected, fix)
    return rounded_down(seconds.where(~bad, 0)).astype("int64")


def _seconds_in_any_form(values: pd.Series, dates: bool | None) -> pd.Series:
    """Seconds since 1970, float64; NaN for a value that is not a time."""
    if pd.api.types.is_datetime64_any_dtype(values):
        return _seconds_of(pd.to_datetime(values, utc=True))
    numbers = as_numbers(values)
    seconds = None if dates is False else _compact_dates(numbers)
    if seconds is None:
        seconds = numbers.copy()
        for parts, least in _UNITS.items():
            seconds = seconds.mask(numbers > least, numbers / parts)
    is_text = numbers.isna()
    if is_text.any():
        texts = values[is_text].mask(is_nested(values[is_text]))
        seconds[is_text] = _seconds_of(pd.to_datetime(texts, utc=True, format="ISO8601", errors="coerce"))
    return seconds


def holds_dates(table: Table, column: str) -> bool:
    """Whether the numbers of a column are dates such as 20200131, a few mistakes aside; True without numbers."""
    numbers = as_numbers(table.frame[column])
    return not numbers.notna().any() or _compact_dates(numbers) is not None


def _compact_dates(numbers: pd.Series) -> pd.Series | None:
    """Seconds since 1970 of dates of one form, such as 20200131, and NaN for other numbers; None if too few are dates.

    Args:
        numbers: the values, float64; NaN for one that is not a number.
    """
    found = numbers.notna().sum()
    digits = len(f"{numbers.abs().median():.0f}") if found else 0
    if digits not in _COMPACT_DATES:
        return None
    possible = numbers[numbers.between(19 * 10 ** (digits - 2), 21 * 10 ** (digits - 2), inclusive="left")]
    text = possible.astype("int64").astype("str")
    dates = pd.to_datetime(text, utc=True, format=_COMPACT_DATES[digits], errors="coerce")
    seconds = _seconds_of(dates).reindex(numbers.index)
    return seconds if seconds.notna().sum() >= DATE_SHARE * found else None


def _seconds_of(dates: pd.Series) -> pd.Series:
    epoch = pd.Timestamp(0, tz="UTC").as_unit("s")  # In nanoseconds the year 2300 would overflow.
    return (dates - epoch) / pd.Timedelta(seconds=1)


def date_formats(values: pd.Series, share: float = 1.0) -> list[str]:
    """The common formats of dates and times that fit a share of the first 1,000 values."""
    sample = as_text(values.iloc[:1000])

    def fitting(some: pd.Series, form: str) -> float:
        return float(pd.to_datetime(some, format=form, utc=True, errors="coerce").notna().mean())

    possible = [one for one in _COMMON_FORMATS if fitting(sample.iloc[:20], one)]  # most formats fit none of them
    return [one for one in possible if fitting(sample, one) >= share]


def _suggested_formats(values: pd.Series) -> str:
    """A sentence that names the values of `data.timestamp_format` that fit, "" if none of the common ones does."""
    fitting = date_formats(values)
    if not fitting:
        return ""
    return f"Set `data.timestamp_format`, which fits as {' or '.join(repr(one) for one in fitting)}."

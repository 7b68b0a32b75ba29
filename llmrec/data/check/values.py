"""What the values of a column of an unknown log can be: times, times of day, ids, ratings, numbers in a range."""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from llmrec.data.exposures import LARGEST_RANK
from llmrec.data.readers.raw import NO_IDS, Source, Table, as_text
from llmrec.data.readers.times import date_formats, to_seconds
from llmrec.data.readers.values import as_numbers

SAMPLE = 1_000  # values of a column whose form is looked at
SURE = 0.9  # share of the values that must have a form if no name says what they are
_YEARS = (631_152_000, 2_366_841_600)  # 1990 to 2045, in seconds: numbers outside of it are no times
_EXCEL_DAYS = (20_000, 60_000)  # 1954 to 2064, counted from the end of 1899
_TIME_OF_DAY = r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?: ?[aApP][mM])?"
# Several ids in one text: in brackets, or with a sign between them.
_LIST = r"\[.*\]|\(.*,.*\)|[^\s|;]+(?:[|;][^\s|;]+)+|[\w-]*\d[\w-]*(?:[, ][\w-]*\d[\w-]*)+"
MOST_RATINGS = 200  # different numbers of a rating


@dataclass(frozen=True)
class Times:
    """How the times of a column are written.

    Attributes:
        form: `data.timestamp_format`; None if none is needed.
        other: another format that fits as well.
        days: whether all of them are at midnight.
    """

    form: str | None
    other: str | None
    days: bool


def known_ids(values: pd.Series) -> pd.Series:
    """The values as text, without missing ones and those that stand for a missing id."""
    text = as_text(values.dropna())
    return text[~text.isin(NO_IDS)]


def find_times(table: Table, name: str, share: float) -> Times | None:
    """How the times of a column are written; None if they are a smaller share of its values."""
    values = table.frame[name].dropna()  # all: the first ones may be of days that are months as well
    if values.empty or nested(values):
        return None
    if _share_of_times(values, None) >= share:
        seconds = _seconds(values, None)
        return Times(None, None, bool((seconds % 86_400 == 0).all()))
    if as_numbers(values).notna().mean() > 0.5 or not _may_be_dates(values, share):
        return None
    forms = date_formats(values, share)
    forms.sort(key=lambda form: -_share_of_times(values, form))
    if not forms or _share_of_times(values, forms[0]) < share:
        return None
    best = _seconds(values, forms[0])
    others = [form for form in forms[1:] if len(_seconds(values, form)) == len(best)]
    different = (form for form in others if not _seconds(values, form).equals(best))
    return Times(forms[0], next(different, None), bool((best % 86_400 == 0).all()))


def _may_be_dates(values: pd.Series, share: float) -> bool:
    """Whether a share of the values has the digits of a date: a cheap test before all formats are tried."""
    return bool(as_text(values).str.contains(r"\d.*[^\d].*\d", regex=True).mean() >= share)


def _seconds(values: pd.Series, form: str | None) -> pd.Series:
    """Seconds since 1970 of the values that are times from 1990 to 2045."""
    seconds = to_seconds(Table(values.to_frame("time"), Source("", skip=True)), "time", form)  # 0 for no time
    return seconds[seconds.between(*_YEARS)]


def _share_of_times(values: pd.Series, form: str | None) -> float:
    return len(_seconds(values, form)) / len(values)


def excel_days(values: pd.Series) -> bool:
    """Whether most values are numbers of days as Excel counts them, such as 43831."""
    return bool(as_numbers(values.dropna()).between(*_EXCEL_DAYS).mean() >= SURE)


def small_numbers(values: pd.Series) -> bool:
    """Whether most values are numbers that would be times before 1990."""
    return bool(as_numbers(values.dropna()).lt(_YEARS[0]).mean() >= SURE)


def times_of_day(values: pd.Series) -> bool:
    """Whether most values are times of day without a date, such as `12:30`."""
    text = as_text(values.dropna().iloc[:SAMPLE])
    return len(text) > 0 and bool(text.str.fullmatch(_TIME_OF_DAY).mean() >= SURE)


def nested(values: pd.Series) -> bool:
    """Whether a column holds objects or lists."""
    return values.dtype == object and any(isinstance(value, (dict, list, np.ndarray)) for value in values)


def lists_as_text(values: pd.Series) -> bool:
    """Whether a fifth of the values are text that lists several ids, such as `["a", "b"]` or `a|b`."""
    text = as_text(values.dropna().iloc[:SAMPLE])
    return len(text) > 0 and bool(text.str.fullmatch(_LIST).mean() >= 0.2)


def are_ids(values: pd.Series) -> bool:
    """Whether values can be ids: no objects or lists, and fractions only if values repeat, as in `1000455.3185`."""
    if nested(values) or not len(known_ids(values)) or lists_as_text(values):
        return False
    return are_whole(values) or repeat(values)


def are_whole(values: pd.Series) -> bool:
    """Whether no value is a number with a fraction."""
    return bool((as_numbers(values).dropna() % 1 == 0).all())


def count_rows(values: pd.Series) -> bool:
    """Whether values number rows: each is 1 more than the one before or begins again at 1, or none occurs twice."""
    steps = as_numbers(values.dropna()).diff().iloc[1:]
    again = as_numbers(values.dropna()).iloc[1:].eq(1)
    return bool(len(steps)) and (bool((steps.eq(1) | again).mean() >= SURE) or not values.dropna().duplicated().any())


def repeat(values: pd.Series) -> bool:
    """Whether values repeat as the ids of users and items do: several, and each on average on more than one row."""
    ids = known_ids(values)
    return 3 <= ids.nunique() <= 0.95 * len(ids)


def are_kinds(values: pd.Series) -> bool:
    """Whether values can be types of events: few different words, or a few whole numbers."""
    kinds = known_ids(values).nunique()
    numbers = as_numbers(values.dropna())
    words = bool(numbers.isna().all()) and 0 < kinds <= 50
    return words or (bool((numbers % 1 == 0).all()) and 2 < kinds <= 10)


def are_ratings(values: pd.Series) -> bool:
    """Whether most values are numbers, and few different ones."""
    numbers = as_numbers(values.dropna())
    return bool(numbers.notna().mean() > 0.5 and numbers.nunique() <= MOST_RATINGS)


def are_ranks(values: pd.Series) -> bool:
    """Whether values are whole numbers from 0 to 1,000, and several different ones."""
    numbers = as_numbers(values.dropna())
    return bool(numbers.between(0, LARGEST_RANK).all()) and are_whole(values) and numbers.nunique() > 1


def look_like_ratings(values: pd.Series) -> bool:
    """Whether values are those of a usual scale of ratings: up to 5 or 10, in steps of a half or whole number."""
    numbers = as_numbers(values.dropna())
    if numbers.isna().any() or not 3 <= numbers.nunique() <= 20 or numbers.min() < 0:
        return False
    return bool((numbers * 2 % 1 == 0).all()) and numbers.max() in (5, 10)


def inside(values: pd.Series, low: float, high: float) -> bool:
    """Whether most values are numbers in (low, high]."""
    numbers = as_numbers(values.dropna())
    return bool((numbers.gt(low) & numbers.le(high)).mean() > 0.5)


def rated_texts(values: pd.Series) -> bool:
    """Whether most values are text with a number of stars or points, such as `4 stars` or `4/5`."""
    text = as_text(values.dropna().iloc[:SAMPLE])
    pattern = re.compile(r"\D{0,20}\d{1,3}(?:[.,]\d+)?\D.{0,20}")
    return len(text) > 0 and bool(text.str.fullmatch(pattern).mean() > 0.5)

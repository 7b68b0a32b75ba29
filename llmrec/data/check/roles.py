"""What the columns of an unknown log are: by their names, and by their values where no name says it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pandas as pd

from llmrec.data.check.files import Sample
from llmrec.data.check.names import NAMES, may_be_guessed, rank, words_of
from llmrec.data.check.nested import holds_objects, objects_note
from llmrec.data.check.values import (
    SURE,
    Times,
    are_ids,
    are_kinds,
    are_ranks,
    are_ratings,
    are_whole,
    count_rows,
    excel_days,
    find_times,
    inside,
    known_ids,
    lists_as_text,
    look_like_ratings,
    nested,
    rated_texts,
    repeat,
    small_numbers,
    times_of_day,
)
from llmrec.data.readers.other_files import quote
from llmrec.data.readers.values import as_numbers

_FEWEST_GUESSED_IDS = 10  # a column with fewer different values may be a weekday or a channel
_AS_FILLED = 0.8  # a column of ids with a smaller share of the ids that another has gives way to it
# Columns that are read under these names unless the config says otherwise, and what they must hold.
_EXPECTED = {
    "rating": "a number",
    "position": "a rank from 0 to 1,000",
    "propensity": "a probability above 0 and at most 1",
}
# What a column must hold to be what its name says. The times are looked for by `find_times`.
_FITS: dict[str, Callable[[pd.Series], bool]] = {
    "user_id": are_ids,
    "item_id": are_ids,
    "propensity": lambda values: inside(values, 0, 1),
    "position": are_ranks,
    "event_type": lambda values: not nested(values) and are_kinds(values),
    "rating": are_ratings,
    "session_id": are_ids,
    "ranking_id": are_ids,
    "split": lambda values: set(known_ids(values)) <= {"train", "valid", "test"},
}


@dataclass
class Roles:
    """What the columns of a log are.

    Attributes:
        names: the column's name in the log, by llmrec's name.
        guessed: those of llmrec's names whose column was found by its values.
        times: how the times are written; None without a column of times.
        notes: what was guessed, and why a column is not used although its name says what it is.
        unread: those of llmrec's names that a column has whose values are something else.
    """

    names: dict[str, str] = field(default_factory=dict)
    guessed: set[str] = field(default_factory=set)
    times: Times | None = None
    notes: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    @property
    def forms(self) -> list[str]:
        """The forms of dates that all times have, if there are several."""
        times = self.times
        return [times.form, times.other] if times and times.form and times.other else []

    def is_free(self, name: str) -> bool:
        """Whether a column is none of llmrec's columns so far."""
        return name not in self.names.values()

    def guess(self, own: str, name: str) -> None:
        """Takes a column for one of llmrec's by its values."""
        self.names[own] = name
        self.guessed.add(own)


def find_roles(sample: Sample) -> Roles:
    """Finds the columns of a log that llmrec uses."""
    roles = Roles()
    for own in NAMES:
        _find_by_name(sample, roles, own)
    _guess_time(sample, roles)
    _guess_ids(sample, roles)
    _guess_rating(sample, roles)
    _explain_times(sample, roles)
    _explain_ids(sample, roles)
    _explain_numbers(sample, roles)
    return roles


# --- by name ------------------------------------------------------------------------------------------


def _named(sample: Sample, roles: Roles, own: str) -> list[str]:
    """The free columns whose names say that they are one of llmrec's, the surest first."""
    ranks = {name: rank(name, own) for name in sample.table.columns if roles.is_free(name)}
    sure = {name: place for name, place in ranks.items() if place is not None}
    return sorted(sure, key=lambda name: sure[name])


def _find_by_name(sample: Sample, roles: Roles, own: str) -> None:
    """Finds one of llmrec's columns by the names of the columns, if the values fit."""
    frame = sample.table.frame
    if own == "timestamp":
        found = {name: find_times(sample.table, name, share=0.5) for name in _named(sample, roles, own)}
        times = {name: one for name, one in found.items() if one is not None}
        if times:
            # Of two columns with equally sure names, the one that needs no format is taken.
            name = min(times, key=lambda name: (rank(name, own) or (0, 0), times[name].form is not None))
            roles.names[own], roles.times = name, times[name]
        return
    fitting = [name for name in _named(sample, roles, own) if frame[name].notna().any() and _FITS[own](frame[name])]
    if not fitting:
        return
    roles.names[own] = fitting[0]
    if own in ("user_id", "item_id"):
        roles.names[own] = _best_ids(sample, roles, own, fitting)
    elif own == "event_type":  # of `event` and `event_name`, the one that tells more apart
        first = rank(fitting[0], own)
        equal = [name for name in fitting if rank(name, own) == first]
        roles.names[own] = max(equal, key=lambda name: frame[name].nunique())


def _best_ids(sample: Sample, roles: Roles, own: str, names: list[str]) -> str:
    """The surest column of several different ids that numbers no rows and is not far emptier than another.

    The items of a log with kinds of events may be empty by design, because not all events are about an item.
    """
    frame = sample.table.frame
    names = [name for name in names if frame[name].nunique() > 1 and not count_rows(frame[name])] or names
    if own == "item_id" and _named(sample, roles, "event_type"):
        return names[0]
    filled = {name: len(known_ids(frame[name])) for name in names}
    best = next(name for name in names if filled[name] >= _AS_FILLED * max(filled.values()))
    if best != names[0]:
        share = 1 - filled[names[0]] / len(frame)
        roles.notes.append(f"`{names[0]}` is empty in {share:.0%} of the rows, so `{best}` counts as the {own}.")
    return best


# --- by values ----------------------------------------------------------------------------------------


def _free(sample: Sample, roles: Roles) -> list[str]:
    """The columns whose names do not say what they are."""
    free = [name for name in sample.table.columns if roles.is_free(name) and may_be_guessed(name)]
    return [name for name in free if not holds_objects(sample.table.frame[name])]


def _guess_time(sample: Sample, roles: Roles) -> None:
    if "timestamp" in roles.names:
        return
    found = {name: find_times(sample.table, name, SURE) for name in _free(sample, roles)}
    times = {name: one for name, one in found.items() if one is not None}
    if not times:
        return
    name = max(times, key=lambda name: sample.table.frame[name].nunique())
    roles.times = times[name]
    roles.guess("timestamp", name)
    roles.notes.append(f"`{name}` counts as the time: guessed from its values, because no name says it.")


def _guess_ids(sample: Sample, roles: Roles) -> None:
    """Takes columns with repeated values for the users and items, if there are as many as are missing."""
    missing = [own for own in ("user_id", "item_id") if own not in roles.names]
    frame = sample.table.frame
    columns = [
        name
        for name in _free(sample, roles)
        if rank(name, "timestamp") is None
        and are_ids(frame[name])
        and are_whole(frame[name])
        and repeat(frame[name])
        and known_ids(frame[name]).nunique() >= _FEWEST_GUESSED_IDS
        and not look_like_ratings(frame[name])
    ]
    columns = [name for name in columns if re.search("(?i)id$", name)] or columns
    if not missing or not columns or any(holds_objects(frame[name]) for name in frame.columns):
        return
    if len(columns) != len(missing):
        names = ", ".join(f"`{name}`" for name in columns)
        keys = " and ".join(f"`data.columns.{own}`" for own in missing)
        roles.notes.append(f"The values of {names} repeat as ids do. Name one of them in {keys}.")
        return
    for own, name in zip(missing, columns, strict=True):
        roles.guess(own, name)
        roles.notes.append(
            f"`{name}` counts as the {own}: guessed from its values, which repeat. If that is wrong, change "
            f"`data.columns.{own}`."
        )


def _guess_rating(sample: Sample, roles: Roles) -> None:
    if {"rating", "event_type"} & set(roles.names):
        return
    columns = [name for name in _free(sample, roles) if look_like_ratings(sample.table.frame[name])]
    if len(columns) == 1:
        roles.guess("rating", columns[0])
        roles.notes.append(
            f"`{columns[0]}` counts as the rating: guessed from its values, which are those of a scale. If that is "
            "wrong, remove `data.columns.rating` and change the rules."
        )


# --- why a column is not used -------------------------------------------------------------------------


def _explain_times(sample: Sample, roles: Roles) -> None:
    """Notes about times that are not read as they are."""
    frame = sample.table.frame
    clock = next((name for name in sample.table.columns if roles.is_free(name) and times_of_day(frame[name])), None)
    name = roles.names.get("timestamp")
    if name is not None and roles.times is not None:
        if clock is not None and roles.times.days:
            change = f't["timestamp"] = t[{quote(name)}] + " " + t[{quote(clock)}]'
            roles.notes.append(
                f"`{name}` holds days and `{clock}` times of day. The config uses the days, so the order within a day "
                f"is lost. To use both, join them, then check the new file: {sample.command(change, 'joined')}."
            )
        return
    if clock is not None:
        roles.notes.append(f"`{clock}` holds times of day without dates, so it is no time.")
    parts = {" ".join(words_of(name)): name for name in sample.table.columns if roles.is_free(name)}
    if {"year", "month", "day"} <= set(parts):
        numbers = ", ".join(f'"{part}": t[{quote(parts[part])}]' for part in ("year", "month", "day"))
        change = f't["timestamp"] = pd.to_datetime({{{numbers}}}).dt.strftime("%Y-%m-%d")'
        roles.notes.append(
            "Years, months and days are columns of their own. Join them, then check the new file: "
            f"{sample.command(change, 'joined')}."
        )
        return
    for name in _named(sample, roles, "timestamp"):
        values = frame[name]
        example = known_ids(values).iloc[:1].tolist()
        if name == clock or not example:
            continue
        if excel_days(values):
            days = f'pd.to_datetime(t[{quote(name)}].astype(float), unit="D", origin="1899-12-30")'
            change = f't["timestamp"] = {days}.dt.round("s")'
            roles.notes.append(
                f"`{name}` holds numbers such as {example[0]}, which may be days as Excel counts them and would be "
                f"read as seconds of 1970. Convert them, then check the new file: {sample.command(change, 'dates')}."
            )
        elif small_numbers(values):
            roles.notes.append(
                f"`{name}` holds numbers such as {example[0]}, which would be read as seconds since 1970, so it is no "
                f"time. If it only orders the events, set `data.columns.timestamp: {name}`."
            )
        else:
            roles.notes.append(
                f"`{name}` holds values such as {example[0]!r}, which are no times in a form that is known. If they "
                "are times, name their form in `data.timestamp_format`."
            )


def settle_dates(roles: Roles, fitting: dict[str, int]) -> None:
    """Chooses between two forms of the dates in the first rows by all rows that were read.

    Args:
        roles: the columns of the log.
        fitting: number of different times that each form reads.
    """
    if roles.times is None or not roles.forms:
        return
    best, other = sorted(roles.forms, key=lambda form: -fitting[form])
    name = roles.names["timestamp"]
    roles.times = replace(roles.times, form=best, other=other)
    if fitting[best] == fitting[other]:
        note = (
            f"The dates in `{name}` can be read by {best} and by {other}. Set `data.timestamp_format` to the right one."
        )
    else:
        note = (
            f"The dates in the first rows of `{name}` can be read by {best} and by {other}; later rows only by {best}."
        )
    roles.notes.append(note)


def _explain_ids(sample: Sample, roles: Roles) -> None:
    """Notes about columns whose names say that they hold ids and whose values are none."""
    frame = sample.table.frame
    lists = [name for name in sample.table.columns if not holds_objects(frame[name]) and lists_as_text(frame[name])]
    inner = [name for name in lists if may_be_guessed(name)]
    for own in ("user_id", "item_id"):
        if own in roles.names:
            continue
        for name in _named(sample, roles, own):
            if name in lists:
                inner = [one for one in inner if one != name]
                change = f't[{quote(name)}] = t[{quote(name)}].str.findall(r"[^][(){{}},;| \\x27\\x22]+"); '
                change += f"t = t.explode({quote(name)})"
                roles.notes.append(
                    f"`{name}` holds lists of ids, such as {_example(frame[name])}. Write one row for each id, then "
                    f"check the new file: {sample.command(change, 'rows')}."
                )
        if own == "user_id" and "session_id" in roles.names:
            roles.notes.append(
                f"If each session may count as a user, set `data.columns.user_id: {roles.names['session_id']}`."
            )
    if not {"user_id", "item_id"} <= set(roles.names):
        note = objects_note(sample)
        inner = [name for name in sample.table.columns if name in inner or holds_objects(frame[name])]
        if inner and not note:
            note = (
                f"The columns {', '.join(inner)} hold objects or lists. Write the ids in them as columns of their own."
            )
        roles.notes += [note] * bool(note)


def _explain_numbers(sample: Sample, roles: Roles) -> None:
    """Notes about ratings that are text, and about columns that are read under their own name and cannot be used."""
    frame = sample.table.frame
    for name in _named(sample, roles, "rating"):
        if "rating" not in roles.names and rated_texts(frame[name]):
            pattern = r'r"(\d+(?:[.,]\d+)?)"'
            change = f't[{quote(name)}] = t[{quote(name)}].str.extract({pattern}, expand=False).str.replace(",", ".")'
            roles.notes.append(
                f"`{name}` holds text such as {_example(frame[name])}, so it is no rating. To use its numbers, extract "
                f"them, then check the new file: {sample.command(change, 'numbers')}."
            )
    for own, expected in _EXPECTED.items():
        if own in frame.columns and own not in roles.names:
            roles.unread.append(own)
            roles.notes.append(
                f"A column of the name `{own}` is read unless the config says otherwise, and must hold {expected}. It "
                f"holds {_range(frame[own])}, so the config has `data.columns.{own}: null`."
            )


def _example(values: pd.Series) -> str:
    known = [str(value) for value in values.dropna().iloc[:1]]
    return repr(known[0][:40]) if known else "an empty one"


def _range(values: pd.Series) -> str:
    """What a column holds: its smallest and largest number, or an example."""
    numbers = as_numbers(values)
    if numbers.notna().sum() < values.notna().sum() or values.isna().all():
        return f"values such as {_example(values)}"
    return f"numbers from {numbers.min():g} to {numbers.max():g}"

"""What the columns of an unknown log are: by their names, and by their values where no name says it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd

from llmrec.data.check.files import Sample
from llmrec.data.check.names import NAMES, may_be_guessed, rank, words_of
from llmrec.data.check.values import (
    SURE,
    Times,
    are_ids,
    are_kinds,
    are_ratings,
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

_FEWEST_GUESSED_IDS = 10  # a column with fewer different values may be a weekday or a channel
# Columns that are read under these names whatever the config says, and what they must hold.
_ALWAYS_READ = {
    "rating": "a number",
    "position": "a rank, 0 or more",
    "propensity": "a probability above 0 and at most 1",
}
# What a column must hold to be what its name says. The times are looked for by `find_times`.
_FITS: dict[str, Callable[[pd.Series], bool]] = {
    "user_id": are_ids,
    "item_id": are_ids,
    "propensity": lambda values: inside(values, 0, 1),
    "position": lambda values: inside(values, -1, 1e9),
    "event_type": are_kinds,
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
        refused: whether a column is read whose values cannot be used.
    """

    names: dict[str, str] = field(default_factory=dict)
    guessed: set[str] = field(default_factory=set)
    times: Times | None = None
    notes: list[str] = field(default_factory=list)
    refused: bool = False

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
    fitting = (name for name in _named(sample, roles, own) if frame[name].notna().any() and _FITS[own](frame[name]))
    name = next(fitting, None)
    if name is not None:
        roles.names[own] = name


# --- by values ----------------------------------------------------------------------------------------


def _free(sample: Sample, roles: Roles) -> list[str]:
    """The columns whose names do not say what they are."""
    return [name for name in sample.table.columns if roles.is_free(name) and may_be_guessed(name)]


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
        if are_ids(frame[name])
        and repeat(frame[name])
        and known_ids(frame[name]).nunique() >= _FEWEST_GUESSED_IDS
        and not look_like_ratings(frame[name])
    ]
    columns = [name for name in columns if re.search("(?i)id$", name)] or columns
    if not missing or not columns:
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
        if roles.times.other is not None:
            roles.notes.append(
                f"The dates in `{name}` can be read by {roles.times.form} and by {roles.times.other}. Set "
                "`data.timestamp_format` to the right one."
            )
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


def _explain_ids(sample: Sample, roles: Roles) -> None:
    """Notes about columns whose names say that they hold ids and whose values are none."""
    frame = sample.table.frame
    lists = [name for name in sample.table.columns if not nested(frame[name]) and lists_as_text(frame[name])]
    inner = [name for name in sample.table.columns if nested(frame[name]) or (name in lists and may_be_guessed(name))]
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
    if inner and not {"user_id", "item_id"} <= set(roles.names):
        names = ", ".join(inner)
        roles.notes.append(f"The columns {names} hold objects or lists. Write the ids in them as columns of their own.")


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
    for own, expected in _ALWAYS_READ.items():
        if own in frame.columns and own not in roles.names:
            roles.refused = True
            roles.notes.append(
                f"A column of the name `{own}` is always read and must hold {expected}; most of its values are others, "
                f"such as {_example(frame[own])}. Convert it, or rename it in the log."
            )


def _example(values: pd.Series) -> str:
    known = [str(value) for value in values.dropna().iloc[:1]]
    return repr(known[0][:40]) if known else "an empty one"

"""Ids that are `123` in one file and `123.0` in the other, because pandas writes a column of integers with gaps so.

Both files must agree on the form as a whole: the `.0` is cut from a column if all its ids have one, if no id of the
other file has one, and if ids match then. So two different ids never become one. The source of the file counts the
rows.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pandas as pd

from llmrec.data.readers.raw import NO_IDS, Source, Table, TableStream

_ENDINGS = (".0", ",0")  # with a decimal point, and with a decimal comma


def agree_on_ids(stream: TableStream, column: str, table: Table, table_column: str) -> tuple[TableStream, Table]:
    """A log and a table whose ids have one form, as far as that makes them match.

    Args:
        stream: the log. If its first id ends in `.0`, it is read ahead once.
        column: the column of the log that holds the ids.
        table: the table of items or users.
        table_column: its column of ids.
    """
    known = _ids(table, table_column)
    if not _have_ending(known):
        return _cut_in_stream(stream, column, known), table
    whole = whole_ids(known)
    if whole is known:
        return stream, table
    matches = False
    for part in stream.scan():
        ids = _ids(part, column)
        if _have_ending(ids):
            return stream, table
        matches = matches or bool(ids.isin(whole).any())
    return stream, _cut_in_table(table, table_column) if matches else table


def two_forms(ids: Iterable[str]) -> list[str]:
    """The ids that end in `.0` or `,0` although the same id without it is among them as well, in order."""
    known = set(ids)
    return sorted(one for one in known if one.endswith(_ENDINGS) and one[:-2] in known)


def agree_with_table(table: Table, column: str, item_ids: pd.Series) -> Table:
    """The same table with the form of ids that the item table has, as far as that makes them match.

    Args:
        table: the table of facts.
        column: its column of item ids.
        item_ids: the ids of the item table.
    """
    ids = _ids(table, column)
    whole = whole_ids(ids)
    agrees = whole is not ids and not _have_ending(item_ids) and whole.isin(item_ids).any()
    return _cut_in_table(table, column) if agrees else table


def whole_ids(ids: pd.Series) -> pd.Series:
    """Ids without the `.0` or `,0` that all of them have; the same ids if one of them lacks it."""
    return ids.str[:-2] if any(_all_end(ids, ending) for ending in _ENDINGS) else ids


def _cut_in_stream(stream: TableStream, column: str, known: pd.Series) -> TableStream:
    """The log without the `.0` of its ids, if all have one and some of `known` match then."""
    decided: list[bool] = []  # empty until the first id is read

    def read(source: Source) -> Iterator[pd.DataFrame]:
        for frame in stream.read(source):
            first = frame[column].first_valid_index()
            if not decided and first is not None:
                one = _ids(Table(frame.loc[[first]], source, stream.fractions), column)
                ending = next((ending for ending in _ENDINGS if _all_end(one, ending)), None)
                decided.append(ending is not None and _is_cut_of(stream, column, known, ending))
            yield _cut_in_table(Table(frame, source, stream.fractions), column).frame if any(decided) else frame

    return replace(stream, read=read)


def _is_cut_of(stream: TableStream, column: str, known: pd.Series, ending: str) -> bool:
    """Whether all ids of a log have an ending, and some are ids of `known` without it."""
    matches = False
    for part in stream.scan():
        ids = _ids(part, column)
        if len(ids) and not _all_end(ids, ending):
            return False
        matches = matches or bool(ids.str[:-2].isin(known).any())
    return matches


def _cut_in_table(table: Table, column: str) -> Table:
    """The table without the `.0` of its ids. Its source counts the rows."""
    ids = _ids(table, column)
    table.source.cut_ids[column] = table.source.cut_ids.get(column, 0) + len(ids)
    values = table.frame[column].astype(object)
    values.loc[ids.index] = ids.str[:-2]
    return replace(table, frame=table.frame.assign(**{column: values}))


def _ids(table: Table, column: str) -> pd.Series:
    """The ids of a column as text, without missing ones."""
    text = table.text(column)
    return text[text.notna() & ~text.isin(NO_IDS)]


def _have_ending(ids: pd.Series) -> bool:
    return bool(ids.str.fullmatch(r"-?\d+[.,]0").any())


def _all_end(ids: pd.Series, ending: str) -> bool:
    """Whether all ids are whole numbers with an ending; False without ids."""
    return bool(len(ids)) and bool(ids.str.fullmatch(rf"-?\d+{re.escape(ending)}").all())

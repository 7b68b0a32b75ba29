"""Files without a header, whose first row would be taken for the names of the columns and lost."""

import re
from pathlib import Path

import pandas as pd

from llmrec.errors import DataError

LOOKED_AT = 10_000  # rows whose values are compared with the header
# A number or a date, such as 4.5, -1e9, 2020-01-31 12:00:00+00:00 or 31/01/2020.
_QUANTITY = re.compile(r"[+-]?\d[\d\s.,:/+-]*(?:[eE][+-]?\d+|[TZ][\d:.,Z+-]*)?")
_DIGITS = re.compile(r"\d+")


def refuse_row_as_header(path: Path, names: list[str], rows: pd.DataFrame) -> None:
    """Checks that the first line of a file names the columns.

    It is a row if every name looks like a value: a number, a date, a value of the column, or an id of the form of the
    column's values, such as `u1` above `u27`. One of them must be a number or a date. The names 0, 1, 2 and so on are
    those that pandas gives.

    Args:
        path: the file.
        names: the fields of its first line.
        rows: the rows below.

    Raises:
        DataError: it is a row.
    """
    names = [name.strip() for name in names]
    quantities = [bool(_QUANTITY.fullmatch(name)) for name in names]
    if len(names) < 2 or not any(quantities) or names == [str(number) for number in range(len(names))]:
        return
    for place, name in enumerate(names):
        if name and not quantities[place] and not _is_like(name, rows.iloc[:LOOKED_AT, place]):
            return
    raise DataError(
        f"{path}, line 1: the first line is {', '.join(names)}, which looks like a row; expected the names of the "
        "columns, such as user_id, item_id and timestamp. Write a line with the names above it."
    )


def _is_like(name: str, values: pd.Series) -> bool:
    """Whether a name is one of the values, or differs from one of them in the digits alone."""
    texts = values.dropna().astype("str").str.strip()
    if texts.eq(name).any():
        return True
    form, changed = _DIGITS.subn("0", name)
    return changed > 0 and bool(texts.str.replace(_DIGITS, "0", regex=True).eq(form).any())

"""Numbers with a decimal comma, or with a separator of thousands, as programs outside of English write them.

The decimal sign belongs to a column, never to a value: `1,234` is 1.234 in a column that also holds `4,5`, and 1234 in
one that also holds `4.5`. A column that shows neither, or both, is an error that names `data.decimal`. Columns without
a comma are left as they are.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import pyarrow as pa

from llmrec.data.readers.raw import Source, Table, TableStream
from llmrec.errors import DataError

Sign = Literal[",", "."]

_EXPONENT = r"(?:[eE][+-]?\d+)?"
# Numbers that have a decimal sign if they are written with this one: `4,5` and `1.234,50`; `4.5` and `1,234.50`.
_DECIMAL: dict[Sign, str] = {
    ",": rf"[+-]?(?:\d*|[1-9]\d{{0,2}}(?:\.\d{{3}})+),\d+{_EXPONENT}",
    ".": rf"[+-]?(?:\d*|[1-9]\d{{0,2}}(?:,\d{{3}})+)\.\d+{_EXPONENT}",
}
# Whole numbers with a separator of thousands if the decimal sign is this one: `1.234`; `1,234`.
_GROUPED: dict[Sign, str] = {
    ",": r"[+-]?[1-9]\d{0,2}(?:\.\d{3})+",
    ".": r"[+-]?[1-9]\d{0,2}(?:,\d{3})+",
}
_NAMES: dict[Sign, str] = {",": "comma", ".": "point"}
UNCLEAR = "number whose comma may separate decimals or thousands, kept as text"


def read_decimals(stream: TableStream, columns: Iterable[str], decimal: Sign | None) -> TableStream:
    """The same file with the numbers of some columns written with a decimal point.

    The first number with a comma makes the whole file be read ahead once, which finds the decimal sign of its column.

    Args:
        stream: the file.
        columns: the columns that hold numbers; those that the file lacks are passed over.
        decimal: `data.decimal`, the decimal sign of all columns; None if each column shows its own.

    Raises:
        DataError: while it is read: a column may be read both ways or mixes both; or, unless bad rows are skipped, a
            number is written with the other sign than `decimal`.
    """
    found = [name for name in dict.fromkeys(columns) if name in stream.columns]
    signs: dict[str, Sign] = dict.fromkeys(found, decimal) if decimal else {}

    def read(source: Source) -> Iterator[pd.DataFrame]:
        for frame in stream.read(source):
            changed = {}
            for name in found:
                values = frame[name]
                if name not in signs:
                    if not _have_comma(values):
                        continue
                    forms = _Forms.of_file(stream, name)
                    signs[name] = forms.sign(stream.source, name)
                    if signs[name] == "," and forms.grouped and forms.grouped[0] < frame.index[0]:
                        raise forms.read_otherwise(stream.source, name)
                plain, wrong = _with_point(values, signs[name])
                expected = f"a number with a decimal {_NAMES[signs[name]]}"
                source.refuse(values, wrong, expected, "Correct it, or change `data.decimal`.")
                changed[name] = plain
            yield frame.assign(**changed) if changed else frame

    return TableStream(stream.columns, stream.source, read, stream.fractions)


def plain_numbers(table: Table, others: Iterable[str], decimal: Sign | None) -> Table:
    """The same table with its columns of numbers written with a decimal point.

    A column is one of numbers if all its values are. One whose decimal sign is open stays text and is counted.

    Args:
        table: the table.
        others: columns to leave as they are, such as ids and titles.
        decimal: as for `read_decimals`.
    """
    changed = {}
    for name in table.frame.columns.difference(list(others)):
        values = table.frame[name]
        if not _have_comma(values):
            continue
        forms = _Forms().add(values)
        sign = decimal or forms.only_sign
        if sign is None and forms.point is None and forms.comma is None:
            table.source.note(_texts(values), UNCLEAR)
        if sign is None:
            continue
        plain, _ = _with_point(values, sign)
        if pd.to_numeric(_texts(plain), errors="coerce").notna().all():
            changed[name] = plain
    return Table(table.frame.assign(**changed), table.source, table.fractions) if changed else table


@dataclass
class _Forms:
    """The first line and value of each form of number in a column.

    Attributes:
        comma: a number with a decimal comma, such as `4,5`.
        point: a number with a decimal point, such as `4.5`, or with commas between thousands, such as `1,234,567`.
        either: a number whose comma may be both, such as `1,234`. One such as `1.234` says nothing.
        grouped: a number such as `1.234`, which is 1234 in a column with decimal commas.
    """

    comma: tuple[Any, str] | None = None
    point: tuple[Any, str] | None = None
    either: tuple[Any, str] | None = None
    grouped: tuple[Any, str] | None = None

    @classmethod
    def of_file(cls, stream: TableStream, column: str) -> "_Forms":
        """The forms in one column of a whole file."""
        forms = cls()
        for part in stream.scan():
            forms.add(part.frame[column])
        return forms

    def add(self, values: pd.Series) -> "_Forms":
        """Notes the forms of some values, indexed by line."""
        texts = _texts(values)
        comma = texts.str.fullmatch(_DECIMAL[","])
        thousands = texts.str.fullmatch(_GROUPED["."])
        grouped = texts.str.fullmatch(_GROUPED[","])
        point = texts.str.fullmatch(_DECIMAL["."]) & ~grouped
        self.comma = self.comma or _first(texts, comma & ~thousands)
        self.point = self.point or _first(texts, point | (thousands & ~comma))
        self.either = self.either or _first(texts, comma & thousands)
        self.grouped = self.grouped or _first(texts, grouped)
        return self

    @property
    def only_sign(self) -> Sign | None:
        """The decimal sign, if the column shows exactly one."""
        if (self.comma is None) == (self.point is None):
            return None
        return "." if self.comma is None else ","

    def sign(self, source: Source, column: str) -> Sign:
        """The decimal sign of the column.

        Raises:
            DataError: the column shows both signs or none.
        """
        if self.only_sign is not None:
            return self.only_sign
        fix = "Set `data.decimal: ','` for a decimal comma, or `data.decimal: '.'` for a decimal point."
        if self.comma is not None and self.point is not None:
            (line, value), (other_line, other) = self.comma, self.point
            raise DataError(
                f"{source.at(line)}: `{column}` is {value!r}, but {other!r} on {source.unit} {other_line}; expected "
                f"one decimal sign in a column. {fix}"
            )
        line, value = self.either or (1, "")
        raise DataError(
            f"{source.at(line)}: `{column}` is {value!r}, which may be {value.replace(',', '.')} or "
            f"{value.replace(',', '')}; expected a column that shows which. {fix}"
        )

    def read_otherwise(self, source: Source, column: str) -> DataError:
        """The error for a number that was passed on with a decimal point before the first comma of a long file."""
        (line, value), (other_line, other) = self.grouped or (1, ""), self.comma or (1, "")
        return DataError(
            f"{source.at(line)}: `{column}` is {value!r}, which is {value.replace('.', '')} beside {other!r} on "
            f"{source.unit} {other_line}, far below; expected a number that can be read on its own. Set "
            "`data.decimal: ','`."
        )


def _first(texts: pd.Series, which: pd.Series) -> tuple[Any, str] | None:
    chosen = texts[which]
    return (chosen.index[0], chosen.iloc[0]) if len(chosen) else None


def _texts(values: pd.Series) -> pd.Series:
    """The values that are text, stripped, without missing ones."""
    if values.dtype == object:
        values = values[[isinstance(value, str) for value in values]].astype("str")
    if not isinstance(values.dtype, pd.StringDtype):
        return pd.Series(dtype="str")
    return values.dropna().str.strip()


def _have_comma(values: pd.Series) -> bool:
    """Whether a value is a number with a comma."""
    texts = _texts(values) if values.dtype == object else values
    if not isinstance(texts.dtype, pd.StringDtype) or not _bytes_have_comma(texts):
        return False
    texts = texts[texts.str.contains(",", regex=False, na=False)].str.strip()
    forms = (_DECIMAL[","], _DECIMAL["."], _GROUPED["."])
    return bool(len(texts)) and any(texts.str.fullmatch(form).any() for form in forms)


def _bytes_have_comma(texts: pd.Series) -> bool:
    """Whether the memory that holds some texts has a comma: much faster than a look at each text."""
    array = pa.array(texts)
    chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    return any(b"," in data.to_pybytes() for chunk in chunks if (data := chunk.buffers()[2]) is not None)


def _with_point(values: pd.Series, sign: Sign) -> tuple[pd.Series, pd.Series]:
    """Numbers without separators of thousands and with a decimal point, and which are written with the other sign."""
    other: Sign = "." if sign == "," else ","
    texts = _texts(values)
    grouped = texts.str.fullmatch(_GROUPED[sign])
    numbers = texts[grouped | texts.str.fullmatch(_DECIMAL[sign])]
    wrong = texts.str.fullmatch(_DECIMAL[other]) & ~grouped
    plain = values.copy()
    plain.loc[numbers.index] = numbers.str.replace(other, "", regex=False).str.replace(sign, ".", regex=False)
    return plain, wrong.reindex(values.index, fill_value=False).astype(bool)

"""Values and names of columns that programs before have spoiled, so that a config alone cannot mend them."""

import re
from collections.abc import Iterable

import pandas as pd

from llmrec.data.check.files import Sample
from llmrec.data.check.withdrawn import is_quantity, may_withdraw
from llmrec.data.losses import share_text
from llmrec.data.readers.other_files import quote

# Negative numbers that no reader takes for numbers: `(1)`, `1-`, and `−1` with a sign that is no hyphen.
_NEGATIVE = r"\(\s*([\d.,]*[1-9][\d.,]*)\s*\)|([\d.,]*[1-9][\d.,]*)\s?-|[−–]\s?([\d.,]*[1-9][\d.,]*)"
_SHORTENED = r"[+-]?\d(?:[.,]\d+)?[eE]\+\d+"  # `4.00123E+12`
_OPERATORS = "[<>=!]"


def is_shortened(ids: pd.Series) -> pd.Series:
    """Which ids are numbers that a spreadsheet has shortened, bool."""
    return ids.astype(str).str.fullmatch(_SHORTENED)


def find_spoiled(sample: Sample, names: dict[str, str]) -> list[str]:
    """Notes about spoiled columns of a log, with the commands that mend them where one can.

    Args:
        sample: the first lines of the log.
        names: the column's name in the log, by llmrec's name.
    """
    table = sample.table
    notes = []
    for own in ("user_id", "item_id"):
        ids = table.frame[names[own]]
        shortened = is_shortened(ids)
        if shortened.any():
            notes.append(
                f"`{names[own]}` has numbers that a spreadsheet has shortened, such as `{ids[shortened].iloc[0]}`, in "
                f"{share_text(shortened.mean())} of the rows: different ids have become equal. Export the log again, "
                "with this column as text."
            )
    for name in filter(is_quantity, may_withdraw(table.columns, names.values())):
        values = table.frame[name].astype(str).str.strip()
        negative = values.str.fullmatch(_NEGATIVE)
        if negative.any():
            column = quote(name)
            change = f"t[{column}] = t[{column}].str.strip().str.replace({quote(f'^(?:{_NEGATIVE})$')}, "
            change += 'r"-\\1\\2\\3", regex=True)'
            notes.append(
                f"`{name}` has `{values[negative].iloc[0]}` and the like in {share_text(negative.mean())} of the rows, "
                "which is no number, so what came back counts as sold. Write it as a negative number, then check the "
                f"new file: {sample.command(change, 'numbers')}."
            )
    return notes + _unnameable(sample, names.values())


def _unnameable(sample: Sample, taken: Iterable[str]) -> list[str]:
    """The note about columns that may withdraw rows, but whose names no rule can hold; empty without any."""
    others = [name for name in sample.table.columns if name not in set(taken) and re.search(_OPERATORS, name)]
    found = {name: plain for name in others if may_withdraw([plain := _letters(name)], ())}
    if not found:
        return []
    change = f"t = t.rename(columns={{{', '.join(f'{quote(name)}: {quote(plain)}' for name, plain in found.items())}}})"
    return [
        f"{', '.join(f'`{name}`' for name in found)} may say what was cancelled or came back, but the name has an "
        f"operator, so no rule can name it. Rename it, then check the new file: {sample.command(change, 'renamed')}."
    ]


def _letters(name: str) -> str:
    """The words of a name without digits and signs."""
    return "_".join(re.findall(r"[^\W\d_]+", name))

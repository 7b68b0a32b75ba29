"""What `prepare` does with each column of a log, in words."""

from collections.abc import Set
from dataclasses import dataclass

import pandas as pd

from llmrec.data.check.values import known_ids
from llmrec.data.readers.columns import OWN_COLUMNS, to_categories, to_years
from llmrec.data.readers.decimals import UNCLEAR
from llmrec.data.readers.raw import Source, Table
from llmrec.data.readers.times import to_seconds
from llmrec.data.readers.values import as_numbers

_IDS = ("user_id", "item_id")  # columns whose `NULL` stands for a missing value
GUESSED = " (guessed from its values)"


@dataclass(frozen=True)
class ColumnCheck:
    """One column of a log.

    Attributes:
        name: its name in the file.
        use: what `prepare` does with it.
        missing: share of the rows without a value.
        examples: its first different values.
    """

    name: str
    use: str
    missing: float
    examples: list[str]


def describe_columns(
    table: Table,
    names: dict[str, str],
    date_format: str | None,
    kinds: dict[str, int],
    guessed: Set[str] = frozenset(),
) -> list[ColumnCheck]:
    """What each column is used for.

    Args:
        table: the log.
        names: the column's name in the log, by llmrec's name.
        date_format: `data.timestamp_format`.
        kinds: number of events by kind, the most common one first.
        guessed: those of llmrec's names whose column was found by its values.
    """
    own_of = {name: own for own, name in names.items()}
    checks = []
    for name in table.columns:
        values = table.frame[name]
        own = own_of.get(name)
        use = (_kinds(kinds) if own == "event_type" else _use(table, own, name, date_format)) + (
            GUESSED if own in guessed else ""
        )
        examples = [str(value)[:30] for value in values.dropna().astype("str").unique()[:3]]
        known = known_ids(values) if own in _IDS else values.dropna()
        checks.append(ColumnCheck(name, use, 1 - len(known) / max(len(values), 1), examples))
    return checks


def describe_table(table: Table, own: dict[str, str]) -> list[ColumnCheck]:
    """What each column of an item or user table is used for.

    Args:
        table: the table.
        own: what some columns are, by their names; `item_id` or `user_id` is among them.
    """
    is_items = "user_id" not in own.values()
    checks = []
    for name in table.columns:
        values = table.frame[name]
        text = values.dropna().astype("str")
        use = own.get(name) or _use_in_table(name, values, is_items)
        if use in ("item_id", "user_id", "title"):
            use = f"{use}: {text.nunique():,} different"
        missing = 1 - len(text) / max(len(values), 1)
        checks.append(ColumnCheck(name, use, missing, [one[:30] for one in text.unique()[:3]]))
    return checks


def _use_in_table(name: str, values: pd.Series, is_items: bool) -> str:
    """What a column of an item or user table is used for, if it holds no ids."""
    if not is_items:
        return "attribute, if `catalogue.user_attributes` names it"
    if name == "title":
        return "title"
    if name == "categories":
        kinds = {one for names in to_categories(values, "|") for one in names}
        return f"categories: facts, {len(kinds):,} different"
    if name == "year":
        years = to_years(values).dropna()
        return f"year: facts, {years.min()} to {years.max()}" if len(years) else "year, but no value is a year"
    if name in ("brand", "store"):
        return f"{name}: facts, {values.nunique():,} different"
    return "none, but `reward.terms` can name it" if as_numbers(values).notna().any() else "none"


def _kinds(counts: dict[str, int]) -> str:
    """The most common kinds of events, in words."""
    rows = sum(counts.values())
    return f"event_type: {', '.join(f'{kind} {count / rows:.0%}' for kind, count in list(counts.items())[:5])}"


def _use(table: Table, own: str | None, name: str, date_format: str | None) -> str:
    """What one column is used for, in words."""
    values = table.frame[name]
    if own == "timestamp":
        source = Source("", skip=True)
        seconds = to_seconds(Table(table.frame, source), name, date_format)
        seconds = seconds[~seconds.index.isin(source.dropped)]
        if seconds.empty:
            return "timestamp, but no value is a time"
        first, last = (pd.Timestamp(int(one), unit="s") for one in (seconds.min(), seconds.max()))
        form = f" by the format {date_format}" if date_format else ""
        return f"timestamp{form}: {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}"
    if own in ("rating", "position", "propensity"):
        numbers = as_numbers(values)
        return f"{own}: {numbers.min():g} to {numbers.max():g}"
    if own is not None:
        return f"{own}: {known_ids(values).nunique():,} different"
    share = 0.0 if name in OWN_COLUMNS else as_numbers(values).notna().sum() / max(1, len(known_ids(values)))
    what = "it" if share >= 1 else f"{share:.0%} of its values"
    return f"none, but rules can compare {what}" if share else "none"


def unclear_numbers(table: Table) -> list[str]:
    """What to do about numbers that may be read in two ways."""
    loss = table.source.losses.get(UNCLEAR)
    if loss is None:
        return []
    return [
        f"{loss.count:,} numbers have a comma that may separate decimals or thousands, such as "
        f"{loss.examples[0].rpartition('/')[2]}. Set `data.decimal` if rules compare them."
    ]

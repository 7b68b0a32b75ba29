"""`llmrec prepare --check`: what the first lines of an unknown log are, and a config that reads it."""

import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from llmrec.config import DataConfig, run_name
from llmrec.data.check_tables import find_tables
from llmrec.data.feedback import match_rules
from llmrec.data.readers import check_log, read_log
from llmrec.data.readers.columns import as_numbers, date_formats, to_seconds
from llmrec.data.readers.csv_and_json import TABLE_SUFFIXES, copy_first_rows, read_any_table
from llmrec.data.readers.decimals import UNCLEAR, plain_numbers
from llmrec.data.readers.delimited import find_separator
from llmrec.data.readers.paths import resolve_path
from llmrec.data.readers.raw import Source, Table
from llmrec.data.readers.text_files import TextFormat, encoding_of_file, open_text
from llmrec.errors import DataError

LINES = 10_000  # lines, or rows of a Parquet file, that are read
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
# Words in the names of columns, by what the column is. The first ones are the surest.
_WORDS = {
    own: words.split()
    for own, words in {
        "user_id": "user customer visitor member account client household reviewer person buyer subscriber uid",
        "item_id": "item product sku asin movie article isbn book track song content news offer listing game",
        "timestamp": "timestamp time date created day ts",
        "event_type": "event action behavior behaviour interaction activity type",
        "rating": "rating stars score grade overall",
        "session_id": "session basket visit invoice",
    }.items()
}
_PURCHASES = ("buy", "purchase", "order", "transaction", "checkout", "paid", "sale")
_NO_CLICKS = ("remove", "dislike", "return", "impression", "skip", "delete", "refund", "unlike")
_SEPARATORS = ("::", " ", "^", "~", "#")  # those that are not found without `data.separator`


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


@dataclass(frozen=True)
class LogCheck:
    """What the first lines of a log are.

    Attributes:
        rows: rows that were read.
        columns: the columns of the log; empty for a format with columns of its own.
        outcome: what `prepare` would make of these rows.
        notes: what to do, or what is only a guess.
        config: a config that reads the log; None if there is one already, or if a column is missing.
    """

    rows: int
    columns: list[ColumnCheck]
    outcome: str
    notes: list[str] = field(default_factory=list)
    config: dict[str, Any] | None = None


def check_config(config: DataConfig) -> LogCheck:
    """Reads the first lines of the log of a config.

    Raises:
        UserError: as in the prepare stage.
    """
    if config.format != "table":
        rows, outcome, notes = _outcome(config)
        return LogCheck(rows, [], outcome, notes)
    with _first_lines(resolve_path(config.path, "data.path"), config.encoding) as (sample, encoding):
        text = TextFormat(encoding, config.separator, skip=True)
        table = plain_numbers(read_any_table(sample, text), (), config.decimal)
        roles = {own: name for own, name in config.columns.model_dump().items() if name is not None}
        rows, outcome, notes = _outcome(config.model_copy(update={"path": str(sample)}))
        notes += _unclear_numbers(table)
        return LogCheck(rows, _columns(table, roles, config.timestamp_format), outcome, notes)


def check_file(path: Path) -> LogCheck:
    """Reads the first lines of a log and suggests a config for it.

    Raises:
        DataError: the file cannot be read, is no table, or has no rows.
    """
    if not path.is_file() or Path(path.name.removesuffix(".gz")).suffix not in TABLE_SUFFIXES:
        raise DataError(
            f"{path}: expected an event log, a file that ends in {', '.join(TABLE_SUFFIXES)} (or .gz of a text file), "
            "or a YAML config. Directories of known data sets need a config with `data.format`."
        )
    with _first_lines(path, None) as (sample, encoding):
        text = TextFormat(encoding, _separator(sample, encoding), skip=True)
        table = plain_numbers(read_any_table(sample, text), (), None)
        roles, date_format = _roles(table)
        if table.frame.empty:
            raise _no_rows(table)
        columns = _columns(table, roles, date_format)
        missing = [own for own in ("user_id", "item_id") if own not in roles]
        if missing:
            notes = [f"No column looks like the {own}. Name it in `data.columns.{own}` of a config." for own in missing]
            nested = [name for name in table.columns if _is_nested(table.frame[name])]
            if nested:
                names = ", ".join(nested)
                notes.append(
                    f"The columns {names} hold objects or lists. Write the ids in them as columns of their own."
                )
            return LogCheck(len(table.frame), columns, "the log cannot be read without these columns", notes)
        data: dict[str, Any] = {"format": "table", "path": str(path)}
        notes = [*find_tables(path, text, table, roles, data), *_unclear_numbers(table)]
        columns_of: dict[str, str | None] = {o: name for o, name in roles.items() if name != o or o not in _AS_NAMED}
        data["columns"] = columns_of
        if "timestamp" not in roles:
            columns_of["timestamp"] = None
            data["splits"] = ["leave_one_out"]
            notes.append("No column looks like a time, so the lines count as being in the order of time.")
        values = {"separator": text.separator, "encoding": encoding, "timestamp_format": date_format}
        data |= {key: value for key, value in values.items() if value is not None} | _rules(table, roles)
        data["min_user_events"] = 3
        _, outcome, found = _outcome(DataConfig.model_validate(data | {"path": str(sample)}))
        if found:
            data["bad_rows"] = "skip"
        config = {"name": run_name(path.name.split(".")[0], "log"), "data": data, "model": {"base": BASE, "layers": 12}}
        return LogCheck(len(table.frame), columns, outcome, [*notes, *found], config)


def _no_rows(table: Table) -> DataError:
    """The error for a file without a row that can be read."""
    source = table.source
    unread = "".join(f" ({loss.count:,} {reason}: {loss.examples[0]})" for reason, loss in source.losses.items())
    return DataError(f"{source.path}: there are no rows{unread}; expected one per event. Check the file.")


_AS_NAMED = ("user_id", "item_id", "timestamp", "event_type", "rating", "session_id")  # read under their own names


@contextmanager
def _first_lines(path: Path, encoding: str | None) -> Iterator[tuple[Path, str | None]]:
    """A copy of the first lines, and the encoding that the config must name, if there is one."""
    named = encoding
    with tempfile.TemporaryDirectory(prefix="llmrec-check-") as folder:
        sample = Path(folder) / path.name.removesuffix(".gz")
        try:
            if path.suffix == ".parquet":
                copy_first_rows(path, sample, LINES)
            else:
                if encoding is None:
                    encoding = encoding_of_file(path)
                    if encoding == "utf-8" and not _decodes(path):
                        encoding = named = "cp1252"
                with open_text(path, encoding) as lines:
                    sample.write_text("".join(islice(lines, LINES + 1)), encoding=encoding, newline="")
            yield sample, named
        except DataError as error:
            raise DataError(str(error).replace(folder, str(path.parent))) from None


def _decodes(path: Path) -> bool:
    """Whether the first lines are UTF-8."""
    try:
        with open_text(path, "utf-8") as lines:
            return all(True for _ in islice(lines, LINES + 1))
    except DataError:
        return False


def _separator(sample: Path, encoding: str | None) -> str | None:
    """The separator that the config must name; None if it is found without, or if there is none."""
    if sample.suffix not in (".csv", ".tsv"):
        return None
    with open_text(sample, encoding_of_file(sample, TextFormat(encoding))) as lines:
        first = [line.rstrip("\r\n") for line in islice(lines, 20)]
    if not first or find_separator(first[0], ",;\t|") in first[0]:
        return None
    counts = {one: {line.count(one) for line in first if line} for one in _SEPARATORS}
    return next((one for one, found in counts.items() if len(found) == 1 and 0 not in found), None)


# --- columns ------------------------------------------------------------------------------------------


def _roles(table: Table) -> tuple[dict[str, str], str | None]:
    """The column of the log for each of llmrec's names, as far as one fits, and the format of the times."""
    roles: dict[str, str] = {}
    date_format = None
    for own, words in _WORDS.items():
        for name in sorted(table.columns, key=lambda name: _rank(name, own, words)):
            if name in roles.values() or _rank(name, own, words) == len(words) + 1:
                continue
            fits, form = _fits(table, own, name)
            if fits:
                roles[own] = name
                date_format = form or date_format
                break
    return roles, date_format


def _rank(name: str, own: str, words: list[str]) -> int:
    """How sure a name is: 0 for llmrec's own name, then the place of the word in it; after all words if it has none."""
    letters = re.sub(r"[^a-z]", "", name.lower())
    if letters == own.replace("_", ""):
        return 0
    return next((1 + number for number, word in enumerate(words) if word in letters), len(words) + 1)


def _fits(table: Table, own: str, name: str) -> tuple[bool, str | None]:
    """Whether the values of a column can be what llmrec calls `own`, and the format of its times."""
    values = table.frame[name]
    known = values.dropna()
    if known.empty:
        return False, None
    if own == "timestamp":
        for form in (None, *date_formats(known, share=0.9)):
            source = Source("", skip=True)
            to_seconds(Table(table.frame, source), name, form)
            if len(source.dropped) < len(values) / 2:
                return True, form
        return False, None
    numbers = as_numbers(known)
    if own == "rating":
        return bool(numbers.notna().mean() > 0.5 and numbers.nunique() <= 200), None
    if own == "event_type":
        return bool(numbers.isna().all() and known.astype("str").nunique() <= 50), None
    return bool((numbers.dropna() % 1 == 0).all()) and not _is_nested(known), None


def _is_nested(values: pd.Series) -> bool:
    """Whether a column holds objects or lists."""
    return any(isinstance(value, (dict, list)) for value in values)


def _columns(table: Table, roles: dict[str, str], date_format: str | None) -> list[ColumnCheck]:
    """What each column is used for."""
    own_of = {name: own for own, name in roles.items()}
    checks = []
    for name in table.columns:
        values = table.frame[name]
        use = _use(table, own_of.get(name), name, date_format)
        examples = [str(value)[:30] for value in values.dropna().astype("str").unique()[:3]]
        checks.append(ColumnCheck(name, use, float(values.isna().mean()), examples))
    return checks


def _unclear_numbers(table: Table) -> list[str]:
    """What to do about numbers that may be read in two ways."""
    loss = table.source.losses.get(UNCLEAR)
    if loss is None:
        return []
    return [
        f"{loss.count:,} numbers have a comma that may separate decimals or thousands, such as "
        f"{loss.examples[0].rpartition('/')[2]}. Set `data.decimal` if rules compare them."
    ]


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
    if own == "event_type":
        shares = values.value_counts(normalize=True)[:5]
        return f"event_type: {', '.join(f'{kind} {share:.0%}' for kind, share in shares.items())}"
    if own in ("rating", "position", "propensity"):
        numbers = as_numbers(values)
        return f"{own}: {numbers.min():g} to {numbers.max():g}"
    if own is not None:
        return f"{own}: {values.astype('str').nunique():,} different"
    is_number = as_numbers(values).notna().any()
    return "none, but rules can compare it" if is_number else "none"


def _rules(table: Table, roles: dict[str, str]) -> dict[str, list[str]]:
    """Rules for clicks and purchases."""
    if "event_type" in roles:
        kinds = sorted(table.frame[roles["event_type"]].dropna().astype("str").str.strip().unique())
        clicks = [kind for kind in kinds if not any(word in kind.lower() for word in _NO_CLICKS)]
        purchases = [kind for kind in clicks if any(word in kind.lower() for word in _PURCHASES)]
        return {"click": clicks or kinds, "purchase": purchases}
    clicked, bought = (_flags(table, roles, words) for words in (("click",), _PURCHASES))
    if clicked:
        return {"click": clicked, "purchase": bought}
    if "rating" in roles:
        numbers = as_numbers(table.frame[roles["rating"]])
        low, high = float(numbers.min()), float(numbers.max())
        least = math.ceil(low + 0.75 * (high - low))
        liked = [f"rating>={least}"] if low < least <= high else []
        return {"click": [f"rating>={low:g}"], "purchase": bought or liked}
    return {"click": ["interaction"], "purchase": bought}


def _flags(table: Table, roles: dict[str, str], words: tuple[str, ...]) -> list[str]:
    """A rule for each column of 0 and 1 whose name has one of some words, such as `clicked` of a log of impressions."""

    def is_flag(name: str) -> bool:
        lower = name.lower()
        named = any(word in lower for word in words) and not any(word in lower for word in _NO_CLICKS)
        free = name not in roles.values() and not re.search("[<>=!]", name)
        return named and free and set(as_numbers(table.frame[name]).dropna()) == {0, 1}

    return [f"{name}==1" for name in table.columns if is_flag(name)]


# --- outcome ------------------------------------------------------------------------------------------


def _outcome(config: DataConfig) -> tuple[int, str, list[str]]:
    """What `prepare` would make of the first part of a log.

    Returns:
        number of events, a sentence, and the rows that cannot be used, by reason.
    """
    log = check_log(read_log(config.model_copy(update={"bad_rows": "skip"})))
    events = next(part for part in log.events if len(part))  # without any, `log.events` raises
    purchases = match_rules(events, config.purchase, "data.purchase")
    clicks = match_rules(events, config.click, "data.click") | purchases
    first = events[clicks].drop_duplicates(["user_id", "item_id"])
    counts = first["user_id"].value_counts()
    least = config.min_user_events or 3
    losses = [
        f"{loss.count:,} rows cannot be used: {reason}, such as {loss.examples[0].rpartition('/')[2]}."
        for reason, loss in log.event_source.losses.items()
    ]
    sentence = (
        f"{len(events):,} events, {int(clicks.sum()):,} clicks, {int(purchases.sum()):,} purchases, "
        f"{len(first):,} pairs of user and item; {int((counts >= least).sum()):,} of {len(counts):,} users have "
        f"{least} or more items in these rows"
    )
    return len(events), sentence, losses

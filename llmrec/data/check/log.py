"""`llmrec prepare --check`: what the first lines of an unknown log are, and a config that reads it."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from llmrec.config import DataConfig, run_name
from llmrec.data.check.columns import ColumnCheck, describe_columns, unclear_numbers
from llmrec.data.check.files import Sample, first_lines, read_sample, require_log
from llmrec.data.check.known import KnownLog, find_known, missing_files
from llmrec.data.check.roles import Roles, find_roles
from llmrec.data.check.rules import find_rules
from llmrec.data.check.tables import TableCheck, describe_tables, find_tables
from llmrec.data.feedback import match_rules
from llmrec.data.losses import MISSING_IN_ALL, future_events
from llmrec.data.prepare import SECONDS_PER_DAY, build_data
from llmrec.data.readers import check_log, read_log
from llmrec.data.readers.csv_and_json import read_any_table
from llmrec.data.readers.decimals import plain_numbers
from llmrec.data.readers.paths import PACKAGE, resolve_path
from llmrec.data.readers.raw import RawLog, Table
from llmrec.data.readers.text_files import TextFormat
from llmrec.errors import DataError, UserError

MOST_EVENTS = 500_000  # events of a data set of a known format that are read
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
# Columns that are read under their own names.
_AS_NAMED = ("user_id", "item_id", "timestamp", "event_type", "rating", "session_id", "ranking_id", "position")
_AS_NAMED += ("propensity", "split")


@dataclass(frozen=True)
class LogCheck:
    """What the first lines of a log are.

    Attributes:
        rows: rows that were read.
        columns: the columns of the log; empty for a format with columns of its own.
        outcome: what `prepare` would make of these rows.
        tables: the item table and the user table, or tables that may be them.
        notes: what to do, or what is only a guess.
        config: a config that reads the log; None if there is one already, or if none can be suggested.
    """

    rows: int
    columns: list[ColumnCheck]
    outcome: str
    notes: list[str] = field(default_factory=list)
    tables: list[TableCheck] = field(default_factory=list)
    config: dict[str, Any] | None = None


def check_config(config: DataConfig) -> LogCheck:
    """Reads the first lines of the log of a config.

    Raises:
        UserError: as in the prepare stage.
    """
    if config.format != "table":
        outcome = _outcome(config)
        return LogCheck(
            outcome.events, [], outcome.sentence, [_read(outcome), *outcome.notes, *_too_many(outcome, config)]
        )
    with first_lines(resolve_path(config.path, "data.path"), config.encoding) as (sample, encoding):
        text = TextFormat(encoding, config.separator, skip=True)
        table = plain_numbers(read_any_table(sample, text), (), config.decimal)
        roles = {own: name for own, name in config.columns.model_dump().items() if name is not None}
        outcome = _outcome(config.model_copy(update={"path": str(sample)}))
        columns = describe_columns(table, roles, config.timestamp_format)
        notes = [*outcome.notes, *_too_many(outcome, config), *unclear_numbers(table)]
        return LogCheck(outcome.events, columns, outcome.sentence, notes, describe_tables(config))


def check_file(path: Path) -> LogCheck:
    """Reads the first lines of a log and suggests a config for it.

    Args:
        path: event log, or a directory of a known data set, also as `package:NAME/DIR`.

    Raises:
        UserError: the package is not installed.
        DataError: the file cannot be read, is no table, or has no rows.
    """
    named = str(path)
    if named.startswith(PACKAGE):
        path = resolve_path(named, "data.path")
    known = find_known(path)
    if known is not None:
        in_package = named.startswith(PACKAGE) and path.is_dir()
        return _check_known(path, replace(known, data=known.data | {"path": named}) if in_package else known)
    require_log(path)
    with read_sample(path) as sample:
        if sample.table.frame.empty:
            raise _no_rows(sample.table)
        roles = find_roles(sample)
        roles.notes += missing_files(path, sample.table.columns)
        form = roles.times.form if roles.times is not None else None
        columns = describe_columns(sample.table, roles.names, form, roles.guessed)
        missing = [own for own in ("user_id", "item_id") if own not in roles.names]
        notes = [f"No column looks like the {own}. Name it in `data.columns.{own}` of a config." for own in missing]
        if missing:
            sentence = "the log cannot be read without these columns"
            return LogCheck(len(sample.table.frame), columns, sentence, notes + roles.notes)
        check = LogCheck(len(sample.table.frame), columns, "nothing until a column is changed", roles.notes)
        return check if roles.refused else _suggest(sample, roles, check)


def _check_known(path: Path, known: KnownLog) -> LogCheck:
    """A check of a data set that `data.format` names."""
    outcome = _outcome(DataConfig.model_validate(known.data))
    data = known.data | ({"bad_rows": "skip"} if outcome.losses else {})
    config = {"name": run_name(path.name.split(".")[0], "log"), "data": data, "model": {"base": BASE, "layers": 12}}
    notes = [f"{path.name} is taken for {known.name} by the names of its files.", _read(outcome), *outcome.notes]
    return LogCheck(outcome.events, [], outcome.sentence, notes, config=config)


def _suggest(sample: Sample, roles: Roles, check: LogCheck) -> LogCheck:
    """Adds to a check of the columns the outcome and a config."""
    data: dict[str, Any] = {"format": "table", "path": str(sample.path)}
    found = find_tables(sample, roles.names, data)
    check = replace(check, tables=found.tables)
    columns: dict[str, str | None] = {
        own: name for own, name in roles.names.items() if name != own or own not in _AS_NAMED
    }
    data["columns"] = columns
    rules, about_rules = find_rules(sample.table.frame, roles.names)
    notes = [*check.notes, *found.notes, *unclear_numbers(sample.table), *about_rules]
    if roles.times is None:
        columns["timestamp"] = None
        data["splits"] = ["leave_one_out"]
        notes.append("No column is used as the time, so the lines count as being in the order of time.")
    form = roles.times.form if roles.times is not None else None
    values = {"separator": sample.text.separator, "encoding": sample.text.encoding, "timestamp_format": form}
    data |= {key: value for key, value in values.items() if value is not None} | rules
    data["min_user_events"] = 3
    outcome = _outcome(DataConfig.model_validate(data | {"path": str(sample.file)}))
    notes += outcome.notes
    if outcome.losses:
        data["bad_rows"] = "skip"
    refusal = _refusal(sample, data, outcome)
    if refusal and data.get("splits") is None:
        data["splits"] = ["leave_one_out"]
        refusal = _refusal(sample, data, outcome) and refusal
        notes += [] if refusal else ["The events cannot be split at one time, so the config leaves out `temporal`."]
    if refusal:
        return replace(check, outcome=outcome.sentence, notes=[*notes, f"No config can be suggested: {refusal}"])
    name = run_name(sample.path.name.split(".")[0], "log")
    config = {"name": name, "data": data, "model": {"base": BASE, "layers": 12}}
    return replace(check, outcome=outcome.sentence, notes=notes, config=config)


def _no_rows(table: Table) -> DataError:
    """The error for a file without a row that can be read."""
    source = table.source
    unread = "".join(f" ({loss.count:,} {reason}: {loss.examples[0]})" for reason, loss in source.losses.items())
    return DataError(f"{source.path}: there are no rows{unread}; expected one per event. Check the file.")


# --- outcome ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Outcome:
    """What `prepare` would make of the first part of a log.

    Attributes:
        events: events that can be used.
        lost: rows that cannot be used and count for `data.bad_rows_limit`.
        sentence: the counts, in words.
        losses: the rows that cannot be used, by reason, in words.
        future: the events in the future, in words.
        whole: whether all events were read.
    """

    events: int
    lost: int
    sentence: str
    losses: list[str]
    future: list[str]
    whole: bool

    @property
    def notes(self) -> list[str]:
        """Everything that is said about single rows."""
        return self.losses + self.future


def _outcome(config: DataConfig) -> _Outcome:
    """Reads the first part of a log."""
    log = check_log(read_log(config.model_copy(update={"bad_rows": "skip"})))
    parts: list[pd.DataFrame] = []
    for part in log.events:  # without any event this raises
        parts.append(part)
        if sum(map(len, parts)) >= MOST_EVENTS:
            break
    whole = sum(map(len, parts)) < MOST_EVENTS
    events = pd.concat(parts)
    purchases = match_rules(events, config.purchase, "data.purchase")
    clicks = match_rules(events, config.click, "data.click") | purchases
    first = events[clicks].drop_duplicates(["user_id", "item_id"])
    counts = first["user_id"].value_counts()
    least = config.min_user_events or 3
    losses = log.event_source.losses
    sentence = (
        f"{len(events):,} events, {int(clicks.sum()):,} clicks, {int(purchases.sum()):,} purchases, "
        f"{len(first):,} pairs of user and item; {int((counts >= least).sum()):,} of {len(counts):,} users have "
        f"{least} or more items in these rows"
    )
    said = [
        f"{loss.count:,} rows cannot be used: {reason}, such as {loss.examples[0].rpartition('/')[2]}."
        for reason, loss in losses.items()
    ]
    future = _future(events, log) if log.timed else []
    lost = sum(loss.count for reason, loss in losses.items() if reason not in MISSING_IN_ALL)
    return _Outcome(len(events), lost, sentence, said, future, whole)


def _future(events: pd.DataFrame, log: RawLog) -> list[str]:
    """The note on events in the future, if there are any."""
    times = events["timestamp"][events["timestamp"] > time.time() + SECONDS_PER_DAY]
    if times.empty:
        return []
    latest = int(times.to_numpy().argmax())
    source = log.event_source
    place = f"{Path(source.path).name}, {source.unit} {times.index[latest]}"
    return [future_events(len(times), int(times.iloc[latest]), place)]


def _read(outcome: _Outcome) -> str:
    """How much of a data set was read."""
    return (
        f"All {outcome.events:,} events were read."
        if outcome.whole
        else (f"Only the first {outcome.events:,} events were read; the counts are those of these events.")
    )


def _too_many(outcome: _Outcome, config: DataConfig) -> list[str]:
    """Why `prepare` would refuse the rows that were read because of those that cannot be used."""
    rows = outcome.events + outcome.lost
    if outcome.lost <= config.bad_rows_limit * rows:
        return []
    return [
        f"`prepare` refuses such a log: {outcome.lost:,} of {rows:,} rows ({outcome.lost / rows:.1%}) cannot be used, "
        f"more than `data.bad_rows_limit` allows ({config.bad_rows_limit:.0%}). Correct the log."
    ]


def _refusal(sample: Sample, data: dict[str, Any], outcome: _Outcome) -> str:
    """Why `prepare` would refuse a config; "" if it would not, as far as the first lines show."""
    config = DataConfig.model_validate(data | {"path": str(sample.file)})
    if not sample.whole:
        return "".join(_too_many(outcome, config))
    try:
        build_data(read_log(config), config, config.seed)
    except UserError as error:
        return str(error).replace(str(sample.file.parent), str(sample.path.parent))
    return ""

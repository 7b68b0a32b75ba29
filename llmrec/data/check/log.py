"""`llmrec prepare --check`: what the first lines of an unknown log are, and a config that reads it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmrec.config import DataConfig, run_name
from llmrec.config.data import EXPOSURE_COLUMNS
from llmrec.data.check.columns import ColumnCheck, describe_columns, unclear_numbers
from llmrec.data.check.files import Sample, first_lines, read_sample, require_log
from llmrec.data.check.kinds import Kinds, Rows, find_rows
from llmrec.data.check.known import LARGEST_TRIED, KnownLog, find_known, missing_files
from llmrec.data.check.outcome import Outcome, find_outcome, find_refusal, too_many
from llmrec.data.check.roles import Roles, find_roles, settle_dates
from llmrec.data.check.rules import find_rules
from llmrec.data.check.shared_ids import SharedIds, find_shared_ids
from llmrec.data.check.spoiled import find_spoiled
from llmrec.data.check.tables import TableCheck, describe_tables, find_tables
from llmrec.data.check.withdrawn import find_drops, first_rows_note, may_withdraw
from llmrec.data.exposures import MOST_CLICKED
from llmrec.data.readers.columns import event_columns
from llmrec.data.readers.csv_and_json import read_any_table
from llmrec.data.readers.decimals import plain_numbers
from llmrec.data.readers.paths import PACKAGE, resolve_path
from llmrec.data.readers.raw import Table
from llmrec.data.readers.text_files import TextFormat
from llmrec.errors import DataError

MOST_REPEATS = 0.5  # a larger share of repeated purchases or clicks suggests `data.repeats: keep`
MANY_REPEATS = 0.1  # a larger share is said
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"


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
        outcome = find_outcome(config, Kinds(), whole=True)
        notes = [_read(outcome), *outcome.losses, *outcome.future, *outcome.unmatched, *too_many(outcome, config)]
        return LogCheck(outcome.events, [], outcome.sentence, notes)
    path = resolve_path(config.path, "data.path")
    with first_lines(path, config.encoding) as (file, encoding, whole):
        text = TextFormat(encoding, config.separator, skip=True)
        table = plain_numbers(read_any_table(file, text), (), config.decimal)
        sample = Sample(path, file, text, table, whole, plain=True)
        roles = event_columns(table, config)
        _, kinds = find_rows(sample, roles, [], [])
        outcome = find_outcome(config.model_copy(update={"path": str(file)}), kinds, sample.whole)
        columns = describe_columns(table, roles, config.timestamp_format, kinds.counts)
        notes = [*kinds.notes, *outcome.losses, *outcome.dropped, *outcome.future, *outcome.notes, *outcome.unmatched]
        notes += [*too_many(outcome, config), *unclear_numbers(table)]
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
        names = may_withdraw(sample.table.columns, roles.names.values())
        rows, kinds = find_rows(sample, roles.names, names, roles.forms)
        settle_dates(roles, rows.forms)
        form = roles.times.form if roles.times is not None else None
        columns = describe_columns(sample.table, roles.names, form, kinds.counts, roles.guessed)
        missing = [own for own in ("user_id", "item_id") if own not in roles.names]
        notes = [f"No column looks like the {own}. Name it in `data.columns.{own}` of a config." for own in missing]
        if missing:
            sentence = "the log cannot be read without these columns"
            return LogCheck(len(sample.table.frame), columns, sentence, notes + roles.notes)
        notes = roles.notes + kinds.notes
        check = LogCheck(len(sample.table.frame), columns, "nothing until a column is changed", notes)
        return _suggest(sample, roles, rows, kinds, check)


def _check_known(path: Path, known: KnownLog) -> LogCheck:
    """A check of a data set that `data.format` names."""
    data = dict(known.data)
    outcome = find_outcome(DataConfig.model_validate(data), Kinds(), whole=True)
    notes = [f"{path.name} is taken for {known.name} by the names of its files.", _read(outcome), *outcome.losses]
    notes += outcome.future
    if outcome.losses:
        data["bad_rows"] = "skip"
    refusal = ""
    if known.size > LARGEST_TRIED:
        notes.append(f"The files are larger than {LARGEST_TRIED // 1_000_000} MB, so the config was not tried on them.")
    else:
        refusal = _settle_splits(data, notes, find_refusal)
    return _with_config(LogCheck(outcome.events, [], outcome.sentence, notes), path, data, refusal)


def _suggest(sample: Sample, roles: Roles, rows: Rows, kinds: Kinds, check: LogCheck) -> LogCheck:
    """Adds to a check of the columns the outcome and a config."""
    drops, about_drops = find_drops(rows.values, kinds, roles.names)
    refill = first_rows_note(sample, drops, roles.names.values())
    if refill:
        return replace(check, notes=[*check.notes, refill])
    data: dict[str, Any] = {"format": "table", "path": str(sample.path)}
    found = find_tables(sample, roles.names, data)
    check = replace(check, tables=found.tables)
    columns: dict[str, str | None] = {own: name for own, name in roles.names.items() if name != own}
    columns |= dict.fromkeys(roles.unread)
    data["columns"] = columns
    rules, about_rules = find_rules(sample.table.frame, roles.names, sorted(kinds.counts))
    shared = find_shared_ids(sample, roles.names)
    drops += shared.drops
    notes = [*check.notes, *found.notes, *unclear_numbers(sample.table), *about_rules, *about_drops, *shared.notes]
    notes += find_spoiled(sample, roles.names)
    if roles.times is None:
        columns["timestamp"] = None
        data["splits"] = ["leave_one_out"]
        notes.append("No column is used as the time, so the lines count as being in the order of time.")
    form = roles.times.form if roles.times is not None else None
    values = {"separator": sample.text.separator, "encoding": sample.text.encoding, "timestamp_format": form}
    data |= {key: value for key, value in values.items() if value is not None} | rules
    data |= {"drop": drops} if drops else {}
    data["min_user_events"] = 3
    outcome = _first_outcome(sample, data, kinds, shared)
    if _leaves_exposures_out(outcome, roles, columns, notes):
        outcome = _first_outcome(sample, data, kinds, shared)
    acts = "purchases" if rules["purchase"] else "clicks"
    if outcome.repeats > MOST_REPEATS:
        data["repeats"] = "keep"
        notes.append(
            f"{outcome.repeats:.0%} of the {acts} repeat an earlier one of the same user and item, so the config has "
            "`repeats: keep`. Without it only the first ones count."
        )
        outcome = _first_outcome(sample, data, kinds, shared)
    elif outcome.repeats > MANY_REPEATS:
        more = "" if sample.whole else " The whole log may repeat more of them."
        notes.append(
            f"{outcome.repeats:.0%} of the {acts} repeat an earlier one of the same user and item, and only the first "
            f"ones count.{more} If people take the same items again and again, set `data.repeats: keep`."
        )
    notes += [*outcome.notes, *outcome.losses, *outcome.future]
    if outcome.losses:
        data["bad_rows"] = "skip"
    refusal = _settle_splits(data, notes, lambda data: _refusal(sample, data, outcome))
    return _with_config(replace(check, outcome=outcome.sentence, notes=notes), sample.path, data, refusal)


def _leaves_exposures_out(outcome: Outcome, roles: Roles, columns: dict[str, str | None], notes: list[str]) -> bool:
    """Whether `data.columns` leaves out the columns of exposures, because nearly all events are clicks."""
    shown = [name for name in EXPOSURE_COLUMNS if name in roles.names]
    if not shown or outcome.clicks < MOST_CLICKED * outcome.events:
        return False
    columns |= dict.fromkeys(shown)
    named = ", ".join(f"`{roles.names[name]}`" for name in shown)
    notes.append(
        f"{outcome.clicks / outcome.events:.0%} of the events are clicks, so the log does not hold what was shown and "
        f"refused, and the config does not read {named} as such."
    )
    return True


def _with_config(check: LogCheck, path: Path, data: dict[str, Any], refusal: str) -> LogCheck:
    """Adds to a check a config with a section `data`, or the reason why there is none."""
    if refusal:
        return replace(check, notes=[*check.notes, f"No config can be suggested: {refusal}"])
    name = run_name(path.name.split(".")[0], "log")
    return replace(check, config={"name": name, "data": data, "model": {"base": BASE, "layers": 12}})


def _settle_splits(data: dict[str, Any], notes: list[str], refuse: Callable[[dict[str, Any]], str]) -> str:
    """Leaves the temporal split out of a section `data` if `prepare` refuses it otherwise, and notes it.

    Args:
        data: the section.
        notes: the notes of the check.
        refuse: a function that says why `prepare` would refuse a section; "" if it would not.

    Returns:
        why it would refuse the section in any case; "" if it would not.
    """
    refusal = refuse(data)
    if refusal and "splits" not in data:
        settled = data | {"splits": ["leave_one_out"]}
        if not refuse(settled):
            data |= settled
            notes.append("The events cannot be split at one time, so the config leaves out `temporal`.")
            return ""
    return refusal


def _first_outcome(sample: Sample, data: dict[str, Any], kinds: Kinds, shared: SharedIds) -> Outcome:
    """What a section `data` makes of the first lines."""
    return find_outcome(DataConfig.model_validate(data | {"path": str(sample.file)}), kinds, sample.whole, shared)


def _refusal(sample: Sample, data: dict[str, Any], outcome: Outcome) -> str:
    """Why `prepare` would refuse a config; "" if it would not, as far as the first lines show."""
    if sample.whole:
        found = find_refusal(data | {"path": str(sample.file)})
        return found.replace(str(sample.file.parent), str(sample.path.parent))
    return "".join(too_many(outcome, DataConfig.model_validate(data)))


def _read(outcome: Outcome) -> str:
    """How much of a data set was read."""
    if outcome.whole:
        return f"All {outcome.events:,} events were read."
    return f"Only the first {outcome.events:,} events were read; the counts are those of these events."


def _no_rows(table: Table) -> DataError:
    """The error for a file without a row that can be read."""
    source = table.source
    unread = "".join(f" ({loss.count:,} {reason}: {loss.examples[0]})" for reason, loss in source.losses.items())
    return DataError(f"{source.path}: there are no rows{unread}; expected one per event. Check the file.")

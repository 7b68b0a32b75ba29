"""What became of the rows of a log: counts by reason, and warnings about ratios that are unlikely to be meant."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.event_store import Collected, EventCounts
from llmrec.data.exposures import unlikely_exposures
from llmrec.data.harm import Warned, by_harm
from llmrec.data.odd_rows import contradictions, idle_drop_rules, ids_in_two_forms
from llmrec.data.ragged import Ragged
from llmrec.data.readers.amazon import WITHOUT_METADATA, WITHOUT_STARS
from llmrec.data.readers.decimals import UNCLEAR
from llmrec.data.readers.delimited import NOT_PARSED
from llmrec.data.readers.dropped import DROPPED
from llmrec.data.readers.raw import UNKNOWN_ITEM, UNTITLED, RawLog, Source
from llmrec.data.readers.untitled import NO_ITEM_TABLE
from llmrec.errors import DataError

NOT_A_CLICK = "neither click nor purchase"
REPEATED_CLICK = "repeated click on an item"
SAME_CLICK = "repeated click on an item at the same time"  # a row that the log holds twice, for instance
SHORT_USER = "user with too few clicks"

# A larger share of left-out events, or of items without events, is a warning.
LEFT_OUT = 0.2
ITEMS_WITHOUT_EVENTS = 0.5
MOST_TYPES = 20  # event types that a warning names
# Few logs of recommenders are older; earlier dates mostly come from numbers in another unit.
EARLIEST_YEAR = 1995
SECONDS_OF_1970 = 365 * 86_400
# 1970-01-01 and 2100-01-01 as spreadsheets count days, from 1899-12-30 on.
EXCEL_1970 = 25_569
EXCEL_2100 = 73_051
# Rows that are meant to be left out: by the reader of a format, and by `data.drop`.
MEANT = (WITHOUT_METADATA, WITHOUT_STARS, DROPPED)
# What mends a large count of a reason.
_MENDED_BY = {
    NOT_A_CLICK: "Check `data.click` and `data.purchase`.",
    SHORT_USER: "Lower `data.min_user_events`, or loosen `data.click`.",
    UNKNOWN_ITEM: "Check `data.items` and `data.columns.item_id`.",
    WITHOUT_METADATA: "Check that `data.items` is the metadata of this log.",
    NOT_PARSED: "Check `data.separator`.",
    SAME_CLICK: "The log may hold rows twice: remove exact duplicates.",
}


@dataclass(frozen=True)
class Losses:
    """What became of the rows of a log.

    Attributes:
        events_read: rows of the event log.
        left_out: number of rows by table (`events`, `items`, `users`, `facts`) and reason. Under `items` it also
            counts replaced titles and numbers kept as text.
        users_with_attributes: users with at least one attribute that is not empty.
        items_with_facts: items with a category, a year or a row in the table of facts.
        cut_ids: number of rows whose id `123.0` was read as `123`, by `TABLE.COLUMN`.
        warnings: ratios that are unlikely to be meant, each with the config key that mends it; most harmful first.
    """

    events_read: int
    left_out: dict[str, dict[str, int]]
    users_with_attributes: int
    items_with_facts: int
    cut_ids: dict[str, int] = field(default_factory=dict)
    warnings: list[Warned] = field(default_factory=list)

    def as_card(self) -> dict[str, Any]:
        """The part of the dataset card, which shows no value of a single row."""
        return {
            "events_read": self.events_read,
            **{f"{table}_left_out": counts for table, counts in self.left_out.items() if counts},
            "users_with_attributes": self.users_with_attributes,
            "items_with_facts": self.items_with_facts,
            **({"ids_without_fraction": self.cut_ids} if self.cut_ids else {}),
            "warnings": [warning.text for warning in self.warnings],
        }


def count_losses(
    found: Collected, data: InteractionData, counts: EventCounts, by_rule: dict[str, int], config: DataConfig
) -> Losses:
    """Counts what became of the rows of a log.

    Args:
        found: what the log holds.
        data: the prepared data.
        counts: counts of the events of its users.
        by_rule: usable events that are in no history, by reason.
        config: the section that the data was prepared with.
    """
    left_out = {table: _counts(source) for table, source in _sources(found.log).items()}
    events_read = found.events + sum(left_out["events"].values())
    left_out["events"] |= {reason: count for reason, count in by_rule.items() if count}
    has_attribute = (data.users.drop(columns="user_id") != "").any(axis=1)
    has_fact = (
        (data.items["categories"].str.len() > 0)
        | data.items["year"].notna()
        | data.items.index.isin(data.facts["item"])
    )
    losses = Losses(
        events_read=events_read,
        left_out=left_out,
        users_with_attributes=int(has_attribute.sum()),
        items_with_facts=int(has_fact.sum()),
        cut_ids={f"{name}.{key}": n for name, one in _sources(found.log).items() for key, n in one.cut_ids.items()},
    )
    return replace(losses, warnings=_warnings(found, data, losses, counts, config))


def check_bad_rows(found: Collected, config: DataConfig) -> None:
    """Checks that `data.bad_rows: skip` leaves out no larger share of the events than `data.bad_rows_limit`.

    Raises:
        DataError: it does.
    """
    source = found.log.event_source
    counts = {reason: count for reason, count in _counts(source).items() if not reason.startswith(MEANT)}
    bad = sum(counts.values())
    rows = found.events + bad
    if config.bad_rows == "error" or bad <= config.bad_rows_limit * rows:
        return
    reasons = ", ".join(f"{count:,} for {reason}" for reason, count in counts.items())
    example = next(source.losses[reason].examples[0] for reason in counts)
    raise DataError(
        f"{source.path}: {bad:,} of {rows:,} rows ({share_text(bad / rows)}) cannot be used ({reasons}), such as "
        f"{example}; expected at most {share_text(config.bad_rows_limit)}. Correct the config or the log, or raise "
        "`data.bad_rows_limit`."
    )


def share_text(share: float) -> str:
    """A share in percent, with as many digits as a small one needs: `50.6%`, `0.04%`."""
    return f"{100 * share:.3g}%"


def examples(log: RawLog) -> dict[str, list[str]]:
    """The first rows of each reason, as `FILE, line N: value`, by `TABLE: REASON`."""
    return {
        f"{table}: {reason}": loss.examples
        for table, source in _sources(log).items()
        for reason, loss in source.losses.items()
    }


def _sources(log: RawLog) -> dict[str, Source]:
    return {"events": log.event_source, "items": log.item_source, "users": log.user_source, "facts": log.fact_source}


def _counts(source: Source) -> dict[str, int]:
    return {reason: loss.count for reason, loss in source.losses.items()}


def _warnings(
    found: Collected, data: InteractionData, losses: Losses, counts: EventCounts, config: DataConfig
) -> list[Warned]:
    warnings = [
        *_share_left_out(losses, has_exposures=len(data.exposures) > 0),
        *(_times(found) if found.log.timed else []),
        *_rules(found, data, counts, config),
        *_tables(found, losses, config),
        *contradictions(found.log),
        *idle_drop_rules(found.log.event_source),
        *ids_in_two_forms("items", found.log.items["item_id"][found.used]),
        *ids_in_two_forms("users", found.user_ids),
        *unlikely_exposures(data.exposures),
    ]
    return by_harm(warnings)


def _share_left_out(losses: Losses, has_exposures: bool) -> list[Warned]:
    """The warning about events that are in no history; empty if they are few.

    Repeated clicks are left out by design, `data.drop` names its rows, and exposures are not meant to be clicks.
    """
    meant = {REPEATED_CLICK, NOT_A_CLICK} if has_exposures else {REPEATED_CLICK}
    left_out = losses.left_out["events"]
    counts = {one: count for one, count in left_out.items() if one not in meant and not one.startswith(DROPPED)}
    total = sum(counts.values())
    if total <= LEFT_OUT * losses.events_read:
        return []
    largest = max(counts, key=lambda reason: counts[reason])
    mended = _MENDED_BY.get(largest, "Check `data.columns` and `data.timestamp_format`.")
    share = total / losses.events_read
    text = (
        f"Apart from repeated clicks{' and exposures' if has_exposures else ''}, {total:,} of {losses.events_read:,} "
        f"events ({share:.0%}) are in no history, most of them for {largest} ({counts[largest]:,}). {mended}"
    )
    return [Warned("weak", share, "models learn from the other events, which may be of another kind", text)]


def _times(found: Collected) -> list[Warned]:
    """Warnings about the times of a log."""
    source = found.log.event_source
    (earliest, earliest_line), (latest, latest_line) = found.first, found.last
    warnings = []
    if found.events > 1 and earliest == latest:
        text = (
            "All events have the same time. Check `data.columns.timestamp`; if the lines are in the order of time, set "
            "it to null."
        )
        warnings.append(Warned("wrong", 1.0, "the next item of every event is drawn by a seed", text))
    first = pd.Timestamp(earliest, unit="s")
    if first.year < EARLIEST_YEAR:
        begin = f"The first event is from {first:%Y-%m-%d} ({_place(source, earliest_line)})."
        if earliest < latest < SECONDS_OF_1970:
            why = "times are in another unit, so sessions, days and decays are"
            warnings.append(Warned("wrong", 1.0, why, f"{begin} {_small_times(earliest, latest)}"))
        else:
            fix = "If that is wrong, check `data.columns.timestamp` and set `data.timestamp_format`."
            warnings.append(Warned("odd", 1 / found.events, "old times may be right", f"{begin} {fix}"))
    if found.future:
        text = future_events(found.future, latest, _place(source, latest_line))
        why = "the test targets are the latest events, so wrong times are tested first"
        warnings.append(Warned("wrong", found.future / found.events, why, text))
    return warnings


def _rules(found: Collected, data: InteractionData, counts: EventCounts, config: DataConfig) -> list[Warned]:
    """Warnings about rules that match no event, or cannot match some."""
    warnings = []
    if config.purchase and not Ragged.of(data.purchases).flat().any():
        if counts.purchases:
            text = (
                f"{counts.purchases:,} events are purchases, but none comes before its user's first held-out click, so "
                "no history may show it. Hold out less, or set `data.purchase: []`."
            )
        else:
            text = (
                f"No event is a purchase by the rules of `data.purchase` ({', '.join(config.purchase)}). Correct them, "
                "or set `data.purchase: []`."
            )
        warnings.append(Warned("weak", 1.0, "the purchase model has nothing to learn from", text))
    for name, numbers in found.numbers.items():
        if numbers < found.events:
            missing = found.events - numbers
            text = (
                f"{missing:,} of {found.events:,} events have no number in `{name}`, so no rule that "
                "compares it matches them. Complete the column, or add a rule for them to `data.click`."
            )
            warnings.append(Warned("weak", missing / found.events, "clicks among them are not counted", text))
    if counts.unmatched:
        named = ", ".join(f"`{name}` ({count:,})" for name, count in list(counts.unmatched.items())[:MOST_TYPES])
        more = f" and {len(counts.unmatched) - MOST_TYPES:,} more" if len(counts.unmatched) > MOST_TYPES else ""
        text = (
            f"No rule matches the event types {named}{more}. Add those that are clicks to `data.click`, and purchases "
            "to `data.purchase`."
        )
        share = sum(counts.unmatched.values()) / found.events
        warnings.append(Warned("weak", share, "clicks and purchases among them are not counted", text))
    return warnings


def _tables(found: Collected, losses: Losses, config: DataConfig) -> list[Warned]:
    """Warnings about the tables of items and users."""
    log = found.log
    items = len(log.items)
    warnings = []
    unused = items - int(found.used.sum())
    if unused > ITEMS_WITHOUT_EVENTS * items:
        text = (
            f"{unused:,} of {items:,} items have no event. Check `data.items` and `data.columns.item_id`, or "
            "remove items that cannot be recommended."
        )
        warnings.append(
            Warned("odd", unused / items, "these items take part in every ranking, and few rank high", text)
        )
    if len(log.users) and not losses.users_with_attributes:
        text = (
            f"None of the {len(log.users):,} rows of the user table has an attribute of a user of the log. Check "
            "`data.users` and `data.columns.user_id`."
        )
        warnings.append(Warned("weak", 1.0, "prompts and reward models know nothing of users", text))
    untitled = losses.left_out["items"].get(UNTITLED, 0)
    if untitled:
        text = (
            f"{untitled:,} of {items:,} items have no title, so their ids stand in. {_title_source(log, config)}, "
            "because the language model learns an item from its title."
        )
        warnings.append(Warned("weak", untitled / items, "the language model has no words for these items", text))
    unclear = losses.left_out["items"].get(UNCLEAR, 0)
    if unclear:
        text = (
            f"{unclear:,} numbers of the item table have a comma that may separate decimals or thousands, so they are "
            "read as text. Set `data.decimal`."
        )
        why = "only reward terms and requests on these columns miss them"
        warnings.append(Warned("odd", min(1.0, unclear / items), why, text))
    return warnings


def _title_source(log: RawLog, config: DataConfig) -> str:
    """What to do about missing titles: only some formats have a table that a key of the config names."""
    if config.format == "table" and config.items is None:
        return "Name an item table in `data.items`"
    if config.format in ("table", "amazon2023"):
        return "Complete the column `title` of `data.items`"
    if config.format == "recbole" and str(log.item_source.path).endswith(NO_ITEM_TABLE):
        return "Add NAME.item with the columns `item_id:token` and `title:token_seq` to the directory of the log"
    return f"Complete the titles in {Path(log.item_source.path).name}"


def future_events(count: int, latest: int, place: str) -> str:
    """The warning about events in the future.

    Args:
        count: number of these events.
        latest: time of the last one, in seconds since 1970.
        place: its file and line.
    """
    when = f"{pd.Timestamp(latest, unit='s'):%Y-%m-%d} ({place})"
    found = (
        f"1 event is in the future, on {when}"
        if count == 1
        else f"{count:,} events are in the future, the last on {when}"
    )
    return f"{found}. Correct or delete such events, or set `data.timestamp_format`."


def _small_times(earliest: int, latest: int) -> str:
    """What to do about times that are all in the year 1970."""
    found = f"All times are from {earliest:,} to {latest:,}, read as seconds since 1970."
    if earliest >= EXCEL_1970 and latest <= EXCEL_2100:
        day = pd.Timestamp(earliest - EXCEL_1970, unit="D")
        return (
            f"{found} They look like the days of a spreadsheet, in which {earliest:,} is {day:%Y-%m-%d}. Convert them: "
            f"seconds = (days - {EXCEL_1970}) * 86400."
        )
    return (
        f"{found} If they count days or steps, convert them, or set `data.columns.timestamp: null` if the lines are in "
        "the order of time."
    )


def _place(source: Source, label: Any) -> str:
    """File and line, without the directory, which describes one machine."""
    return f"{Path(source.path).name}, {source.unit} {label}"


def summary(card: dict[str, Any]) -> str:
    """The counts of a dataset card in one line."""
    losses = card["losses"]
    reasons = losses.get("events_left_out", {})
    why = f" ({', '.join(f'{count:,} {reason}' for reason, count in reasons.items())})" if reasons else ""
    hidden = card.get("hidden_purchases", 0)  # older cards have none
    late = f" ({hidden:,} more are later than training may know)" if hidden else ""
    cut = ", ".join(f"{count:,} in {place}" for place, count in losses.get("ids_without_fraction", {}).items())
    cut_ids = f"; ids such as 123.0 read as 123: {cut}" if cut else ""
    time_range = f"; {card['time']['first'][:10]} to {card['time']['last'][:10]}" if card["time"] else ""
    return (
        f"{losses['events_read']:,} events read, {sum(reasons.values()):,} in no history{why}; {card['clicks']:,} "
        f"clicks, {card['purchases']:,} purchases{late}; {card['users']:,} users "
        f"({losses['users_with_attributes']:,} with attributes); {card['items']:,} items "
        f"({losses['items_with_facts']:,} with facts){time_range}{cut_ids}"
    )

"""What `prepare` would make of the first part of a log, and whether it would refuse a config."""

import re
import time
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.check.kinds import LATER, Kinds
from llmrec.data.check.shared_ids import SharedIds
from llmrec.data.feedback import NOT_FOR_RULES, match_rules, resolve
from llmrec.data.losses import MEANT, future_events, share_text
from llmrec.data.odd_rows import example_of, idle_drop_rules, ids_in_two_forms
from llmrec.data.prepare import SECONDS_PER_DAY, build_data
from llmrec.data.readers import RawLog, check_log, read_log
from llmrec.data.readers.dropped import DROPPED
from llmrec.data.readers.values import as_numbers
from llmrec.errors import ConfigError, UserError

MOST_EVENTS = 500_000  # events of a data set of a known format that are read


@dataclass(frozen=True)
class Outcome:
    """What `prepare` would make of the first part of a log.

    Attributes:
        events: events that can be used.
        clicks: those of them that are clicks.
        lost: rows that cannot be used and count for `data.bad_rows_limit`.
        repeats: share of the purchases, or of the clicks if no rule names purchases, that repeat an earlier one of
            the same kind, user and item at another time, without those of ids that many share.
        sentence: the counts, in words.
        losses: the rows that cannot be used, by reason, in words.
        dropped: the rows that `data.drop` leaves out, by rule, in words.
        future: the events in the future, in words.
        whole: whether all events of the log or of its first lines were read.
        notes: rules that these events cannot decide.
        unmatched: the kinds of events that no rule matches, in words.
    """

    events: int
    clicks: int
    lost: int
    repeats: float
    sentence: str
    losses: list[str]
    dropped: list[str]
    future: list[str]
    whole: bool
    notes: list[str]
    unmatched: list[str]


def find_outcome(config: DataConfig, kinds: Kinds, whole: bool, shared: SharedIds | None = None) -> Outcome:
    """Reads the first part of a log.

    Args:
        config: the section `data`; its path may be that of the first lines.
        kinds: the kinds of events of the whole log.
        whole: whether the log has no other lines.
        shared: ids that stand for many people; None if they are unknown.

    Raises:
        UserError: as in the prepare stage.
    """
    log = check_log(read_log(config.model_copy(update={"bad_rows": "skip"})))
    parts: list[pd.DataFrame] = []
    for part in log.events:  # without any event this raises
        parts.append(part)
        if sum(map(len, parts)) >= MOST_EVENTS:
            break
    events = pd.concat(parts)
    losses = log.event_source.losses
    purchases, notes = _matching(events, config.purchase, "data.purchase", kinds, whole)
    clicks, others = _matching(events, config.click, "data.click", kinds, whole)
    clicks |= purchases
    notes += [note for note in others if note not in notes]
    several = shared.have(events) if shared else np.zeros(len(events), dtype=bool)
    least = config.min_user_events or 3
    keep = config.repeats == "keep"
    kept = events[clicks].drop_duplicates(["user_id", "item_id", *(["timestamp"] if keep else [])])
    counts = kept["user_id"].value_counts()
    counted = "clicks in histories, repeats among them" if keep else "pairs of user and item"
    sentence = (
        f"{len(events):,} events, {int(clicks.sum()):,} clicks, {int(purchases.sum()):,} purchases, "
        f"{len(kept):,} {counted}; {int((counts >= least).sum()):,} of {len(counts):,} users have {least} or more "
        f"{'clicks' if keep else 'items'} in these rows"
    )
    said = [
        f"{loss.count:,} rows cannot be used: {reason}, such as {example_of(loss)}."
        for reason, loss in losses.items()
        if not reason.startswith(DROPPED)
    ]
    if whole:  # else rows further on may meet them
        notes += [warning.text for warning in idle_drop_rules(log.event_source)]
    for kind, ids in (("items", events["item_id"]), ("users", events["user_id"])):
        notes += [warning.text for warning in ids_in_two_forms(kind, ids.unique())]
    dropped = {reason: loss.count for reason, loss in losses.items() if reason.startswith(DROPPED)}
    return Outcome(
        events=len(events),
        clicks=int(clicks.sum()),
        lost=sum(loss.count for reason, loss in losses.items() if not reason.startswith(MEANT)),
        repeats=_share_of_repeats(events[(purchases if config.purchase else clicks) & ~several]),
        sentence=sentence,
        losses=said,
        dropped=[f"{count:,} rows are {reason}." for reason, count in dropped.items()],
        future=_future(events, log) if log.timed else [],
        whole=len(events) < MOST_EVENTS,
        notes=notes,
        unmatched=_unmatched(events, clicks, kinds, {*config.click, *config.purchase}),
    )


def _future(events: pd.DataFrame, log: RawLog) -> list[str]:
    """The note on events in the future, if there are any."""
    times = events["timestamp"][events["timestamp"] > time.time() + SECONDS_PER_DAY]
    if times.empty:
        return []
    latest = int(times.to_numpy().argmax())
    source = log.event_source
    place = f"{Path(source.path).name}, {source.unit} {times.index[latest]}"
    return [future_events(len(times), int(times.iloc[latest]), place)]


def _matching(
    events: pd.DataFrame, rules: list[str], key: str, kinds: Kinds, whole: bool
) -> tuple[np.ndarray, list[str]]:
    """Events that match at least one rule, and notes about rules that these events cannot decide.

    Raises:
        ConfigError: a rule cannot be read, or names a column or a kind of events that the log lacks.
    """
    here = set(events["event_type"])
    types = [*here, *(kinds.counts.keys() - here)]
    columns = [name for name in events.columns if name not in NOT_FOR_RULES]
    matched = np.zeros(len(events), dtype=bool)
    notes = []
    for text in rules:
        try:
            rule = resolve(text, key, columns, types)
        except ConfigError:
            if kinds.complete or re.search("[<>=!]", text):
                raise
            notes.append(f"No event of the kind `{text}` was found in the rows that were read. {LATER}")
            continue
        if rule.event_type is not None and rule.event_type not in here:
            notes.append(f"These counts lack `{rule.event_type}`, which occurs only after the rows that were read.")
            continue
        if rule.event_type is None and not whole and as_numbers(events[rule.column]).isna().all():
            notes.append(f"`{rule.column}`, which the rule `{text}` compares, has no number in these rows.")
            continue
        matched |= match_rules(events, [text], key)
    return matched, notes


def _share_of_repeats(events: pd.DataFrame) -> float:
    """Share of some events that repeat an earlier one of the same kind, user and item at another time."""
    pair = ["user_id", "item_id", "event_type"]
    if events.empty:
        return 0.0
    times = events.drop_duplicates([*pair, "timestamp"])
    return 1 - len(times.drop_duplicates(pair)) / len(times)


def _unmatched(events: pd.DataFrame, clicks: np.ndarray, kinds: Kinds, rules: Set[str]) -> list[str]:
    """A note about the kinds of events that no rule matches."""
    matched = {*events.loc[clicks, "event_type"], *(rule.strip() for rule in rules)}
    counts = kinds.counts or {str(kind): int(count) for kind, count in events["event_type"].value_counts().items()}
    found = [f"`{kind}` ({count:,})" for kind, count in counts.items() if kind not in matched]
    if not found:
        return []
    more = ", ..." if len(found) > 20 else ""
    return [f"No rule matches the kinds {', '.join(found[:20])}{more}. Add those that are clicks to `data.click`."]


def too_many(outcome: Outcome, config: DataConfig) -> list[str]:
    """Why `prepare` would refuse the rows that were read because of those that cannot be used."""
    rows = outcome.events + outcome.lost
    if outcome.lost <= config.bad_rows_limit * rows:
        return []
    return [
        f"`prepare` refuses such a log: {outcome.lost:,} of {rows:,} rows ({share_text(outcome.lost / rows)}) cannot "
        f"be used, more than `data.bad_rows_limit` allows ({share_text(config.bad_rows_limit)}). Correct the log."
    ]


def find_refusal(data: dict[str, Any]) -> str:
    """Why `prepare` would refuse a section `data`; "" if it would not."""
    config = DataConfig.model_validate(data)
    try:
        build_data(read_log(config), config, config.seed)
    except UserError as error:
        return str(error)
    return ""

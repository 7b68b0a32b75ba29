"""The prepare stage: reads an event log and writes histories, splits and the dataset card.

Steps: read the log in parts, find clicks and purchases, keep each user's first click on each item (or all clicks) in
time order, hold out targets by every configured split, write the card, and save everything at once.
"""

import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from llmrec.config import Config, DataConfig
from llmrec.data.card import Preparation, dataset_card
from llmrec.data.dataset import InteractionData, save_data
from llmrec.data.event_store import Collected, EventStore, collect_events, open_store
from llmrec.data.exposures import find_exposures
from llmrec.data.histories import choose_users, order_ties
from llmrec.data.losses import (
    NOT_A_CLICK,
    REPEATED_CLICK,
    SAME_CLICK,
    SHORT_USER,
    check_bad_rows,
    count_losses,
    examples,
    summary,
)
from llmrec.data.purchases import known_purchases
from llmrec.data.ragged import Ragged
from llmrec.data.readers import RawLog, check_log, read_log
from llmrec.data.readers.csv_and_json import estimated_rows
from llmrec.data.readers.unchanged import unchanged_files
from llmrec.data.splits import (
    PARTS,
    Clicks,
    PairHashes,
    Split,
    given,
    leave_one_out,
    seeded_hash,
    shared_train_lengths,
    temporal,
)
from llmrec.errors import DataError
from llmrec.files import FileState
from llmrec.progress import bar

SECONDS_PER_DAY = 86_400
REPORTED = ("users", "items", "events", "clicks", "purchases", "train_clicks", "density")  # keys of the card


class StageRun(Protocol):
    """The part of `llmrec.run.Run` that the stage uses."""

    @property
    def config(self) -> Config:
        """The config of the run."""
        ...

    def begin(self, stage: str) -> None:
        """Marks a stage as started."""
        ...

    def path(self, stage: str, *parts: str) -> Path:
        """A path inside the folder of a stage."""
        ...

    def finish(self, stage: str, metrics: dict[str, Any], inputs: dict[Path, FileState]) -> None:
        """Marks a stage as finished."""
        ...


def prepare_stage(run: StageRun) -> None:
    """Reads, builds and saves the data of a run.

    Raises:
        UserError: something that the config names cannot be used. Then nothing is written.
    """
    config = run.config.data
    run.begin("data")
    try:
        with unchanged_files() as inputs:
            log = read_log(config)
            with bar("data") as progress:
                data = build_data(log, config, config.seed, run.path("data").parent, progress.update)
        save_data(data, run.path("data"))
    except BaseException:
        # Most failures are fixed in the config. A stage that counts as started would refuse the changed config.
        run.path("data", "started.json").unlink(missing_ok=True)
        with suppress(OSError):  # The folder holds an earlier result, which stays.
            run.path("data").rmdir()
        raise
    counts = {key: data.card[key] for key in (*REPORTED, "losses")}
    warnings = [f"warning: {warning}" for warning in data.card["losses"]["warnings"]]
    others = len(data.card["warnings"]) - len(warnings)
    if others:
        warnings.append(
            f"warnings about order, overlap and skew of the data: {others}. `llmrec prepare --report` prints them."
        )
    metrics = {**counts, "examples": examples(log), "summary": [summary(data.card), *warnings]}
    run.finish("data", metrics, inputs)


def build_data(
    log: RawLog,
    config: DataConfig,
    seed: int,
    directory: Path | None = None,
    progress: Callable[[int, int, str], Any] = lambda *_: None,
) -> InteractionData:
    """Histories, splits and card of a log. Equal arguments give equal results in every process.

    Items keep the order of the item table and include items without events. Users are sorted by id, with digits
    compared as numbers.

    Args:
        log: the result of a reader. Its events are read once.
        config: its rules, splits and `min_user_events` are used.
        seed: orders equal timestamps and draws the targets of the temporal split.
        directory: where temporary files may lie, about 20 bytes an event; None for the system's place for them.
        progress: called with events read, events in all (an estimate) and what is being done.

    Raises:
        ConfigError: a rule cannot be used with this log.
        DataError: no event is a click, a user has too few clicks, a split leaves no targets or no training data,
            more bad rows are skipped than `data.bad_rows_limit` allows, or `check_log` fails.
        UserError: the disk is full.
    """
    log = check_log(log)
    # A name of this form is removed by the next run if this one is killed.
    with tempfile.TemporaryDirectory(prefix=".events.", suffix=".tmp", dir=directory) as folder:
        total = _estimated_events(log)
        found = collect_events(
            log,
            config,
            Path(folder) / "events.parquet",
            now=time.time() + SECONDS_PER_DAY,
            advance=lambda events: progress(events, max(events, total), "reading"),
        )
        check_bad_rows(found, config)
        progress(found.events, found.events, "sorting and counting")
        with open_store(found, config) as store:
            return _build(store, found, config, seed)


def _estimated_events(log: RawLog) -> int:
    """About how many events a log has; 0 if its source is no file."""
    try:
        return estimated_rows(Path(log.event_source.path))
    except (OSError, EOFError, ValueError):  # a directory, a log in memory, or a file that reading will refuse
        return 0


def _build(store: EventStore, found: Collected, config: DataConfig, seed: int) -> InteractionData:
    """Histories, splits and card of collected events."""
    log = found.log
    clicks_of = store.find_clicks()
    if not clicks_of.any():
        raise DataError(_explain_no_clicks(found, config))
    user_ids, dropped = choose_users(pd.Series(clicks_of, index=pd.Index(found.user_ids)), config)
    numbers = np.array([found.user_ids[user_id] for user_id in user_ids], dtype=np.int64)
    store.keep_users(numbers)
    lengths = clicks_of[numbers]
    users = _user_table(log, pd.Index(user_ids))
    history = store.histories()
    order_ties(history, users["user_id"], log.items["item_id"], seed)
    splits = make_splits(history, users["user_id"], log.items["item_id"], lengths, config, seed)
    train_lengths = shared_train_lengths(splits.values())
    cut = min((split.cuts[0] for split in splits.values() if split.cuts), default=np.inf)
    purchases = known_purchases(history["timestamp"], history["bought_at"], lengths, train_lengths, cut)
    data = InteractionData(
        items=log.items.reset_index(drop=True),
        users=users,
        facts=_fact_table(log, pd.Index(log.items["item_id"])),
        histories=Ragged.of_lengths(history["item"], lengths),
        purchases=Ragged.of_lengths(purchases, lengths),
        timestamps=Ragged.of_lengths(history["timestamp"], lengths),
        train_lengths=train_lengths,
        targets={name: split.targets for name, split in splits.items()},
        exposures=find_exposures(store.shown()),
        bought_at=Ragged.of_lengths(history["bought_at"], lengths),
        repeats=config.repeats == "keep",
    )
    _check_splits(data)
    counts = store.counts()
    by_rule = {
        SHORT_USER: found.events - counts.events,
        NOT_A_CLICK: counts.events - counts.clicks,
        SAME_CLICK: counts.clicks - counts.moments,
        REPEATED_CLICK: counts.moments - len(history["item"]),
    }
    losses = count_losses(found, data, counts, by_rule, config)
    preparation = Preparation(counts, splits, dropped_users=dropped, seed=seed, timed=log.timed, losses=losses)
    return replace(data, card=dataset_card(data, config, preparation))


def _explain_no_clicks(found: Collected, config: DataConfig) -> str:
    types = ", ".join(sorted(found.types)[:20])
    low, high = found.ratings
    ratings = f", its ratings go from {low:g} to {high:g}" if low <= high else ""
    return (
        f"{found.log.event_source.path}: no event matches a rule of `data.click` ({', '.join(config.click)}) or "
        f"`data.purchase` ({', '.join(config.purchase)}); expected at least one. The log's event types are "
        f"{types}{ratings}: change the rules."
    )


def _user_table(log: RawLog, user_index: pd.Index) -> pd.DataFrame:
    attributes = log.users.set_index("user_id").reindex(user_index).fillna("")
    return attributes.rename_axis("user_id").reset_index().astype("str")


def _fact_table(log: RawLog, item_index: pd.Index) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "item": item_index.get_indexer(pd.Index(log.facts["head"])).astype("int64"),
            "relation": log.facts["relation"].astype("str").to_numpy(),
            "tail": log.facts["tail"].astype("str").to_numpy(),
            "named": log.facts["named"].astype(bool).to_numpy(),
        }
    )


# --- splits -------------------------------------------------------------------------------------------


def make_splits(
    history: dict[str, np.ndarray],
    user_ids: pd.Series,
    item_ids: pd.Series,
    lengths: np.ndarray,
    config: DataConfig,
    seed: int,
) -> dict[str, Split]:
    """The configured splits by name.

    Args:
        history: `user, item, timestamp, part` of each click, sorted by user and time, [E].
        user_ids: id of each user, [U].
        item_ids: id of each item, [N].
        lengths: clicks of each user, int64 [U].
        config: names and sizes of the splits.
        seed: seed of the draw of targets.

    Raises:
        DataError: the log's own split does not follow time.
    """
    clicks = Clicks(
        users=history["user"], timestamps=history["timestamp"], parts=history["part"], num_users=len(lengths)
    )
    times = history["timestamp"] if config.repeats == "keep" else None  # draws of repeats differ
    splits: dict[str, Split] = {}
    for name in config.splits:
        if name == "leave_one_out":
            splits[name] = leave_one_out(lengths)
        elif name == "given":
            _check_parts_follow_time(clicks, user_ids)
            draws = seeded_hash(seed, "given", user_ids, user_ids)
            splits[name] = given(clicks, draws, valid_share=config.given_valid)
        else:
            splits[name] = temporal(
                clicks,
                PairHashes(seed, "targets", user_ids, item_ids, history["user"], history["item"], times),
                valid=config.temporal_valid,
                test=config.temporal_test,
                targets_per_user=config.targets_per_user,
            )
    return splits


def _check_parts_follow_time(clicks: Clicks, user_ids: pd.Series) -> None:
    falls = np.flatnonzero((np.diff(clicks.parts) < 0) & (np.diff(clicks.users) == 0))
    if len(falls):
        earlier, later = (PARTS[part] for part in clicks.parts[falls[0] : falls[0] + 2])
        raise DataError(
            f"User {user_ids.iloc[clicks.users[falls[0]]]!r} has a click marked `{earlier}` before one marked "
            f"`{later}`; expected train before valid before test in the time of each user. "
            "Correct the column `split`, or set `data.splits` to [temporal, leave_one_out]."
        )


def _check_splits(data: InteractionData) -> None:
    for name, parts in data.targets.items():
        for part, targets in parts.items():
            if len(targets) == 0:
                more = f"Mark more clicks as {part}" if name == "given" else f"Raise `data.temporal_{part}`"
                raise DataError(
                    f"The {name} split has no {part} targets; expected at least one user with a click in that part "
                    f"and an earlier click. {more}, or take `{name}` out of `data.splits`."
                )
    if not data.train_lengths.any():
        raise DataError(
            "The splits leave no training data: all clicks are in the validation and test windows; expected clicks "
            "before them. Check that the timestamps differ, lower `data.temporal_valid` and `data.temporal_test`, or "
            "take `temporal` out of `data.splits`."
        )

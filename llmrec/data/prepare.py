"""The prepare stage: reads an event log and writes histories, splits and the dataset card.

Steps: read the log, find clicks and purchases, keep each user's first click on each item in time order, hold out
targets by every configured split, write the card, and save everything at once.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from llmrec.config import Config, DataConfig
from llmrec.data.card import Preparation, dataset_card
from llmrec.data.dataset import InteractionData, save_data
from llmrec.data.exposures import find_exposures
from llmrec.data.feedback import feedback
from llmrec.data.histories import choose_users, first_clicks, known_purchases
from llmrec.data.losses import NOT_A_CLICK, REPEATED_CLICK, SHORT_USER, count_losses, examples, summary
from llmrec.data.readers import RawLog, check_log, read_log
from llmrec.data.splits import (
    PARTS,
    Clicks,
    Split,
    given,
    leave_one_out,
    seeded_hash,
    shared_train_lengths,
    temporal,
)
from llmrec.errors import DataError

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

    def finish(self, stage: str, metrics: dict[str, Any]) -> None:
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
        log = read_log(config)
        data = build_data(log, config, config.seed)
        save_data(data, run.path("data"))
    except BaseException:
        # Most failures are fixed in the config. A stage that counts as started would refuse the changed config.
        run.path("data", "started.json").unlink(missing_ok=True)
        with suppress(OSError):  # The folder holds an earlier result, which stays.
            run.path("data").rmdir()
        raise
    counts = {key: data.card[key] for key in (*REPORTED, "losses")}
    warnings = [f"warning: {warning}" for warning in data.card["losses"]["warnings"]]
    if data.card["warnings"]:
        warnings.append(
            f"warnings about the order and overlap of the data: {len(data.card['warnings'])}. "
            "`llmrec prepare --report` prints them."
        )
    run.finish("data", {**counts, "examples": examples(log), "summary": [summary(data.card), *warnings]})


def build_data(log: RawLog, config: DataConfig, seed: int) -> InteractionData:
    """Histories, splits and card of a log. Equal arguments give equal results in every process.

    Items keep the order of the item table and include items without events. Users are sorted by id, with digits
    compared as numbers.

    Args:
        log: the result of a reader.
        config: its rules, splits and `min_user_events` are used.
        seed: orders equal timestamps and draws the targets of the temporal split.

    Raises:
        ConfigError: a rule cannot be used with this log.
        DataError: no event is a click, a user has too few clicks, a split leaves no targets or no training data, or
            `check_log` fails.
    """
    log = check_log(log)
    clicks, purchases = feedback(log.events, config.click, config.purchase)
    if not clicks.any():
        raise DataError(_explain_no_clicks(log, config))
    if "given" in config.splits:
        check_given(log)
    item_index = pd.Index(log.items["item_id"])
    items = item_index.get_indexer(pd.Index(log.events["item_id"]))
    events = log.events.assign(item=items, click=clicks, purchase=purchases)
    history = first_clicks(events, seed)
    user_ids, dropped = choose_users(events["user_id"].unique(), history["user_id"], config)
    user_index = pd.Index(user_ids)
    all_events = events
    events = _number_users(all_events, user_index)
    history = _number_users(history, user_index).sort_values("user", kind="stable", ignore_index=True)
    lengths = np.bincount(history["user"], minlength=len(user_ids))
    splits = make_splits(history, lengths, config, seed)
    train_lengths = shared_train_lengths(splits.values())
    history["purchase"] = known_purchases(history, lengths, train_lengths)
    ends = np.cumsum(lengths)[:-1]
    data = InteractionData(
        items=log.items.reset_index(drop=True),
        users=_user_table(log, user_index),
        facts=_fact_table(log, item_index),
        histories=np.split(history["item"].to_numpy(), ends),
        purchases=np.split(history["purchase"].to_numpy(), ends),
        timestamps=np.split(history["timestamp"].to_numpy(), ends),
        train_lengths=train_lengths,
        targets={name: split.targets for name, split in splits.items()},
        exposures=find_exposures(events),
        bought_at=np.split(history["bought_at"].to_numpy(), ends),
    )
    _check_splits(data)
    by_rule = {
        SHORT_USER: len(all_events) - len(events),
        NOT_A_CLICK: int((~events["click"]).sum()),
        REPEATED_CLICK: int(events["click"].sum()) - len(history),
    }
    losses = count_losses(log, data, by_rule, config)
    preparation = Preparation(events, splits, dropped_users=dropped, seed=seed, timed=log.timed, losses=losses)
    return replace(data, card=dataset_card(data, config, preparation))


def _explain_no_clicks(log: RawLog, config: DataConfig) -> str:
    types = ", ".join(sorted(log.events["event_type"].unique())[:20])
    ratings = ""
    if "rating" in log.events and log.events["rating"].notna().any():
        ratings = f", its ratings go from {log.events['rating'].min():g} to {log.events['rating'].max():g}"
    return (
        f"{log.event_source.path}: no event matches a rule of `data.click` ({', '.join(config.click)}) or "
        f"`data.purchase` ({', '.join(config.purchase)}); expected at least one. The log's event types are "
        f"{types}{ratings}: change the rules."
    )


def _number_users(frame: pd.DataFrame, user_index: pd.Index) -> pd.DataFrame:
    """Adds the user index as `user` and drops the rows of other users."""
    users = user_index.get_indexer(pd.Index(frame["user_id"]))
    return frame.assign(user=users)[users >= 0]


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


def make_splits(history: pd.DataFrame, lengths: np.ndarray, config: DataConfig, seed: int) -> dict[str, Split]:
    """The configured splits by name.

    Args:
        history: rows of `user, user_id, item_id, timestamp, part`, sorted by user and time.
        lengths: clicks of each user, int64 [U].
        config: names and sizes of the splits.
        seed: seed of the draw of targets.

    Raises:
        DataError: the log's own split does not follow time.
    """
    clicks = Clicks(
        users=history["user"].to_numpy(),
        timestamps=history["timestamp"].to_numpy(),
        parts=history["part"].to_numpy(),
        num_users=len(lengths),
    )
    splits: dict[str, Split] = {}
    for name in config.splits:
        if name == "leave_one_out":
            splits[name] = leave_one_out(lengths)
        elif name == "given":
            _check_parts_follow_time(history, clicks)
            draws = seeded_hash(seed, "given", history["user_id"], history["user_id"])
            splits[name] = given(clicks, draws, valid_share=config.given_valid)
        else:
            splits[name] = temporal(
                clicks,
                seeded_hash(seed, "targets", history["user_id"], history["item_id"]),
                valid=config.temporal_valid,
                test=config.temporal_test,
                targets_per_user=config.targets_per_user,
            )
    return splits


def check_given(log: RawLog) -> None:
    """Checks that a log says which part each event belongs to.

    Raises:
        DataError: there is no column `split`, or it holds a value that is not in `PARTS`.
    """
    if "split" not in log.events:
        raise DataError(
            f"{log.event_source.path}: `data.splits` names `given`, but there is no column `split`; expected a column "
            f"with {', '.join(PARTS)}. Add it, name it in `data.columns.split`, or choose other splits."
        )
    bad = ~log.events["split"].isin(PARTS)
    if bad.any():
        fix = "Correct it, or choose other splits in `data.splits`."
        raise log.event_source.error(log.events["split"], bad, f"one of {', '.join(PARTS)}", fix)


def _check_parts_follow_time(history: pd.DataFrame, clicks: Clicks) -> None:
    falls = np.flatnonzero((np.diff(clicks.parts) < 0) & (np.diff(clicks.users) == 0))
    if len(falls):
        earlier, later = (PARTS[part] for part in clicks.parts[falls[0] : falls[0] + 2])
        raise DataError(
            f"User {history['user_id'][falls[0]]!r} has a click marked `{earlier}` before one marked `{later}`; "
            "expected train before valid before test in the time of each user. "
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

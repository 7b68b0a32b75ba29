"""The prepare stage: an event log becomes histories, splits and a dataset card.

Read the log, decide which events are clicks and purchases, keep each user's first click on each item in time
order, hold out by every configured split, describe the result, and write all of it at once.
"""

from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from llmrec.config import DataConfig
from llmrec.data.card import dataset_card
from llmrec.data.dataset import InteractionData, save_data
from llmrec.data.exposures import find_exposures
from llmrec.data.feedback import feedback
from llmrec.data.histories import choose_users, first_clicks, known_purchases
from llmrec.data.readers import RawLog, check_log, read_log
from llmrec.data.splits import PARTS, Split, given, leave_one_out, seeded_hash, shared_train_lengths, temporal
from llmrec.errors import DataError


def prepare_stage(run: Any) -> None:
    """Reads, builds and saves the data of a run.

    Args:
        run: the run; its `config`, `begin`, `path` and `finish` are used.

    Raises:
        UserError: what the config names cannot be used; nothing is written then.
    """
    config = run.config
    run.begin("data")
    try:
        data = build_data(read_log(config.data), config.data, config.data.seed)
        save_data(data, run.path("data"))
    except BaseException:
        # Most failures are mended in the config, and a stage that counts as begun refuses another config.
        run.path("data", "started.json").unlink(missing_ok=True)
        with suppress(OSError):  # not empty: an earlier result, which stays
            run.path("data").rmdir()
        raise
    keys = ("users", "items", "events", "clicks", "purchases", "train_clicks", "density")
    run.finish("data", {key: data.card[key] for key in keys})


def build_data(log: RawLog, config: DataConfig, seed: int) -> InteractionData:
    """Histories, splits and card of a log. The same log, config and seed give the same result in every
    process.

    Items keep the order of the item table, also those without events; users are sorted by id, numbers
    numerically.

    Args:
        log: what a reader returned.
        config: the rules, splits and `min_user_events`.
        seed: breaks ties in time and draws the targets of the temporal split.

    Raises:
        ConfigError: a rule cannot be used with this log.
        DataError: see `check_log`; no event is a click, a user has too few, or a split leaves nothing.
    """
    check_log(log)
    clicks, purchases = feedback(log.events, config.click, config.purchase)
    if not clicks.any():
        raise DataError(_explain_no_clicks(log, config))
    item_index = pd.Index(log.items["item_id"])
    events = log.events.assign(item=item_index.get_indexer(log.events["item_id"]), click=clicks, purchase=purchases)
    if "given" in config.splits:
        check_given(log)
    history = first_clicks(events, seed)
    user_ids, dropped = choose_users(events["user_id"].unique(), history["user_id"], config)
    user_index = pd.Index(user_ids)
    events, history = _number_users(events, user_index), _number_users(history, user_index)
    history = history.sort_values("user", kind="stable", ignore_index=True)
    lengths = np.bincount(history["user"], minlength=len(user_ids))
    splits = make_splits(history, lengths, config, seed)
    ends = np.cumsum(lengths)[:-1]
    train_lengths = shared_train_lengths(splits.values())
    history["purchase"] = known_purchases(history, lengths, train_lengths)
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
    data.card.update(dataset_card(data, events, splits, dropped, config, seed, log.timed))
    return data


def _number_users(frame: pd.DataFrame, user_index: pd.Index) -> pd.DataFrame:
    """Adds the user index as `user` and drops rows of other users."""
    users = user_index.get_indexer(frame["user_id"])
    return frame.assign(user=users)[users >= 0]


def make_splits(history: pd.DataFrame, lengths: np.ndarray, config: DataConfig, seed: int) -> dict[str, Split]:
    """The configured splits, by name.

    Args:
        history: rows of `user, user_id, item_id, timestamp, part`, sorted by user and time.
        lengths: of each history, int64 [U].
        config: which splits, and their sizes.
        seed: of the draw of targets.

    Raises:
        DataError: the log's own split does not follow time.
    """
    splits = {}
    for name in config.splits:
        if name == "leave_one_out":
            splits[name] = leave_one_out(lengths)
            continue
        if name == "given":
            splits[name] = _given(history, lengths, config.given_valid, seed)
            continue
        splits[name] = temporal(
            history["user"].to_numpy(),
            history["timestamp"].to_numpy(),
            seeded_hash(seed, "targets", history["user_id"], history["item_id"]),
            num_users=len(lengths),
            valid=config.temporal_valid,
            test=config.temporal_test,
            targets_per_user=config.targets_per_user,
        )
    return splits


def _given(history: pd.DataFrame, lengths: np.ndarray, valid_share: float, seed: int) -> Split:
    users, parts = history["user"].to_numpy(), history["part"].to_numpy()
    falls = np.flatnonzero((np.diff(parts) < 0) & (np.diff(users) == 0))
    if len(falls):
        raise DataError(
            f"User {history['user_id'][falls[0]]!r} has a click marked `{PARTS[parts[falls[0]]]}` before one marked "
            f"`{PARTS[parts[falls[0] + 1]]}`; expected train before valid before test in the time of each user. "
            "Correct the column `split`, or set `data.splits` to [temporal, leave_one_out]."
        )
    draws = seeded_hash(seed, "given", history["user_id"], history["user_id"])
    return given(users, parts, draws, num_users=len(lengths), valid_share=valid_share)


def check_given(log: RawLog) -> None:
    """Whether a log says which part each event belongs to.

    Raises:
        DataError: there is no column `split`, or a value in it is none of `PARTS`.
    """
    if "split" not in log.events:
        raise DataError(
            f"{log.event_source.path}: `data.splits` names `given`, but there is no column `split` with "
            f"{', '.join(PARTS)} in it. Add it, name it in `data.columns.split`, or choose other splits."
        )
    bad = ~log.events["split"].isin(PARTS)
    if bad.any():
        raise log.event_source.error(log.events["split"], bad, f"one of {', '.join(PARTS)}", "Correct it.")


def _check_splits(data: InteractionData) -> None:
    for name, parts in data.targets.items():
        for part, targets in parts.items():
            if len(targets) == 0:
                more = f"Mark more clicks as {part}" if name == "given" else f"Raise `data.temporal_{part}`"
                raise DataError(
                    f"The {name} split has no {part} targets: no user clicked something in that window and "
                    f"something else before. {more}, or take `{name}` out of `data.splits`."
                )
    if not data.train_lengths.any():
        raise DataError(
            "The splits leave no training data: all clicks are in the validation and test windows (do the "
            "timestamps differ?). Lower `data.temporal_valid` and `data.temporal_test`, or take `temporal` "
            "out of `data.splits`."
        )


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


def _user_table(log: RawLog, user_index: pd.Index) -> pd.DataFrame:
    attributes = log.users.set_index("user_id").reindex(user_index).fillna("")
    return attributes.rename_axis("user_id").reset_index().astype("str")


def _fact_table(log: RawLog, item_index: pd.Index) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "item": item_index.get_indexer(log.facts["head"]).astype("int64"),
            "relation": log.facts["relation"].astype("str").to_numpy(),
            "tail": log.facts["tail"].astype("str").to_numpy(),
            "named": log.facts["named"].astype(bool).to_numpy(),
        }
    )

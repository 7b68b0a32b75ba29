"""The prepared data that every later stage reads: histories, items, users, facts and split targets."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from llmrec.errors import RunError
from llmrec.files import atomic_directory, read_json, write_json


@dataclass(frozen=True)
class Targets:
    """Prediction targets of one split part: predict item `histories[users[m]][positions[m]]` from what is
    before it.

    Attributes:
        users: user index of each target, int64 [M].
        positions: position of the target in its user's history, int64 [M].
    """

    users: np.ndarray
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class InteractionData:
    """A prepared event log; users and items are indices 0..U-1 and 0..N-1 from here on.

    A history holds a user's first click on each item in time order, ties broken by the seeded hash. Its first
    `train_lengths[u]` items are training data; the rest is held out by at least one split.

    Attributes:
        items: [N] rows: `item_id, title, categories (list of str), year (Int64, may be NA)` and whatever else
            the item table had.
        users: [U] rows: `user_id` and the user table's attributes, as text, "" where there is none.
        facts: rows of `item (int), relation (str), tail (str)`: what is known of an item beyond its own
            columns. `tail` may be an opaque entity id; `named` (bool) says whether it reads as a name.
        histories: per user, item indices [n_u].
        purchases: per user, whether the user also purchased the item, bool [n_u]; of the training part, before the
            first held-out click, of the rest ever. What was known at a time: `purchases_before`.
        timestamps: per user, seconds since 1970 of the click, int64 [n_u].
        train_lengths: items of each history that are training data, int64 [U].
        targets: by split (`temporal`, `leave_one_out`, `given`) and part (`valid`, `test`).
        exposures: rows of `user, item, timestamp, click (bool), position (Int64), propensity (float64)`:
            logged impressions, if any, in time order; the last two may be missing.
        bought_at: per user, seconds since 1970 of the first purchase of the item, NaN without one, float64 [n_u]; empty
            if purchases happen with the click.
        card: the dataset card, as JSON values.
    """

    items: pd.DataFrame
    users: pd.DataFrame
    facts: pd.DataFrame
    histories: list[np.ndarray]
    purchases: list[np.ndarray]
    timestamps: list[np.ndarray]
    train_lengths: np.ndarray
    targets: dict[str, dict[str, Targets]]
    exposures: pd.DataFrame = field(default_factory=pd.DataFrame)
    bought_at: list[np.ndarray] = field(default_factory=list)
    card: dict = field(default_factory=dict)

    @property
    def num_items(self) -> int:
        return len(self.items)

    @property
    def num_users(self) -> int:
        return len(self.users)

    @cached_property
    def train_histories(self) -> list[np.ndarray]:
        """The training part of every history."""
        return [history[:length] for history, length in zip(self.histories, self.train_lengths, strict=True)]

    def purchases_before(self, user: int, position: int) -> np.ndarray:
        """Which of a user's first `position` items were known to be purchased when the next was clicked, bool.

        At the end of a history, all purchases are known.
        """
        if not self.bought_at:
            return self.purchases[user][:position]
        at_the_end = position == len(self.histories[user])
        return self.bought_at[user][:position] <= (np.inf if at_the_end else self.timestamps[user][position])

    def temporal_cuts(self) -> tuple[float, float]:
        """When the temporal split's validation and test start, in seconds; infinity without such a split."""
        parts = self.targets.get("temporal", {})

        def first(part: str) -> float:
            targets = parts.get(part, Targets(*[np.array([], int)] * 2))
            times = [self.timestamps[u][p] for u, p in zip(targets.users, targets.positions, strict=True)]
            return float(min(times, default=np.inf))

        return first("valid"), first("test")

    def selection_targets(self) -> Targets:
        """Validation targets on which models are chosen and calibrated, whatever split they are tested on.

        Those of leave-one-out where there is one, without the events that the temporal split tests on: a choice
        must not have seen the time that it is tested in. Where that leaves none, those of the temporal split.
        """
        if not len(self.targets.get("leave_one_out", {}).get("valid", ())):
            return next(iter(self.targets.values()))["valid"]
        valid, cut = self.targets["leave_one_out"]["valid"], self.temporal_cuts()[1]
        times = np.array([self.timestamps[u][p] for u, p in zip(valid.users, valid.positions, strict=True)])
        if (times < cut).any():
            return Targets(valid.users[times < cut], valid.positions[times < cut])
        return self.targets["temporal"]["valid"]

    @cached_property
    def item_index(self) -> dict[str, int]:
        """Item id to item index."""
        return {item: index for index, item in enumerate(self.items["item_id"])}

    @cached_property
    def user_index(self) -> dict[str, int]:
        """User id to user index."""
        return {user: index for index, user in enumerate(self.users["user_id"])}


def _flat(data: InteractionData) -> pd.DataFrame:
    """All clicks of all histories, one row each."""
    lengths = [len(history) for history in data.histories]
    users = np.repeat(np.arange(data.num_users), lengths)
    positions = np.concatenate([np.arange(n) for n in lengths])
    bought_at = {"bought_at": np.concatenate(data.bought_at)} if data.bought_at else {}
    return pd.DataFrame(
        {
            "user": users,
            "item": np.concatenate(data.histories),
            "timestamp": np.concatenate(data.timestamps),
            "purchase": np.concatenate(data.purchases),
            **bought_at,
            "train": positions < data.train_lengths[users],
        }
    )


def save_data(data: InteractionData, directory: str | Path) -> None:
    """Writes the data as Parquet files and `card.json`, all of them or, on failure, nothing.

    Args:
        data: the data; every user has at least one click.
        directory: the run's `data/`; replaced if it exists.

    Raises:
        UserError: the disk is full or the place is not writable.
    """
    targets = [
        pd.DataFrame({"split": split, "part": part, "user": t.users, "position": t.positions})
        for split, parts in data.targets.items()
        for part, t in parts.items()
    ]
    frames = {
        "events": _flat(data),
        "items": data.items,
        "users": data.users,
        "facts": data.facts,
        "targets": pd.concat(targets, ignore_index=True),
    }
    if len(data.exposures):
        frames["exposures"] = data.exposures
    with atomic_directory(directory) as temporary:
        for name, frame in frames.items():
            frame.to_parquet(temporary / f"{name}.parquet", index=False)
        write_json(temporary / "card.json", data.card)


def load_data(directory: str | Path) -> InteractionData:
    """Reads what the prepare stage wrote.

    Args:
        directory: the run's `data/`.

    Raises:
        RunError: the prepare stage has not finished there, or its files are damaged.
    """
    directory = Path(directory)
    if not (directory / "card.json").is_file():
        raise RunError(f"{directory} holds no prepared data: run the prepare stage first.")
    try:
        events, items, users, facts, targets = (
            pd.read_parquet(directory / f"{name}.parquet") for name in ("events", "items", "users", "facts", "targets")
        )
        exposures_path = directory / "exposures.parquet"
        exposures = pd.read_parquet(exposures_path) if exposures_path.is_file() else pd.DataFrame()
        card = read_json(directory / "card.json")
    except (OSError, ValueError) as error:  # pyarrow's and json's errors are one of these
        raise RunError(f"{directory} is damaged ({error}): delete it and run the prepare stage again.") from None
    items["categories"] = pd.Series([list(values) for values in items["categories"]], dtype=object)
    starts = np.searchsorted(events["user"], np.arange(1, len(users)))
    parts: dict[str, dict[str, Targets]] = {}
    for (split, part), rows in targets.groupby(["split", "part"], sort=False):
        parts.setdefault(split, {})[part] = Targets(rows["user"].to_numpy(), rows["position"].to_numpy())
    return InteractionData(
        items=items,
        users=users,
        facts=facts,
        histories=np.split(events["item"].to_numpy(), starts),
        purchases=np.split(events["purchase"].to_numpy(), starts),
        bought_at=np.split(events["bought_at"].to_numpy(), starts) if "bought_at" in events else [],
        timestamps=np.split(events["timestamp"].to_numpy(), starts),
        train_lengths=np.bincount(events["user"][events["train"]], minlength=len(users)),
        targets=parts,
        exposures=exposures,
        card=card,
    )

"""The prepared data that every later stage reads: histories, items, users, facts and split targets."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from llmrec.errors import RunError


@dataclass(frozen=True)
class Targets:
    """Prediction targets of one split part: predict item `histories[users[m]][positions[m]]` from what is before it.

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
        items: [N] rows: `item_id, title, categories (list of str), year (Int64, may be NA)` and whatever else the
            item table had.
        users: [U] rows: `user_id` and the user table's attributes, as text.
        facts: rows of `item (int), relation (str), tail (str)`: what is known of an item beyond its own columns.
            `tail` may be an opaque entity id; `named` (bool) says whether it reads as a name.
        histories: per user, item indices [n_u].
        purchases: per user, whether the user also purchased the item, bool [n_u].
        timestamps: per user, seconds since 1970 of the click, int64 [n_u].
        train_lengths: items of each history that are training data, int64 [U].
        targets: by split (`temporal`, `leave_one_out`) and part (`valid`, `test`).
        exposures: rows of `user, item, timestamp, click (bool), position, propensity`: logged impressions, if any.
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

    @cached_property
    def item_index(self) -> dict[str, int]:
        """Item id to item index."""
        return {item: index for index, item in enumerate(self.items["item_id"])}

    @cached_property
    def user_index(self) -> dict[str, int]:
        """User id to user index."""
        return {user: index for index, user in enumerate(self.users["user_id"])}


def load_data(directory: str | Path) -> InteractionData:
    """Reads what the prepare stage wrote.

    Args:
        directory: the run's `data/`.

    Raises:
        RunError: the prepare stage has not finished there.
    """
    raise NotImplementedError

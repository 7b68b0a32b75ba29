"""Training events of a log, and batches of windows in which every event is predicted from the events before it."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmrec.data.dataset import InteractionData
from llmrec.data.ragged import Ragged
from llmrec.errors import DataError
from reward_models.click_purchase import UNKNOWN
from reward_models.features import item_words, profile_words

# Shares of windows whose purchases or profile are hidden, so that the model also learns the unknown state.
HIDE_PURCHASES = 0.1
HIDE_PROFILE = 0.3


@dataclass(frozen=True)
class TrainingEvents:
    """The training part of a log, for the users that a model may see.

    Attributes:
        histories: item indices of each user in time order, int64 [n_u]; views of the log.
        purchases: whether each item was purchased, bool [n_u]; views of the log.
        profiles: profile words of each user, int64 [U, P].
        words: words of each item, int64 [N, W].
        has_purchases: whether the log distinguishes purchases from clicks.
    """

    histories: Ragged
    purchases: Ragged
    profiles: np.ndarray
    words: np.ndarray
    has_purchases: bool

    @property
    def num_events(self) -> int:
        """Number of clicks."""
        return int(self.histories.lengths.sum())

    @property
    def num_items(self) -> int:
        """Size N of the catalogue."""
        return len(self.words)


def training_events(data: InteractionData, users: np.ndarray | None = None) -> TrainingEvents:
    """Reads and checks the training events of some users.

    Args:
        data: the prepared log.
        users: user indices; None means all.

    Raises:
        DataError: there are no events, an item is outside the catalogue, or purchase flags are malformed. Also if all
            or no events are purchases although the config has a rule for purchases.
    """
    users = np.arange(data.num_users) if users is None else np.asarray(users)
    histories = data.train_histories.select(users)
    purchases = Ragged.of(data.purchases).select(users)
    _check_lengths(data, users, histories.lengths, purchases.lengths)
    purchases = purchases.first(histories.lengths)
    total = int(histories.lengths.sum())
    purchased = 0
    start = 0
    for items, flags in zip(histories.parts(), purchases.parts(), strict=True):
        _check_values(data, users[start : start + len(items)], items, flags)
        purchased += int(flags.flat().sum())
        start += len(items)
    if not total:
        raise DataError("No training events: use a longer log, or smaller `temporal_valid` and `temporal_test`.")
    has_purchases = data.card.get("rules", {}).get("purchase") != []
    if has_purchases and purchased in (0, total):
        found = "no click is" if not purchased else "every click is"
        raise DataError(
            f"Among {total} training clicks {found} a purchase, so purchases cannot be told from clicks. "
            "Change the rules `data.click` and `data.purchase` so that some clicks "
            "are purchases and some are not, or set `data.purchase: []` if the log has no purchases."
        )
    return TrainingEvents(
        histories=histories,
        purchases=Ragged(purchases.values.astype(bool, copy=False), purchases.starts, purchases.stops),
        profiles=profile_words(data.users)[users],
        words=item_words(data.items),
        has_purchases=has_purchases,
    )


def _name(data: InteractionData, user: Any) -> Any:
    """The id of a user by index; the index if the users have no ids."""
    return data.users["user_id"].iloc[int(user)] if "user_id" in data.users else user


def _check_lengths(data: InteractionData, users: np.ndarray, clicks: np.ndarray, flags: np.ndarray) -> None:
    short = np.flatnonzero(flags < clicks)
    if len(short):
        row = short[0]
        raise DataError(
            f"User {_name(data, users[row])}: {clicks[row]} training clicks but {flags[row]} purchase flags. Run the "
            "prepare stage again."
        )


def _check_values(data: InteractionData, users: np.ndarray, histories: Ragged, purchases: Ragged) -> None:
    """Checks the items and the purchase flags of some users."""
    items = histories.flat()
    flags = purchases.flat()
    owner = np.repeat(users, histories.lengths)
    outside = (items < 0) | (items >= data.num_items)
    if outside.any():
        raise DataError(
            f"User {_name(data, owner[outside][0])}: the history holds an item index outside 0..{data.num_items - 1}. "
            "Run the prepare stage again."
        )
    wrong = ~np.isin(flags, (0, 1)) if flags.dtype != bool else np.zeros(len(flags), dtype=bool)
    if wrong.any():
        raise DataError(
            f"User {_name(data, owner[wrong][0])}: a purchase flag is {flags[wrong][0]}, expected true or false. "
            "Run the prepare stage again."
        )


@dataclass(frozen=True)
class Batch:
    """B windows of at most T targets, left-aligned.

    Attributes:
        history: items that are read, int64 [B, T - 1]; target t is predicted from the items before position t.
        purchased: purchase flags of `history`, or `UNKNOWN`, int64 [B, T - 1].
        targets: items that are predicted, int64 [B, T].
        target_purchased: whether each target was purchased, float [B, T].
        mask: bool [B, T], False at padding.
        positions: position of each target in its user's history, int32 [B, T].
        first: position at which each item first stands in the user's history, int32 [B, N]; larger than every position
            if it does not.
        profiles: profile words, int64 [B, P]; 0 where the profile is hidden.
    """

    history: Tensor
    purchased: Tensor
    targets: Tensor
    target_purchased: Tensor
    mask: Tensor
    positions: Tensor
    first: Tensor
    profiles: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return Batch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def collate(events: TrainingEvents, pieces: np.ndarray, rng: np.random.Generator) -> Batch:
    """Makes a batch of windows.

    Args:
        events: the training events.
        pieces: user, start and end of each window, as `data.windows.cut_windows` gives them, int [B, 3].
        rng: draws which profiles and purchases are hidden.
    """
    rows = len(pieces)
    width = int((pieces[:, 2] - pieces[:, 1]).max())
    targets = np.zeros((rows, width), np.int64)
    target_purchased = np.zeros((rows, width), np.float32)
    mask = np.zeros((rows, width), bool)
    positions = np.zeros((rows, width), np.int32)
    purchased = np.full((rows, width - 1), UNKNOWN, np.int64)
    first = np.full((rows, events.num_items), np.iinfo(np.int32).max, np.int32)
    profiles = events.profiles[pieces[:, 0]]
    profiles = profiles * (rng.random((rows, 1)) >= HIDE_PROFILE)
    for row, (user, start, end) in enumerate(pieces.tolist()):
        history = events.histories[user]
        flags = events.purchases[user]
        size = end - start
        targets[row, :size] = history[start:end]
        target_purchased[row, :size] = flags[start:end]
        mask[row, :size] = True
        positions[row, :size] = np.arange(start, end)
        # Written backwards, so that the first position of an item that occurs twice is kept.
        first[row, history[:end][::-1]] = np.arange(end)[::-1]
        if rng.random() >= HIDE_PURCHASES:
            purchased[row, : size - 1] = flags[start : end - 1]
    return Batch(
        history=torch.from_numpy(targets[:, :-1] * mask[:, 1:]),
        purchased=torch.from_numpy(purchased),
        targets=torch.from_numpy(targets),
        target_purchased=torch.from_numpy(target_purchased),
        mask=torch.from_numpy(mask),
        positions=torch.from_numpy(positions),
        first=torch.from_numpy(first),
        profiles=torch.from_numpy(profiles),
    )

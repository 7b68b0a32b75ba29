"""Training events of a log, and batches of windows in which every event is predicted from the events before it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from llmrec.data.dataset import InteractionData
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
        histories: item indices of each user in time order, int64 [n_u].
        purchases: whether each item was purchased, bool [n_u].
        profiles: profile words of each user, int64 [U, P].
        words: words of each item, int64 [N, W].
        has_purchases: whether the log distinguishes purchases from clicks.
    """

    histories: list[np.ndarray]
    purchases: list[np.ndarray]
    profiles: np.ndarray
    words: np.ndarray
    has_purchases: bool

    @property
    def num_events(self) -> int:
        """Number of clicks."""
        return sum(map(len, self.histories))

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
    histories = [np.asarray(data.train_histories[user]) for user in users]
    purchases = [np.asarray(data.purchases[user])[: len(data.train_histories[user])] for user in users]
    for user, history, flags in zip(users, histories, purchases, strict=True):
        _check_user(data, int(user), history, flags)
    total = sum(map(len, histories))
    purchased = int(sum(flags.sum() for flags in purchases))
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
        purchases=[flags.astype(bool) for flags in purchases],
        profiles=profile_words(data.users)[users],
        words=item_words(data.items),
        has_purchases=has_purchases,
    )


def _check_user(data: InteractionData, user: int, history: np.ndarray, flags: np.ndarray) -> None:
    name = data.users["user_id"].iloc[user] if "user_id" in data.users else user
    if len(history) and (history.min() < 0 or history.max() >= data.num_items):
        raise DataError(
            f"User {name}: the history holds an item index outside 0..{data.num_items - 1}. "
            "Run the prepare stage again."
        )
    if len(flags) != len(history):
        raise DataError(
            f"User {name}: {len(history)} training clicks but {len(flags)} purchase flags. Run the prepare stage again."
        )
    if not np.isin(flags, (0, 1)).all():
        wrong = flags[~np.isin(flags, (0, 1))][0]
        raise DataError(
            f"User {name}: a purchase flag is {wrong}, expected true or false. Run the prepare stage again."
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


def collate(events: TrainingEvents, pieces: Sequence[tuple[int, int, int]], rng: np.random.Generator) -> Batch:
    """Makes a batch of windows.

    Args:
        events: the training events.
        pieces: (user, start, end) of each window, as `data.windows.cut_windows` gives them.
        rng: draws which profiles and purchases are hidden.
    """
    rows = len(pieces)
    width = max(end - start for _, start, end in pieces)
    targets = np.zeros((rows, width), np.int64)
    target_purchased = np.zeros((rows, width), np.float32)
    mask = np.zeros((rows, width), bool)
    positions = np.zeros((rows, width), np.int32)
    purchased = np.full((rows, width - 1), UNKNOWN, np.int64)
    first = np.full((rows, events.num_items), np.iinfo(np.int32).max, np.int32)
    profiles = events.profiles[[user for user, _, _ in pieces]]
    profiles = profiles * (rng.random((rows, 1)) >= HIDE_PROFILE)
    for row, (user, start, end) in enumerate(pieces):
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

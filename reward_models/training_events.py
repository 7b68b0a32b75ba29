"""Training windows: pieces of histories in which every event is predicted from what stands before it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from llmrec.data.dataset import InteractionData
from llmrec.errors import DataError
from reward_models.click_purchase import UNKNOWN
from reward_models.features import item_words, profile_words

# Share of windows whose purchases, or whose profile, are hidden, so that "unknown" is trained too.
HIDE_PURCHASES = 0.1
HIDE_PROFILE = 0.3


@dataclass(frozen=True)
class TrainingEvents:
    """The training part of a log, for the users the model may see.

    Attributes:
        histories: item indices in time order, per user [n_u].
        purchases: whether each was purchased, bool [n_u].
        profiles: profile words of each user, int64 [U, P].
        words: words of each item, int64 [N, W].
        has_purchases: whether the log tells purchases from clicks.
    """

    histories: list[np.ndarray]
    purchases: list[np.ndarray]
    profiles: np.ndarray
    words: np.ndarray
    has_purchases: bool

    @property
    def num_events(self) -> int:
        return sum(map(len, self.histories))

    @property
    def num_items(self) -> int:
        return len(self.words)


def training_events(data: InteractionData, users: np.ndarray | None = None) -> TrainingEvents:
    """The training events of some users (None: all), checked.

    Raises:
        DataError: no events, an item outside the catalogue, purchase flags of another length than their
            history or not 0/1, or events of which all or none are purchases although the config has a rule for
            purchases.
    """
    users = np.arange(data.num_users) if users is None else np.asarray(users)
    histories = [np.asarray(data.train_histories[u]) for u in users]
    purchases = [np.asarray(data.purchases[u])[: len(data.train_histories[u])] for u in users]
    for user, history, bought in zip(users, histories, purchases, strict=True):
        _check_user(data, int(user), history, bought)
    total, bought = sum(map(len, histories)), int(sum(p.sum() for p in purchases))
    if not total:
        raise DataError("No training events: use a longer log, or smaller `temporal_valid` and `temporal_test`.")
    has_purchases = data.card.get("rules", {}).get("purchase") != []
    if has_purchases and bought in (0, total):
        found = "no click is" if not bought else "every click is"
        raise DataError(
            f"Among {total} training clicks {found} a purchase, so nothing tells purchases from clicks. "
            "Change the rules `data.click` and `data.purchase` so that some clicks "
            "are purchases and some are not, or set `data.purchase: []` if the log has no purchases."
        )
    profiles, flags = profile_words(data.users)[users], [p.astype(bool) for p in purchases]
    return TrainingEvents(histories, flags, profiles, item_words(data.items), has_purchases)


def _check_user(data: InteractionData, user: int, history: np.ndarray, bought: np.ndarray) -> None:
    name = data.users["user_id"].iloc[user] if "user_id" in data.users else user
    if len(history) and (history.min() < 0 or history.max() >= data.num_items):
        raise DataError(
            f"User {name}: the history holds an item index outside 0..{data.num_items - 1}. "
            "Run the prepare stage again."
        )
    if len(bought) != len(history):
        raise DataError(f"User {name}: {len(history)} training clicks but {len(bought)} purchase flags.")
    if not np.isin(bought, (0, 1)).all():
        wrong = bought[~np.isin(bought, (0, 1))][0]
        raise DataError(f"User {name}: a purchase flag is {wrong}, expected true or false.")


@dataclass(frozen=True)
class Batch:
    """B windows of at most T targets, left-aligned.

    Attributes:
        history: what is read, int64 [B, T - 1]: target t is predicted from items before t.
        purchased: flags of `history`, or UNKNOWN, int64 [B, T - 1].
        targets: int64 [B, T].
        bought: whether each target was purchased, float [B, T].
        mask: bool [B, T], False at padding.
        positions: position of each target in its user's history, int32 [B, T].
        first: position at which each user first had each item, int32 [B, N]; beyond every position if never.
        profiles: profile words, int64 [B, P]; 0 where the window's are hidden.
    """

    history: Tensor
    purchased: Tensor
    targets: Tensor
    bought: Tensor
    mask: Tensor
    positions: Tensor
    first: Tensor
    profiles: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return Batch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def collate(events: TrainingEvents, pieces: Sequence[tuple[int, int, int]], rng: np.random.Generator) -> Batch:
    """Makes a batch of windows (user, start, end)."""
    rows, width = len(pieces), max(end - start for _, start, end in pieces)
    targets, bought = np.zeros((rows, width), np.int64), np.zeros((rows, width), np.float32)
    mask, positions = np.zeros((rows, width), bool), np.zeros((rows, width), np.int32)
    purchased = np.full((rows, width - 1), UNKNOWN, np.int64)
    first = np.full((rows, events.num_items), np.iinfo(np.int32).max, np.int32)
    profiles = events.profiles[[user for user, _, _ in pieces]]
    profiles = profiles * (rng.random((rows, 1)) >= HIDE_PROFILE)
    for row, (user, start, end) in enumerate(pieces):
        history, flags, size = events.histories[user], events.purchases[user], end - start
        targets[row, :size], bought[row, :size] = history[start:end], flags[start:end]
        mask[row, :size], positions[row, :size] = True, np.arange(start, end)
        # Backwards, so that of an item that occurs twice the first position stays.
        first[row, history[:end][::-1]] = np.arange(end)[::-1]
        if rng.random() >= HIDE_PURCHASES:
            purchased[row, : size - 1] = flags[start : end - 1]
    arrays = (targets[:, :-1] * mask[:, 1:], purchased, targets, bought, mask, positions, first, profiles)
    return Batch(*map(torch.from_numpy, arrays))

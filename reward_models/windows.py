"""Training windows: pieces of histories in which every event is predicted from what stands before it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from llmrec.data.dataset import InteractionData
from llmrec.errors import DataError
from reward_models.click_purchase import UNKNOWN

# Share of windows whose purchases are hidden, so that the "unknown" embedding is trained.
HIDE_PURCHASES = 0.1


@dataclass(frozen=True)
class TrainingEvents:
    """The training part of a log, for the users the model may see.

    Attributes:
        histories: item indices in time order, per user [n_u].
        purchases: whether each was purchased, bool [n_u].
        skipped: per user, logged exposures that were not clicked: int64 [m_u, 2] of (number of clicks before
            it, item), ascending. Only those with a later training click are kept: that is what the user took
            instead.
        num_items: size N of the catalogue.
    """

    histories: list[np.ndarray]
    purchases: list[np.ndarray]
    skipped: list[np.ndarray]
    num_items: int

    def take(self, users: np.ndarray) -> "TrainingEvents":
        """The events of some users, by their places here."""
        parts = ([values[user] for user in users] for values in (self.histories, self.purchases, self.skipped))
        return TrainingEvents(*parts, self.num_items)

    @property
    def num_events(self) -> int:
        return sum(map(len, self.histories))

    @property
    def num_skipped(self) -> int:
        return sum(map(len, self.skipped))


def training_events(data: InteractionData, users: np.ndarray | None = None) -> TrainingEvents:
    """The training events of some users (None: all), checked.

    Raises:
        DataError: no events, an item outside the catalogue, purchase flags of another length than their
            history or not 0/1, or events of which all or none are purchases.
    """
    users = np.arange(data.num_users) if users is None else np.asarray(users)
    histories = [np.asarray(data.train_histories[u]) for u in users]
    purchases = [np.asarray(data.purchases[u])[: len(data.train_histories[u])] for u in users]
    for user, history, bought in zip(users, histories, purchases, strict=True):
        _check_user(data, int(user), history, bought)
    total, bought = sum(map(len, histories)), int(sum(p.sum() for p in purchases))
    if not total:
        raise DataError("No training events: use a longer log, or smaller `temporal_valid` and `temporal_test`.")
    if bought in (0, total):
        found = "no click is" if not bought else "every click is"
        raise DataError(
            f"Among {total} training clicks {found} a purchase, so nothing tells purchases from clicks. "
            "Change the rules `data.click` and `data.purchase` so that some clicks "
            "are purchases and some are not."
        )
    skipped = _skipped(data, users)
    return TrainingEvents(histories, [p.astype(bool) for p in purchases], skipped, data.num_items)


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


def _skipped(data: InteractionData, users: np.ndarray) -> list[np.ndarray]:
    """See `TrainingEvents.skipped`."""
    empty = np.zeros((0, 2), dtype=np.int64)
    exposures = data.exposures
    if exposures is None or not len(exposures):
        return [empty] * len(users)
    exposures = exposures[~exposures["click"].astype(bool)]
    by_user: dict[int, pd.DataFrame] = dict(iter(exposures.groupby("user")))
    result = []
    for user in users:
        rows = by_user.get(int(user))
        if rows is None:
            result.append(empty)
            continue
        length = int(data.train_lengths[user])
        before = np.searchsorted(data.timestamps[user][:length], rows["timestamp"].to_numpy(), side="left")
        pairs = np.stack([before, rows["item"].to_numpy(dtype=np.int64)], axis=1)[before < length]
        first = {int(item): position for position, item in enumerate(data.train_histories[user])}
        # Already had, or the very item taken next: neither was turned down.
        keep = [first.get(int(item), length) > position for position, item in pairs]
        pairs = np.unique(pairs[np.array(keep, dtype=bool)], axis=0) if len(pairs) else empty
        result.append(pairs)
    return result


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
        skipped: int64 [S, 3] of (row, column, item): turned down where target (row, column) was taken.
    """

    history: Tensor
    purchased: Tensor
    targets: Tensor
    bought: Tensor
    mask: Tensor
    positions: Tensor
    first: Tensor
    skipped: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return Batch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def cut_windows(histories: Sequence[np.ndarray], window: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """(user, start, end) of pieces of `window + 1` targets that cover every event once, in random order.

    Cuts of histories longer than that fall anywhere, another place every epoch, so that every event is
    sometimes predicted from a long history.
    """
    size, pieces = window + 1, []
    for user, history in enumerate(histories):
        offset = int(rng.integers(1, size + 1)) if len(history) > size else size
        edges = [0, *range(offset, len(history), size), len(history)]
        pieces += [(user, start, end) for start, end in zip(edges, edges[1:], strict=False) if end > start]
    return [pieces[i] for i in rng.permutation(len(pieces))]


def collate(events: TrainingEvents, pieces: Sequence[tuple[int, int, int]], rng: np.random.Generator) -> Batch:
    """Makes a batch of windows (user, start, end)."""
    rows, width = len(pieces), max(end - start for _, start, end in pieces)
    targets, bought = np.zeros((rows, width), np.int64), np.zeros((rows, width), np.float32)
    mask, positions = np.zeros((rows, width), bool), np.zeros((rows, width), np.int32)
    purchased = np.full((rows, width - 1), UNKNOWN, np.int64)
    first = np.full((rows, events.num_items), np.iinfo(np.int32).max, np.int32)
    skipped = [np.zeros((0, 3), np.int64)]
    for row, (user, start, end) in enumerate(pieces):
        history, flags, size = events.histories[user], events.purchases[user], end - start
        targets[row, :size], bought[row, :size] = history[start:end], flags[start:end]
        mask[row, :size], positions[row, :size] = True, np.arange(start, end)
        # Backwards, so that of an item that occurs twice the first position stays.
        first[row, history[:end][::-1]] = np.arange(end)[::-1]
        if rng.random() >= HIDE_PURCHASES:
            purchased[row, : size - 1] = flags[start : end - 1]
        pairs = events.skipped[user]
        pairs = pairs[(pairs[:, 0] >= start) & (pairs[:, 0] < end)]
        skipped.append(np.insert(pairs - [start, 0], 0, row, axis=1))
    arrays = (targets[:, :-1] * mask[:, 1:], purchased, targets, bought, mask, positions, first)
    return Batch(*map(torch.from_numpy, arrays), torch.from_numpy(np.concatenate(skipped)))

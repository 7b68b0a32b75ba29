"""Splits: which clicks of a history are training data and which are prediction targets.

All functions are pure and work on flat arrays of E clicks, sorted by user and, within a user, by time.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from llmrec.data.dataset import Targets

PARTS = ("train", "valid", "test")
_HASHED_AT_A_TIME = 1_000_000  # pairs whose texts are in memory


@dataclass(frozen=True)
class Clicks:
    """All clicks of all users, sorted by user and, within a user, by time.

    Attributes:
        users: user index of each click, int32 or int64 [E].
        timestamps: seconds since 1970, int64 [E].
        parts: index in `PARTS` of the log's own split, -1 without one, int8 or int64 [E].
        num_users: number U of users.
    """

    users: np.ndarray
    timestamps: np.ndarray
    parts: np.ndarray
    num_users: int


@dataclass(frozen=True)
class Split:
    """One way to hold out clicks.

    Attributes:
        train_lengths: clicks at the start of each history that the split leaves for training, int64 [U].
        targets: prediction targets by part (`valid`, `test`).
        cuts: times at which validation and test start, for the temporal split; otherwise empty.
    """

    train_lengths: np.ndarray
    targets: dict[str, Targets]
    cuts: tuple[int, ...] = ()


def seeded_hash(seed: int, purpose: str, user_ids: pd.Series, item_ids: pd.Series) -> np.ndarray:
    """A hash of (seed, purpose, user id, item id) that is the same in every process.

    Args:
        seed: seed of the experiment.
        purpose: makes hashes for different uses independent of each other.
        user_ids: text [E].
        item_ids: text [E].

    Returns:
        uint64 [E].
    """
    key = hashlib.blake2b(f"{seed}:{purpose}".encode(), digest_size=8).hexdigest()
    pairs = user_ids.astype("str").reset_index(drop=True) + "\x1f" + item_ids.astype("str").reset_index(drop=True)
    return pd.util.hash_array(pairs.to_numpy(dtype=object), hash_key=key, categorize=False)


class PairHashes:
    """Seeded hashes of the pairs of user and item of E clicks, computed for the rows that are asked for.

    Args:
        seed: see `seeded_hash`.
        purpose: see `seeded_hash`.
        user_ids: id of each user, [U].
        item_ids: id of each item, [N].
        users: user index of each click, [E].
        items: item index of each click, [E].
        times: time of each click, int64 [E], which is hashed as well; None if no pair occurs twice.
    """

    def __init__(
        self,
        seed: int,
        purpose: str,
        user_ids: pd.Series,
        item_ids: pd.Series,
        users: np.ndarray,
        items: np.ndarray,
        times: np.ndarray | None = None,
    ):
        self.seed = seed
        self.purpose = purpose
        self.user_ids = user_ids
        self.item_ids = item_ids
        self.users = users
        self.items = items
        self.times = times

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """The hashes of some clicks, uint64 [R]."""
        hashes = np.empty(len(rows), dtype=np.uint64)
        for start in range(0, len(rows), _HASHED_AT_A_TIME):
            some = rows[start : start + _HASHED_AT_A_TIME]
            user_ids = self.user_ids.take(self.users[some])
            item_ids = self.item_ids.take(self.items[some])
            if self.times is not None:
                item_ids = item_ids.astype("str") + "\x1f" + pd.Series(self.times[some], item_ids.index).astype("str")
            hashes[start : start + len(some)] = seeded_hash(self.seed, self.purpose, user_ids, item_ids)
        return hashes


def positions_in_user(users: np.ndarray) -> np.ndarray:
    """Position of each click in the history of its user.

    Args:
        users: user index of each click, sorted, [E].

    Returns:
        int64 [E], from 0.
    """
    is_first = np.append(True, users[1:] != users[:-1])[: len(users)]
    starts = np.flatnonzero(is_first)
    return np.arange(len(users)) - np.repeat(starts, np.diff(np.append(starts, len(users))))


def leave_one_out(lengths: np.ndarray) -> Split:
    """Tests on the last click of each user, validates on the one before it and trains on the rest.

    Args:
        lengths: clicks of each user, each at least 3, int64 [U].
    """
    users = np.arange(len(lengths))
    return Split(lengths - 2, {"valid": Targets(users, lengths - 2), "test": Targets(users, lengths - 1)})


def temporal(
    clicks: Clicks, draws: np.ndarray | PairHashes, *, valid: float, test: float, targets_per_user: int
) -> Split:
    """Cuts the whole log at two times; clicks before the first cut are training data.

    Args:
        clicks: all clicks; their timestamps are used.
        draws: a seeded random number for each click, [E]. The targets of a user are the clicks with the smallest ones.
        valid: share of the clicks in the validation window.
        test: share of the clicks in the test window.
        targets_per_user: maximum number of targets per user and window. A user's first click is never a target.
    """
    cuts = cut_times(clicks.timestamps, valid, test)
    positions = positions_in_user(clicks.users)
    window = np.digitize(clicks.timestamps, cuts)  # index in PARTS
    targets = {}
    for number, part in ((1, "valid"), (2, "test")):
        allowed = np.flatnonzero((window == number) & (positions > 0))
        counts = np.bincount(clicks.users[allowed], minlength=clicks.num_users)
        is_crowded = counts[clicks.users[allowed]] > targets_per_user  # all clicks of other users are targets
        crowded = allowed[is_crowded]
        by_draw = crowded[np.lexsort((draws[crowded], clicks.users[crowded]))]
        drawn = by_draw[positions_in_user(clicks.users[by_draw]) < targets_per_user]
        chosen = np.sort(np.concatenate([allowed[~is_crowded], drawn]))
        targets[part] = Targets(clicks.users[chosen].astype(np.int64), positions[chosen])
    return Split(np.bincount(clicks.users[window == 0], minlength=clicks.num_users), targets, cuts)


def cut_times(timestamps: np.ndarray, valid: float, test: float) -> tuple[int, int]:
    """Times at which the validation and the test window start.

    The windows start at the quantiles 1 - valid - test and 1 - test of the clicks. A cut is the timestamp of the first
    click of its window, so clicks with equal timestamps are in the same window.

    Args:
        timestamps: timestamps of all clicks, in any order, int64 [E].
        valid: share of the clicks in the validation window.
        test: share of the clicks in the test window.
    """
    ordered = np.sort(timestamps)

    def cut(share: float) -> int:
        # Rounded first, because 1 - 0.1 - 0.1 is 0.8000000000000002 in floating point.
        rank = int(np.ceil(round(share * len(ordered), 6)))
        return int(ordered[min(rank, len(ordered) - 1)])

    return cut(1 - valid - test), cut(1 - test)


def given(clicks: Clicks, draws: np.ndarray, *, valid_share: float) -> Split:
    """Uses the log's own split: targets are the clicks that the log marks as validation or test.

    Args:
        clicks: all clicks; their parts are used and never fall within a user.
        draws: a seeded random number for each user, [U]. The users with the smallest ones validate.
        valid_share: share of the users with validation clicks who validate. The validation clicks of the other users
            are training data.
    """
    candidates = np.unique(clicks.users[clicks.parts == 1])
    kept = max(1, round(valid_share * len(candidates)))
    chosen = candidates[np.argsort(draws[candidates], kind="stable")[:kept]]
    parts = np.where((clicks.parts == 1) & ~np.isin(clicks.users, chosen), 0, clicks.parts)
    positions = positions_in_user(clicks.users)
    targets = {}
    for number, part in ((1, "valid"), (2, "test")):
        rows = np.flatnonzero((parts == number) & (positions > 0))
        targets[part] = Targets(clicks.users[rows].astype(np.int64), positions[rows])
    return Split(np.bincount(clicks.users[parts == 0], minlength=clicks.num_users), targets)


def shared_train_lengths(splits: Iterable[Split]) -> np.ndarray:
    """Training length of each user under all splits at once: the minimum over the splits.

    One model is trained and then tested under every split. With the training clicks of one split only, it could have
    been trained on test clicks of another.

    Returns:
        int64 [U].
    """
    return np.min([split.train_lengths for split in splits], axis=0)

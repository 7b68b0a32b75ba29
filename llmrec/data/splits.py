"""Which part of every history is training data, and which items are to be predicted. Pure functions of
arrays.

Histories are flat here: E clicks, sorted by user and, within a user, by time; `positions` counts from 0 in a
    user.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from llmrec.data.dataset import Targets

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Split:
    """One way to hold out.

    Attributes:
        train_lengths: clicks at the start of each history that this split leaves for training, int64 [U].
        targets: by part (`valid`, `test`).
        cuts: of the temporal split: timestamps at which validation and test start, else empty.
    """

    train_lengths: np.ndarray
    targets: dict[str, Targets]
    cuts: tuple[int, ...] = ()


def seeded_hash(seed: int, purpose: str, user_ids: pd.Series, item_ids: pd.Series) -> np.ndarray:
    """A hash of (seed, purpose, user id, item id) that is the same in every process, uint64 [E].

    Args:
        seed: the experiment's seed.
        purpose: keeps hashes for different uses independent of each other.
        user_ids, item_ids: text [E].
    """
    key = hashlib.blake2b(f"{seed}:{purpose}".encode(), digest_size=8).hexdigest()
    pairs = user_ids.astype("str").reset_index(drop=True) + "\x1f" + item_ids.astype("str").reset_index(drop=True)
    return pd.util.hash_array(pairs.to_numpy(dtype=object), hash_key=key, categorize=False)


def positions_in_user(users: np.ndarray) -> np.ndarray:
    """Position of each click in its user's history, int64 [E], for sorted user indices [E]."""
    _, starts, counts = np.unique(users, return_index=True, return_counts=True)
    return np.arange(len(users)) - np.repeat(starts, counts)


def leave_one_out(lengths: np.ndarray) -> Split:
    """The last click of each user is the test, the one before it validation, the rest training.

    Args:
        lengths: clicks of each user, int64 [U], each at least 3.
    """
    users = np.arange(len(lengths))
    return Split(lengths - 2, {"valid": Targets(users, lengths - 2), "test": Targets(users, lengths - 1)})


def cut_times(timestamps: np.ndarray, valid: float, test: float) -> tuple[int, int]:
    """Global cuts at the quantiles 1 - valid - test and 1 - test of the clicks.

    A cut is the timestamp of the first click of the later part; clicks at that very second all belong to the
    later part, so that no tie is torn apart.

    Args:
        timestamps: of all clicks, int64 [E], in any order.
        valid, test: shares of the clicks.
    """
    ordered = np.sort(timestamps)
    # Rounded first: 1 - 0.1 - 0.1 is 0.8000000000000002 in floats, which must not move a cut.
    places = [int(np.ceil(round(share * len(ordered), 6))) for share in (1 - valid - test, 1 - test)]
    return tuple(int(ordered[min(place, len(ordered) - 1)]) for place in places)


def temporal(
    users: np.ndarray,
    timestamps: np.ndarray,
    draws: np.ndarray,
    *,
    num_users: int,
    valid: float,
    test: float,
    targets_per_user: int,
) -> Split:
    """Cuts the whole log at two moments; nothing after the first is training data.

    Args:
        users: user index of each click, sorted, int64 [E].
        timestamps: seconds, sorted within each user, int64 [E].
        draws: seeded random number of each click, [E]: a user's targets are the ones with the smallest.
        num_users: U.
        valid, test: shares of the clicks in the two windows.
        targets_per_user: at most so many targets a user and window. A target has a click of its user before
            it.
    """
    cuts = cut_times(timestamps, valid, test)
    positions = positions_in_user(users)
    window = np.digitize(timestamps, cuts)  # 0 training, 1 validation, 2 test
    train_lengths = np.bincount(users[window == 0], minlength=num_users)
    targets = {}
    for part, number in (("valid", 1), ("test", 2)):
        allowed = np.flatnonzero((window == number) & (positions > 0))
        by_draw = allowed[np.lexsort((draws[allowed], users[allowed]))]
        chosen = np.sort(by_draw[positions_in_user(users[by_draw]) < targets_per_user])
        targets[part] = Targets(users[chosen], positions[chosen])
    return Split(train_lengths, targets, cuts)


def given(users: np.ndarray, parts: np.ndarray, draws: np.ndarray, *, num_users: int, valid_share: float) -> Split:
    """The log's own split: targets are the clicks that it marks as validation or test.

    Args:
        users: user index of each click, sorted, int64 [E].
        parts: 0 training, 1 validation, 2 test; never falls within a user, int64 [E].
        draws: seeded random number of each user, the same on all of the user's clicks, [E].
        num_users: U.
        valid_share: share of the users with validation clicks who validate; those of the others are training data.
    """
    candidates, first = np.unique(users[parts == 1], return_index=True)
    kept = max(1, round(valid_share * len(candidates)))
    chosen = candidates[np.argsort(draws[parts == 1][first], kind="stable")[:kept]]
    parts = np.where((parts == 1) & ~np.isin(users, chosen), 0, parts)
    positions = positions_in_user(users)
    targets = {}
    for number, part in ((1, "valid"), (2, "test")):
        rows = np.flatnonzero((parts == number) & (positions > 0))
        targets[part] = Targets(users[rows], positions[rows])
    return Split(np.bincount(users[parts == 0], minlength=num_users), targets)


def shared_train_lengths(splits: Iterable[Split]) -> np.ndarray:
    """Training length of each user under all splits at once: the minimum over the splits, int64 [U].

    One model is trained and tested under every split, so it may only see what every split leaves for
    training; with the length of one split alone, it would have learned from test clicks of the other.
    """
    return np.min([split.train_lengths for split in splits], axis=0)

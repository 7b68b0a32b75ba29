"""Which items each user has seen: the one place for masks of items that may not be recommended again.

Histories of different lengths are NumPy arrays or lists (`seen_mask`, `click_counts`); padded batches are torch tensors
(`first_seen`, `seen_since`, `seen_after_each`).
"""

from collections.abc import Sequence, Set

import numpy as np
import torch

from llmrec.errors import DataError


def seen_mask(histories: Sequence[Sequence[int] | Set[int] | np.ndarray], num_items: int) -> np.ndarray:
    """Which items each history holds.

    Args:
        histories: item indices of each user, [B] histories of any length.
        num_items: size N of the catalogue.

    Returns:
        bool [B, N]; `torch.from_numpy` makes a tensor of it without a copy.

    Raises:
        DataError: an item index is outside the catalogue.
    """
    mask = np.zeros((len(histories), num_items), dtype=bool)
    mask[_cells(histories, num_items)] = True
    return mask


def click_counts(histories: Sequence[Sequence[int] | np.ndarray], num_items: int) -> np.ndarray:
    """How often each history holds each item.

    Args:
        histories: item indices of each user, [B] histories of any length.
        num_items: size N of the catalogue.

    Returns:
        int32 [B, N].

    Raises:
        DataError: an item index is outside the catalogue.
    """
    counts = np.zeros((len(histories), num_items), dtype=np.int32)
    np.add.at(counts, _cells(histories, num_items), 1)
    return counts


def _cells(histories: Sequence[Sequence[int] | Set[int] | np.ndarray], num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """The number of the history and the item index of each item, both int64 [sum of lengths]."""
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    arrays = [np.asarray(_sequence(history), dtype=np.int64) for history in histories]
    items = np.concatenate([np.zeros(0, dtype=np.int64), *arrays])
    outside = np.flatnonzero((items < 0) | (items >= num_items))
    if len(outside):
        raise DataError(
            f"History {rows[outside[0]]} holds the item index {items[outside[0]]}; expected 0 to {num_items - 1}. "
            "The history belongs to another catalogue: run the stages again on this data."
        )
    return rows, items


def _sequence(history: Sequence[int] | Set[int] | np.ndarray) -> Sequence[int] | np.ndarray:
    return list(history) if isinstance(history, Set) else history


def first_seen(items: torch.Tensor, num_items: int) -> torch.Tensor:
    """Position at which each item first occurs in each history.

    Args:
        items: item indices, -1 at padding, int64 [B, L].
        num_items: size N of the catalogue.

    Returns:
        int64 [B, N], from 0; L for an item that the history lacks.
    """
    batch, length = items.shape
    positions = torch.arange(length, device=items.device).expand(batch, length)
    positions = positions.masked_fill(items < 0, length)
    never = torch.full((batch, num_items), length, dtype=torch.int64, device=items.device)
    return never.scatter_reduce(1, items.clamp(min=0), positions, "amin")


def seen_since(items: torch.Tensor, seen_before: torch.Tensor) -> torch.Tensor:
    """From which slot of a history on each item counts as seen.

    Slot 0 is the start of the history and slot t follows t items, so an item at position p is seen from slot p + 1 on.
    The items that may be recommended in slot t are those with `seen_since > t`.

    Args:
        items: item indices, -1 at padding, int64 [B, L].
        seen_before: items that the user had seen before the history starts, bool [B, N].

    Returns:
        int64 [B, N], from 0; L + 1 for an item that is never seen.
    """
    return (first_seen(items, seen_before.shape[1]) + 1).masked_fill(seen_before, 0)


def seen_after_each(items: torch.Tensor, num_items: int) -> torch.Tensor:
    """Which items each prefix of a history holds.

    Args:
        items: item indices, -1 at padding, int64 [B, L].
        num_items: size N of the catalogue.

    Returns:
        bool [B, L, N]; [:, t] covers the positions 0 to t.
    """
    positions = torch.arange(items.shape[1], device=items.device)
    return first_seen(items, num_items)[:, None] <= positions[:, None]

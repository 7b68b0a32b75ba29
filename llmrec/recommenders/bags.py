"""Histories as sparse rows of weights over the catalogue."""

import numpy as np
from scipy import sparse

from llmrec.errors import DataError
from llmrec.recommenders.protocol import Histories

# Newest items of a training history whose pairs are counted. Pairs grow with the square of the length, so a single
# user with 100,000 clicks would take longer than all others together.
LONGEST = 5_000


def bags(histories: Histories, num_items: int, newest: int | None = None, decay: float = 1.0) -> sparse.csr_array:
    """The items of each history, weighted by their age.

    Args:
        histories: item indices of each user, oldest first, [B] histories of any length.
        num_items: size N of the catalogue.
        newest: number of newest items that count; None counts all.
        decay: factor on the weight of an item with every newer item. The newest has the weight 1.

    Returns:
        float32 [B, N]; the weights of an item that occurs twice add up.

    Raises:
        DataError: an item index is outside the catalogue.
    """
    parts = [np.asarray(history, dtype=np.int64)[::-1][:newest] for history in histories]
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    items = np.concatenate([np.zeros(0, np.int64), *parts])
    outside = items[(items < 0) | (items >= num_items)]
    if len(outside):
        raise DataError(
            f"A history holds the item index {outside[0]}; expected 0 to {num_items - 1}. "
            "The history belongs to another catalogue: run the stages again on this data."
        )
    ages = np.concatenate([np.zeros(0, np.int64), *map(np.arange, lengths)])
    weights = np.power(decay, ages).astype(np.float32)
    rows = np.repeat(np.arange(len(parts)), lengths)
    return sparse.csr_array((weights, (rows, items)), shape=(len(parts), num_items))


def distinct_bags(histories: Histories, num_items: int) -> sparse.csr_array:
    """Which items each history holds: 1 for each distinct item, float32 [B, N]; errors as in `bags`."""
    result = bags(histories, num_items)
    result.sum_duplicates()
    result.data[:] = 1.0
    return result

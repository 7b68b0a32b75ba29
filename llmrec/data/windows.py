"""Training windows: pieces of histories in which a sequence model predicts every item from the items before it.

A window is a row of three numbers, so a log of any size needs a few bytes a window. Its items are read from the
histories when a batch is made.
"""

from collections.abc import Sequence

import numpy as np

from llmrec.data.ragged import Ragged


def cut_windows(histories: Sequence[np.ndarray], window: int, rng: np.random.Generator) -> np.ndarray:
    """Cuts histories into windows that cover every item once.

    The first cut of a long history is random, so over the epochs every item is also predicted from a long history.

    Args:
        histories: item indices of each user.
        window: a window has at most `window + 1` items.
        rng: draws the cuts and the order.

    Returns:
        user, start and end of each window, in random order, int32 [W, 3].
    """
    size = window + 1
    lengths = Ragged.of(histories).lengths
    is_long = lengths > size
    firsts = np.full(len(lengths), size)
    firsts[is_long] = rng.integers(1, size + 1, is_long.sum())
    pieces = cut(lengths, size, firsts)
    return pieces[rng.permutation(len(pieces))]


def cut(lengths: np.ndarray, size: int, firsts: np.ndarray) -> np.ndarray:
    """Cuts histories into consecutive pieces.

    Args:
        lengths: number of items of each history, int64 [U].
        size: items of a piece; the last piece of a history may be shorter.
        firsts: items of the first piece of each history, 1 to `size`, int64 [U].

    Returns:
        user, start and end of each piece, in the order of the users, int32 [W, 3].
    """
    counts = np.where(lengths > firsts, 1 + -((firsts - lengths) // size), lengths > 0)
    users = np.repeat(np.arange(len(lengths), dtype=np.int32), counts)
    number = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    ends = firsts[users] + number * size
    pieces = np.empty((len(users), 3), dtype=np.int32)
    pieces[:, 0] = users
    pieces[:, 1] = np.maximum(ends - size, 0)
    pieces[:, 1][number == 0] = 0
    pieces[:, 2] = np.minimum(ends, lengths[users])
    return pieces

"""Training windows: pieces of histories in which a sequence model predicts every item from the items before it."""

from collections.abc import Sequence

import numpy as np


def cut_windows(histories: Sequence[np.ndarray], window: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Cuts histories into windows that cover every item once.

    The first cut of a long history is random, so over the epochs every item is also predicted from a long history.

    Args:
        histories: item indices of each user.
        window: a window has at most `window + 1` items.
        rng: draws the cuts and the order.

    Returns:
        (user, start, end) of each window, in random order.
    """
    size = window + 1
    pieces: list[tuple[int, int, int]] = []
    for user, history in enumerate(histories):
        offset = int(rng.integers(1, size + 1)) if len(history) > size else size
        edges = [0, *range(offset, len(history), size), len(history)]
        pieces += [(user, start, end) for start, end in zip(edges, edges[1:], strict=False) if end > start]
    return [pieces[index] for index in rng.permutation(len(pieces))]

"""Training windows: pieces of histories in which every event is predicted from what stands before it."""

from collections.abc import Sequence

import numpy as np


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

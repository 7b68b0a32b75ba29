"""Training windows cover every item once."""

import numpy as np

from llmrec.data.windows import cut_windows


def test_windows_cover_every_event_once():
    histories = [np.arange(n) for n in (1, 6, 7, 23)]
    pieces = cut_windows(histories, 5, np.random.default_rng(0))
    covered = sorted((user, t) for user, start, end in pieces for t in range(start, end))
    assert covered == [(user, t) for user, h in enumerate(histories) for t in range(len(h))]
    assert max(end - start for _, start, end in pieces) <= 6

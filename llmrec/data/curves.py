"""Curves that show a prepared log: clicks over time, how unequal users and items are, sessions, gaps and cold targets.

They belong to `llmrec prepare --report`, which writes them into the dataset card and draws them.
"""

import numpy as np

from llmrec.data.dataset import InteractionData
from llmrec.data.exposures import Curve, exposure_curves
from llmrec.data.ragged import Ragged

SECONDS_PER_DAY = 86_400
SESSION_GAP = 30 * 60  # seconds without a click that end a session, as in web analytics
BINS = 40  # of the time axis
LONGEST_SESSION = 20  # clicks; longer sessions count as this long
WARM = 20  # training clicks of an item up to which cold targets are counted
LONGEST_GAP = 9  # decimal power of seconds, 32 years


def measure_curves(data: InteractionData, timed: bool) -> dict[str, Curve]:
    """The curves of a log by name, as points in order of x.

    Args:
        data: the prepared log.
        timed: whether timestamps are times. Without times there are no `clicks_by_day`, `sessions` and `gaps`.

    Returns:
        `clicks_by_day`: clicks per day in each of 40 equal parts of the log, by days since its first click.
        `clicks_of_users`, `clicks_of_items`: share of the clicks that the most active users, or the most clicked items,
        have together, by share of the users or items (a Lorenz curve that begins with the largest).
        `sessions`: share of the sessions that have at most x clicks, x from 1 to 20; a session ends where no click
        follows within 30 minutes.
        `gaps`: share of the gaps between two clicks of a user that are shorter than 10^x seconds.
        `cold_<split>`: share of the split's test targets whose item has at most x training clicks, x from 0 to 20.
        `propensities`, `click_rate`: see `exposure_curves`.
    """
    histories = Ragged.of(data.histories)
    curves = {
        "clicks_of_users": _largest_first(histories.lengths),
        "clicks_of_items": _largest_first(np.bincount(histories.flat(), minlength=data.num_items)),
    }
    if timed:
        times = Ragged.of(data.timestamps)
        curves |= {"clicks_by_day": _by_day(times.flat()), **_sessions_and_gaps(times)}
    training = np.zeros(data.num_items, dtype=np.int64)
    for part in Ragged.of(data.train_histories).parts():
        training += np.bincount(part.flat(), minlength=data.num_items)
    for split, parts in data.targets.items():
        test = parts["test"]
        clicks = training[histories.at(test.users, test.positions)]
        curves[f"cold_{split}"] = [(float(x), float(np.mean(clicks <= x))) for x in range(WARM + 1)]
    return curves | exposure_curves(data.exposures)


def _largest_first(counts: np.ndarray) -> Curve:
    held = np.append(0, np.cumsum(np.sort(counts)[::-1])) / counts.sum()
    shares = np.linspace(0, 1, 51)
    return list(zip(shares.tolist(), np.interp(shares, np.linspace(0, 1, len(held)), held).tolist(), strict=True))


def _by_day(times: np.ndarray) -> Curve:
    days = (times - times.min()) / SECONDS_PER_DAY
    counts, edges = np.histogram(days, BINS, (0, max(float(days.max()), 1.0)))
    middles = (edges[1:] + edges[:-1]) / 2
    return list(zip(middles.tolist(), (counts / (edges[1] - edges[0])).tolist(), strict=True))


def _sessions_and_gaps(times: Ragged) -> dict[str, Curve]:
    """Both curves, counted over some users at a time; no curve of gaps without two clicks of one user."""
    sessions = np.zeros(LONGEST_SESSION + 1, dtype=np.int64)
    gaps = np.zeros(LONGEST_GAP + 1, dtype=np.int64)
    for part in times.parts():
        flat = part.flat()
        between = np.diff(flat)
        ends = np.cumsum(part.lengths)[:-1] - 1
        is_same_user = np.ones(len(between), dtype=bool)
        is_same_user[ends[(ends >= 0) & (ends < len(between))]] = False
        last_of_session = np.append(~is_same_user | (between > SESSION_GAP), True)
        sizes = np.diff(np.flatnonzero(last_of_session), prepend=-1)
        sessions += np.bincount(np.minimum(sizes, LONGEST_SESSION), minlength=len(sessions))
        powers = np.floor(np.log10(np.maximum(between[is_same_user], 1))) + 1
        powers[between[is_same_user] < 1] = 0
        gaps += np.bincount(np.minimum(powers, LONGEST_GAP).astype(np.int64), minlength=len(gaps))
    shares = np.cumsum(sessions)[1:] / max(1, sessions.sum())
    found = {"sessions": [(float(x + 1), float(share)) for x, share in enumerate(shares)]}
    if gaps.sum():
        found["gaps"] = [(float(x), float(share)) for x, share in enumerate(np.cumsum(gaps) / gaps.sum())]
    return found

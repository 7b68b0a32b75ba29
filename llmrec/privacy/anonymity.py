"""k-anonymity of a log: how many people have the clicks that somebody knows of one of them.

A log without names is not anonymous if a few known clicks fit one history alone (Narayanan and Shmatikov, 2008). The
number of histories that they fit is the k of k-anonymity (Sweeney, 2002).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmrec.data.dataset import InteractionData
from llmrec.data.ragged import Ragged
from llmrec.evaluation.metrics import bootstrap_ci

MOST_KNOWN = 6  # clicks that somebody knows at most
SMALL = 5  # sets of fewer people are counted as well
DRAWS = 5  # random choices of known clicks from each history
MAX_USERS = 2000  # histories that are attacked

Item = Literal["item", "categories"]
Date = Literal["day", "month", "year", "none"]


@dataclass(frozen=True)
class Precision:
    """How precisely a log is published.

    Attributes:
        item: what it says of the item of a click.
        date: what it says of its time.
    """

    item: Item
    date: Date


@dataclass(frozen=True)
class SinglingOut:
    """What some known clicks tell about who somebody is.

    Attributes:
        precision: how precisely the log is published, and how precisely the clicks are known.
        known: number of known clicks.
        users: number of people with so many clicks.
        alone: share of people whom the clicks single out, with its 95 % interval.
        few: share of people whom the clicks narrow down to fewer than five, with its interval.
        median_k: median number of people who have the clicks.
    """

    precision: Precision
    known: int
    users: int
    alone: tuple[float, float, float]
    few: tuple[float, float, float]
    median_k: float


def precisions(data: InteractionData) -> list[Precision]:
    """The ways to publish a log, the most precise one first. Dates and categories are left out if it has none."""
    dates: tuple[Date, ...] = ("day", "month", "year", "none") if data.card.get("time", True) else ("none",)
    has_categories = any(len(names) for names in data.items["categories"])
    items: tuple[Item, ...] = ("item", "categories") if has_categories else ("item",)
    return [Precision(item, date) for item in items for date in dates]


def published(data: InteractionData, precision: Precision) -> Ragged:
    """What the log says of each click at some precision, as a number, int64 [n_u] of each user."""
    histories = Ragged.of(data.histories)
    of_item = np.arange(data.num_items)
    if precision.item == "categories":
        names = ["|".join(sorted(values)) for values in data.items["categories"]]
        of_item = np.unique(names, return_inverse=True)[1]
    labels = of_item[histories.flat()].astype(np.int64)
    if precision.date != "none":
        unit = {"day": "D", "month": "M", "year": "Y"}[precision.date]
        seconds = Ragged.of(data.timestamps).flat().astype("datetime64[s]")
        _, times = np.unique(seconds.astype(f"datetime64[{unit}]"), return_inverse=True)
        labels = times.astype(np.int64) * len(of_item) + labels
    return Ragged.of_lengths(labels, histories.lengths)


class Index:
    """Finds the people who have some clicks.

    Args:
        published: what the log says of each click, [n_u] of each user.
    """

    def __init__(self, published: Ragged):
        flat = published.flat()
        users = np.repeat(np.arange(len(published)), published.lengths)
        order = np.lexsort((users, flat))
        labels, users = flat[order], users[order]
        # How often the user had the same label before: somebody with two comedies has the tokens (comedy, 0) and
        # (comedy, 1), so that "has at least these clicks" is "has all of these tokens".
        is_first = np.append(True, (labels[1:] != labels[:-1]) | (users[1:] != users[:-1]))
        starts = np.flatnonzero(is_first)
        times = np.arange(len(labels)) - np.repeat(starts, np.diff(np.append(starts, len(labels))))
        order = np.lexsort((users, times, labels))
        labels, times = labels[order], times[order]
        self._users = users[order]
        begins = np.flatnonzero(np.append(True, (labels[1:] != labels[:-1]) | (times[1:] != times[:-1])))
        ends = np.append(begins[1:], len(labels))
        tokens = zip(labels[begins].tolist(), times[begins].tolist(), strict=True)
        self._ranges = dict(zip(tokens, zip(begins.tolist(), ends.tolist(), strict=True), strict=True))

    def count(self, known: Sequence[int]) -> int:
        """Number of people who have all of some clicks; of equal ones, they have as many."""
        ranges = [self._ranges.get((label, times - 1), (0, 0)) for label, times in Counter(known).items()]
        ranges.sort(key=lambda one: one[1] - one[0])  # the rarest first, so that few people are looked up
        found = self._users[slice(*ranges[0])]
        for begin, end in ranges[1:]:
            others = self._users[begin:end]
            if not len(others):
                return 0
            places = np.searchsorted(others, found).clip(max=len(others) - 1)
            found = found[others[places] == found]
        return len(found)


def singling_out(data: InteractionData, precision: Precision, seed: int = 0, samples: int = 1000) -> list[SinglingOut]:
    """Draws 1 to 6 random clicks of each of up to 2,000 histories and counts the people who have them.

    Args:
        data: the prepared log.
        precision: how precisely it is published.
        seed: seed of the drawn people, of their clicks and of the intervals.
        samples: bootstrap resamples of the intervals, over people.
    """
    log = published(data, precision)
    index = Index(log)
    rng = np.random.default_rng(seed)
    users = np.sort(rng.permutation(len(log))[:MAX_USERS])
    sizes: dict[int, list[list[int]]] = {known: [] for known in range(1, MOST_KNOWN + 1)}
    for user in users:
        draws = [rng.permutation(log[user])[:MOST_KNOWN].tolist() for _ in range(DRAWS)]
        for known in range(1, min(MOST_KNOWN, len(log[user])) + 1):
            sizes[known].append([index.count(draw[:known]) for draw in draws])

    def share(counts: np.ndarray, below: int) -> tuple[float, float, float]:
        return bootstrap_ci((counts < below).mean(1), samples, seed)

    tables = {known: np.array(rows) for known, rows in sizes.items() if rows}
    return [
        SinglingOut(precision, known, len(table), share(table, 2), share(table, SMALL), float(np.median(table)))
        for known, table in tables.items()
    ]


def profile_anonymity(data: InteractionData, attributes: Sequence[str]) -> dict[str, Any]:
    """How many people share the attributes of each person.

    Args:
        data: the prepared log.
        attributes: columns of the user table.

    Returns:
        the attributes, the share of people who are alone with theirs, and that of those who share them with fewer than
        four others.
    """
    sizes = data.users.groupby(list(attributes))["user_id"].transform("size")
    return {"attributes": list(attributes), "alone": float((sizes == 1).mean()), "few": float((sizes < SMALL).mean())}

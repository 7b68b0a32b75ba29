"""A generated world whose tastes change at a known day, for `benchmarks/learning.py`.

Each person belongs to a group, each item to a category. The log-odds of a click on a shown item are the appeal of the
item, plus `FAVORED` if the person's group favors the category. At the change, all appeals change places and each group
favors other categories. People know nothing of positions: an item is clicked as often at the top as below.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

USERS = 400
ITEMS = 160
CATEGORIES = 8
GROUPS = 4
FAVORED = 2.0  # log-odds
LEVEL = -3.5  # log-odds of a click on an average item out of favor
SPREAD = 1.5  # standard deviation of appeals
LOGGED_CLICKS = 12  # clicks of each person before the server starts
START = 1_700_000_000.0  # when the server starts, seconds since 1970
DAY = 86_400.0


@dataclass(frozen=True)
class World:
    """Who clicks on what, before and after the change.

    Attributes:
        before: click probabilities, float [U, N].
        after: the same after the change.
        categories: category of each item, int64 [N].
    """

    before: np.ndarray
    after: np.ndarray
    categories: np.ndarray

    @classmethod
    def draw(cls, seed: int) -> "World":
        """The world of a seed."""
        rng = np.random.default_rng((seed, 0))
        categories = np.arange(ITEMS) % CATEGORIES
        groups = np.arange(USERS) % GROUPS
        favored = rng.permutation(CATEGORIES).reshape(GROUPS, -1)
        appeal = rng.normal(LEVEL, SPREAD, ITEMS)
        probabilities: list[np.ndarray] = []
        for favors in (favored, np.roll(favored, 1, axis=0)):
            appeal = rng.permutation(appeal)
            of_group = np.array([np.isin(categories, one) for one in favors])
            probabilities.append(1 / (1 + np.exp(-(appeal + FAVORED * of_group[groups]))))
        before, after = probabilities
        return cls(before, after, categories)

    def write_log(self, folder: Path, rng: np.random.Generator) -> None:
        """Writes `log.csv` and `items.csv`: clicks on random items in the month before the server starts."""
        rows: list[tuple[str, str, float]] = []
        for user, probabilities in enumerate(self.before):
            shown = rng.permutation(ITEMS)
            clicked = shown[rng.random(ITEMS) < probabilities[shown]][:LOGGED_CLICKS]
            times = np.sort(START - DAY * rng.uniform(1, 30, len(clicked)))
            rows += [(f"u{user}", f"i{item}", time) for item, time in zip(clicked, times.round(), strict=True)]
        pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv(folder / "log.csv", index=False)
        items = pd.DataFrame(
            {
                "item_id": [f"i{item}" for item in range(ITEMS)],
                "title": [f"Item {item}" for item in range(ITEMS)],
                "categories": [f"kind {category}" for category in self.categories],
            }
        )
        items.to_csv(folder / "items.csv", index=False)

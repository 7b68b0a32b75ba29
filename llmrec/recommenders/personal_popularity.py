"""Personal popularity: the baseline for repeat consumption, which ranks items by how often the user clicked them.

It is GP-TopFreq of next-basket recommendation, the strongest simple rival on groceries (Li et al., A Next Basket
Recommendation Reality Check, TOIS 2023), with an optional decay. On a log without repeats it equals popularity.
"""

from typing import Self

import numpy as np

from llmrec.recommenders.bags import bags
from llmrec.recommenders.popularity import item_counts
from llmrec.recommenders.protocol import Histories


class PersonalPopularity:
    """Clicks of the user on each item, with popularity as the order of items that the user has clicked equally often.

    score(j) = sum of decay^k over the ages k at which item j stands in the history + P(j) / 1000. The newest item has
    the age 0. P(j) is the share of training clicks on item j.

    Args:
        decay: factor on the weight of a click with every newer one. 1 counts all clicks of the user alike.
    """

    def __init__(self, decay: float = 1.0) -> None:
        self.decay = decay

    def fit(self, train_histories: Histories, num_items: int) -> Self:
        """Counts the clicks of training histories."""
        clicks = item_counts(train_histories, num_items)
        self.popularity = clicks / max(1.0, clicks.sum())
        return self

    def scores(self, histories: Histories) -> np.ndarray:
        """Scores of all items after each of B histories, float64 [B, N], because float32 would lose small shares."""
        own = bags(histories, len(self.popularity), decay=self.decay)
        return own.toarray() + 1e-3 * self.popularity

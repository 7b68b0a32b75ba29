"""Click and purchase rates of each item in training, used as baselines and as item popularity."""

from dataclasses import dataclass

import numpy as np

from reward_models.training_events import TrainingEvents

SHRINKAGE = 10.0  # number of clicks with the average purchase rate that are added to an item's own clicks


@dataclass(frozen=True)
class ItemRates:
    """Counts of training events.

    Attributes:
        clicks: clicks of each item, [N].
        purchases: purchases of each item, [N].
    """

    clicks: np.ndarray
    purchases: np.ndarray

    @classmethod
    def from_events(cls, events: TrainingEvents) -> "ItemRates":
        """Counts the training events."""
        clicks = np.zeros(events.num_items, dtype=np.int64)
        purchases = np.zeros(events.num_items)
        for items, flags in zip(events.histories.parts(), events.purchases.parts(), strict=True):
            clicks += np.bincount(items.flat(), minlength=events.num_items)
            purchases += np.bincount(items.flat(), flags.flat(), minlength=events.num_items)
        return cls(clicks=clicks, purchases=purchases)

    @property
    def log_share(self) -> np.ndarray:
        """Log of each item's share of clicks, with one click added to every item, float [N]."""
        return np.log((self.clicks + 1) / (self.clicks.sum() + len(self.clicks)))

    @property
    def purchase_rate(self) -> float:
        """Purchases per click, over all items."""
        return float(self.purchases.sum() / self.clicks.sum())

    @property
    def purchase_rates(self) -> np.ndarray:
        """Purchases per click of each item, with `SHRINKAGE` average clicks added, float [N]."""
        return (self.purchases + SHRINKAGE * self.purchase_rate) / (self.clicks + SHRINKAGE)

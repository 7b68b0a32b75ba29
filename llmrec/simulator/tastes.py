"""What a world needs to know of its people's tastes: the interface, and a plain table for small worlds."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np


@dataclass(frozen=True)
class Moments:
    """What the tastes of n users depend on at one moment.

    Attributes:
        users: user of each row, int64 [n].
        recent: last clicks of each row, newest last, N where there are none, int64 [n, H].
        taken: number of clicks so far, int64 [n].
    """

    users: np.ndarray
    recent: np.ndarray
    taken: np.ndarray


class Tastes(Protocol):
    """Utilities of items for users, in nats. N as an item number in `recent` stands for "nothing yet"."""

    family: ClassVar[str]

    @property
    def num_items(self) -> int:
        """Number N of items."""
        ...

    def utilities(self, at: Moments, items: np.ndarray) -> np.ndarray:
        """Utilities of some items.

        Args:
            at: users and moments, n of them.
            items: items, int64 [n, K].

        Returns:
            float32 [n, K].
        """
        ...

    def all_utilities(self, at: Moments) -> np.ndarray:
        """Utilities of all items, float32 [n, N]."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are saved, by name."""
        ...


@dataclass(frozen=True)
class TableTastes:
    """Tastes that depend on the user and the item alone.

    Attributes:
        table: utilities, float32 [U, N].
    """

    table: np.ndarray
    family: ClassVar[str] = "table"

    @property
    def num_items(self) -> int:
        """Number N of items."""
        return self.table.shape[1]

    def utilities(self, at: Moments, items: np.ndarray) -> np.ndarray:
        """Utilities of some items, float32 [n, K]; see `Tastes`."""
        return self.table[at.users[:, None], items]

    def all_utilities(self, at: Moments) -> np.ndarray:
        """Utilities of all items, float32 [n, N]; see `Tastes`."""
        return self.table[at.users]

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are saved, by name."""
        return {"table": self.table}

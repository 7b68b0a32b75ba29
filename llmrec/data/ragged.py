"""Arrays of different lengths in one flat array, which may be a file that is mapped into memory."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

PART = 1_000_000  # items that a pass over all arrays reads at once


class Ragged(Sequence[np.ndarray]):
    """U arrays that are views of one flat array.

    Args:
        values: the flat array, [E].
        starts: where each array begins in `values`, int64 [U].
        stops: where each array ends in `values`, int64 [U].
    """

    def __init__(self, values: np.ndarray, starts: np.ndarray, stops: np.ndarray):
        self.values = values
        self.starts = starts
        self.stops = stops

    @classmethod
    def of_lengths(cls, values: np.ndarray, lengths: np.ndarray) -> "Ragged":
        """Consecutive arrays of the given lengths, which cover `values`."""
        stops = np.cumsum(lengths, dtype=np.int64)
        return cls(values, stops - lengths, stops)

    @classmethod
    def of(cls, arrays: Iterable[np.ndarray]) -> "Ragged":
        """The same arrays in one flat array; a `Ragged` stays as it is."""
        if isinstance(arrays, cls):
            return arrays
        found = list(arrays)
        values = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
        return cls.of_lengths(values, np.array([len(one) for one in found], dtype=np.int64))

    @property
    def lengths(self) -> np.ndarray:
        """Length of each array, int64 [U]."""
        return self.stops - self.starts

    def first(self, lengths: np.ndarray) -> "Ragged":
        """The first items of each array; `lengths` is int64 [U]."""
        return Ragged(self.values, self.starts, self.starts + lengths)

    def newest(self, count: int) -> "Ragged":
        """At most `count` last items of each array."""
        return Ragged(self.values, np.maximum(self.starts, self.stops - count), self.stops)

    def select(self, rows: Sequence[int] | np.ndarray) -> "Ragged":
        """Some of the arrays, in the order of `rows`."""
        index = np.asarray(rows, dtype=np.int64)
        return Ragged(self.values, self.starts[index], self.stops[index])

    def parts(self, size: int = PART) -> Iterator["Ragged"]:
        """Consecutive arrays with about `size` items together, so that a pass over all of them needs little memory."""
        ends = np.cumsum(self.lengths)
        start = 0
        while start < len(self):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + size, side="right")))
            yield self[start:stop]
            start = stop

    def at(self, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The items at `positions` of the arrays `rows`, each int64 [M]."""
        return self.values[self.starts[rows] + positions]

    def items(self, numbers: np.ndarray) -> np.ndarray:
        """Items by their numbers in `flat`, which is not made."""
        ends = np.cumsum(self.lengths)
        rows = np.searchsorted(ends, numbers, side="right")
        return self.values[self.stops[rows] - (ends[rows] - numbers)]

    def flat(self) -> np.ndarray:
        """All items of all arrays, in order. It is a view if the arrays are consecutive."""
        if not len(self):
            return self.values[:0]
        if (self.starts[1:] == self.stops[:-1]).all():
            return self.values[self.starts[0] : self.stops[-1]]
        lengths = self.lengths
        before = np.cumsum(lengths) - lengths
        return self.values[np.arange(lengths.sum()) + np.repeat(self.starts - before, lengths)]

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[np.ndarray]:
        for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True):
            yield self.values[start:stop]

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> "Ragged": ...

    def __getitem__(self, index: int | slice) -> "np.ndarray | Ragged":
        if isinstance(index, slice):
            return Ragged(self.values, self.starts[index], self.stops[index])
        return self.values[self.starts[index] : self.stops[index]]

"""Splits the time of a program into phases by timing calls of chosen functions."""

import time
from collections import defaultdict
from collections.abc import Callable


class Clock:
    """Time by phase. A phase that runs inside another one is not counted for the outer one."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    def wrap(self, owner: object, name: str, phase: str) -> None:
        """Replaces `owner.name` by a function that counts its time for a phase."""
        function = getattr(owner, name)

        def timed(*arguments: object, **named: object) -> object:
            self._switch(lambda: self._running.append(phase))
            try:
                return function(*arguments, **named)
            finally:
                self._switch(self._running.pop)

        setattr(owner, name, timed)

    def _switch(self, change: Callable[[], object]) -> None:
        now = time.perf_counter()
        if self._running:
            self._seconds[self._running[-1]] += now - self._since
        self._since = now
        change()

    def take(self) -> dict[str, float]:
        """Seconds of each phase since the last call."""
        seconds = dict(self._seconds)
        self._seconds = defaultdict(float)
        return seconds

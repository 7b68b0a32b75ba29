"""Where the time of a stage goes: wall-clock seconds and process time of its parts.

A stage names a part by `with timed("validation"):` or by the decorator `@timed("validation")`. `Run.begin` starts the
clock and `Run.finish` writes what it found. Time inside a nested part is not counted for the outer one, so the parts
add up to the whole.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager

OTHER = "other"  # name of the time outside of all parts


class Clock:
    """Seconds and process time by part. All threads of the process count as process time."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forgets all parts."""
        self._spent: dict[str, tuple[float, float]] = {}
        self._running = [OTHER]
        self._since = _now()

    @contextmanager
    def part(self, name: str) -> Generator[None]:
        """Counts the time inside the `with` block for a part."""
        self._settle()
        self._running.append(name)
        try:
            yield
        finally:
            self._settle()
            self._running.pop()

    def spent(self) -> dict[str, dict[str, float]]:
        """`seconds` and `cpu_seconds` of each part so far, in the order in which the parts first ended."""
        self._settle()
        return {
            name: {"seconds": round(seconds, 3), "cpu_seconds": round(cpu_seconds, 3)}
            for name, (seconds, cpu_seconds) in self._spent.items()
        }

    def _settle(self) -> None:
        """Counts the time since the last change for the innermost part."""
        now = _now()
        name = self._running[-1]
        seconds, cpu_seconds = self._spent.get(name, (0.0, 0.0))
        self._spent[name] = (seconds + now[0] - self._since[0], cpu_seconds + now[1] - self._since[1])
        self._since = now


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


_clock = Clock()  # of the running stage; a process runs one stage at a time


def start_clock() -> None:
    """Forgets the parts of an earlier stage."""
    _clock.restart()


def spent() -> dict[str, dict[str, float]]:
    """`seconds` and `cpu_seconds` of each part since `start_clock`."""
    return _clock.spent()


@contextmanager
def timed(part: str) -> Generator[None]:
    """Counts the time inside the `with` block, or inside the decorated function, for a part of the running stage."""
    with _clock.part(part):
        yield

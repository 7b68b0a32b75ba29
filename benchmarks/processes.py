"""Contenders in processes of their own that take turns: while one works, the others sleep."""

import io
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import transformers

from benchmarks.contenders import Contender

SPAWN = multiprocessing.get_context("spawn")  # a fork would start with the parent's memory


@dataclass(frozen=True)
class Reading:
    """One update.

    Attributes:
        seconds: wall time.
        peak_bytes: most memory that the process ever had (VmHWM).
        facts: what the contender says of the update; may be empty.
        phases: seconds by phase; may be empty.
    """

    seconds: float
    peak_bytes: int
    facts: dict[str, int]
    phases: dict[str, float]


class Child:
    """A contender's process, seen from the parent."""

    def __init__(self, name: str, contender: Contender):
        self.name = name
        self._pipe, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_live, args=(contender, theirs), daemon=True)
        self._process.start()
        theirs.close()  # so that a child that dies is an end of file here

    def receive(self) -> Reading:
        """Waits until it is ready, or has finished its update.

        Raises:
            RuntimeError: it died.
        """
        try:
            return self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"The process of `{self.name}` died; what it said is above.") from None

    def update(self) -> Reading:
        """Lets it run one update."""
        self._pipe.send("go")
        return self.receive()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_) -> None:
        self._pipe.close()
        self._process.join()


def _live(contender: Contender, pipe: Connection) -> None:
    sys.stdout = io.StringIO()  # TRL prints its metrics; stdout belongs to the parent
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    started = time.perf_counter()

    def turn(facts: dict[str, int] | None = None, phases: dict[str, float] | None = None) -> None:
        nonlocal started
        pipe.send(Reading(time.perf_counter() - started, _peak_bytes(), facts or {}, phases or {}))
        try:
            pipe.recv()
        except EOFError:
            raise SystemExit from None  # the parent has seen enough
        started = time.perf_counter()

    contender.run(turn)


def _peak_bytes() -> int:
    """Peak resident set of this process; `getrusage` would tell that of a parent too."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def measure(
    contenders: Mapping[str, Contender], rounds: int, between: Callable[[], None] = lambda: None
) -> dict[str, list[Reading]]:
    """Lets contenders take turns: a warm-up each, then `rounds` times one update each.

    Args:
        between: called after each round, while all are asleep.
    """
    with ExitStack() as stack:
        children = [stack.enter_context(Child(name, contender)) for name, contender in contenders.items()]
        for child in children:
            child.receive()
        for child in children:
            child.update()
        readings: dict[str, list[Reading]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for child in children:
                readings[child.name].append(child.update())
            between()
        return readings


def summary(readings: list[Reading], episodes: int) -> dict:
    """Medians over updates, as JSON values."""
    seconds = [reading.seconds for reading in readings]
    phases = {name: median(r.phases[name] for r in readings) for name in readings[0].phases}
    return {
        "episodes_per_second": episodes / median(seconds),
        "seconds": seconds,
        "peak_gb": max(reading.peak_bytes for reading in readings) / 1e9,
        **readings[0].facts,
        **({"phases": phases} if phases else {}),
    }

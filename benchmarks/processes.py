"""Runs contenders in processes of their own, which take turns: while one works, the others sleep."""

import io
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

from transformers.utils import logging

from benchmarks.contenders import Contender
from benchmarks.resident_memory import peak_bytes

SPAWN = multiprocessing.get_context("spawn")  # a fork would start with the memory of the parent


@dataclass(frozen=True)
class Reading:
    """The measurement of one update.

    Attributes:
        seconds: wall-clock time.
        peak_bytes: peak resident memory of the process so far (VmHWM).
        facts: facts that the contender reports about the update; may be empty.
        phases: seconds by phase; may be empty.
    """

    seconds: float
    peak_bytes: int
    facts: dict[str, int]
    phases: dict[str, float]


class Child:
    """The process of a contender, seen from the parent."""

    def __init__(self, name: str, contender: Contender) -> None:
        self.name = name
        self._pipe, child_end = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_live, args=(contender, child_end), daemon=True)
        self._process.start()
        child_end.close()  # then `recv` raises EOFError if the child dies

    def receive(self) -> Reading:
        """Waits until the contender is ready, or has finished its update.

        Raises:
            RuntimeError: the process died.
        """
        try:
            return self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"The process of `{self.name}` died. Its output is above.") from None

    def update(self) -> Reading:
        """Lets the contender run one update."""
        self._pipe.send("go")
        return self.receive()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join()


def _live(contender: Contender, pipe: Connection) -> None:
    sys.stdout = io.StringIO()  # TRL prints its metrics, but stdout belongs to the parent
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    started = time.perf_counter()

    def end_of_update(facts: dict[str, int] | None = None, phases: dict[str, float] | None = None) -> None:
        nonlocal started
        seconds = time.perf_counter() - started
        pipe.send(Reading(seconds=seconds, peak_bytes=peak_bytes(), facts=facts or {}, phases=phases or {}))
        try:
            pipe.recv()
        except EOFError:
            raise SystemExit from None  # the parent wants no further update
        started = time.perf_counter()

    contender.run(end_of_update)


def measure(
    contenders: Mapping[str, Contender], rounds: int, between: Callable[[], None] = lambda: None
) -> dict[str, list[Reading]]:
    """Lets contenders take turns: one update each to warm up, then one measured update each per round.

    Args:
        contenders: contenders by name.
        rounds: number of rounds.
        between: called after each round, while all contenders are asleep.

    Returns:
        the measured updates of each contender.
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


def summary(readings: list[Reading], episodes: int) -> dict[str, Any]:
    """Medians over the updates of one contender, as JSON values."""
    seconds = [reading.seconds for reading in readings]
    phases = {name: median(r.phases[name] for r in readings) for name in readings[0].phases}
    return {
        "episodes_per_second": episodes / median(seconds),
        "seconds": seconds,
        "peak_gb": max(reading.peak_bytes for reading in readings) / 1e9,
        **readings[0].facts,
        **({"phases": phases} if phases else {}),
    }

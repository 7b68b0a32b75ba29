"""The model thread: it answers waiting rankings of several people in one forward pass, and writes reasons between."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from llmrec.data.decision import Decision
from llmrec.policy.ranking import item_scores
from llmrec.recommend import Justification, Recommender

Result = TypeVar("Result")
MAX_WAITING = 512  # rankings or reasons that wait for the model; more are refused
MAX_BATCH = 32  # prompts in a forward pass
REASONS_AT_ONCE = 4  # a ranking waits for at most one such batch
CACHE_BYTES = 64 * 2**20

_Key = tuple[str, str, bytes, bytes]  # of a ranking that is kept


class EngineBusyError(Exception):
    """More requests are waiting than the model can answer at present."""


@dataclass(frozen=True)
class _Job(Generic[Result]):
    """A question to the model that waits for its answer."""

    decision: Decision
    item: int | None
    arrived: float
    done: "Future[Result]"


class ScoreCache:
    """Rankings of people whose history has not changed, the most recently used ones.

    Args:
        max_bytes: size of the rankings that are kept, with what they depend on.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES):
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Key, np.ndarray] = OrderedDict()

    def get(self, decision: Decision) -> np.ndarray | None:
        """The ranking of a decision, if it is kept."""
        key = _key(decision)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, decision: Decision, scores: np.ndarray) -> None:
        """Keeps a ranking, and drops the least recently used ones beyond the size."""
        key = _key(decision)
        with self._lock:
            if key in self._kept or _size(key, scores) > self._max_bytes:
                return
            self._kept[key] = scores
            self._bytes += _size(key, scores)
            while self._bytes > self._max_bytes:
                self._bytes -= _size(*self._kept.popitem(last=False))


def _size(key: _Key, scores: np.ndarray) -> int:
    """Bytes of a ranking that is kept. Its key holds the excluded items, so it may be the larger part."""
    return scores.nbytes + sum(len(part) for part in key)


def _key(decision: Decision) -> _Key:
    """All that a ranking depends on."""
    asked = "" if decision.request is None else decision.request.text
    prior = np.asarray(decision.prior, dtype=np.int64).tobytes()
    prior += np.asarray(decision.excluded, dtype=np.int64).tobytes()
    return decision.profile, asked, prior, np.asarray(decision.items, dtype=np.int64).tobytes()


class Engine:
    """Answers questions to a model from many threads. One thread of its own uses the model.

    The thread takes all rankings that wait, at most `max_batch`, after it has waited `patience` for others. Reasons are
    written while no ranking waits, a few at a time.

    Args:
        recommender: the model.
        max_batch: prompts in a forward pass.
        patience: seconds that the first ranking of a batch waits for others.
        on_batch: called with the number of rankings of each forward pass.
        on_cache: called for each ranking with whether it was kept from before.
    """

    def __init__(
        self,
        recommender: Recommender,
        max_batch: int = MAX_BATCH,
        patience: float = 0.003,
        on_batch: Callable[[int], None] = lambda size: None,
        on_cache: Callable[[bool], None] = lambda hit: None,
    ):
        self._recommender = recommender
        self._max_batch = max_batch
        self._patience = patience
        self._on_batch = on_batch
        self._on_cache = on_cache
        self._cache = ScoreCache()
        self._rankings: deque[_Job[np.ndarray]] = deque()
        self._reasons: deque[_Job[Justification]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._answer_all, name="model", daemon=True)
        self._thread.start()

    def rank(self, decision: Decision) -> "Future[np.ndarray]":
        """The promise of the log-probability of every item, float32 [N]; -inf for items that may not be recommended.

        Raises:
            EngineBusyError: too many questions are waiting.
        """
        kept = self._cache.get(decision)
        self._on_cache(kept is not None)
        if kept is not None:
            done: Future[np.ndarray] = Future()
            done.set_result(kept)
            return done
        return self._ask(self._rankings, decision, None)

    def justify(self, decision: Decision, item: int) -> "Future[Justification]":
        """The promise of the reason for an item; errors as in `rank`."""
        return self._ask(self._reasons, decision, item)

    def waiting(self) -> int:
        """Rankings and reasons that wait for the model."""
        return len(self._rankings) + len(self._reasons)

    def alive(self) -> bool:
        """Whether the model thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Ends the thread after the present batch. Questions that still wait are cancelled."""
        self.end()
        self._thread.join()
        for job in (*self._rankings, *self._reasons):
            job.done.cancel()

    def end(self) -> None:
        """Tells the thread to end after the present batch, and does not wait for that."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _ask(self, queue: "deque[_Job[Any]]", decision: Decision, item: int | None) -> "Future[Any]":
        job: _Job[Any] = _Job(decision, item, time.monotonic(), Future())
        with self._changed:
            if self._closed or len(queue) >= MAX_WAITING:
                raise EngineBusyError
            queue.append(job)
            self._changed.notify()
        return job.done

    # --- the model thread ---

    def _answer_all(self) -> None:
        while True:
            rankings, reasons = self._next_batch()
            if self._closed:
                return
            _answer(rankings, self._rank)
            _answer(reasons, self._justify)

    def _next_batch(self) -> tuple[list[_Job[np.ndarray]], list[_Job[Justification]]]:
        """Waits for questions. Reasons are returned only if no ranking waits."""
        with self._changed:
            while not (self._rankings or self._reasons or self._closed):
                self._changed.wait()
            while self._rankings and len(self._rankings) < self._max_batch and not self._closed:
                left = self._rankings[0].arrived + self._patience - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            rankings = _take(self._rankings, self._max_batch)
            return rankings, [] if rankings else _take(self._reasons, REASONS_AT_ONCE)

    def _rank(self, jobs: Sequence[_Job[np.ndarray]]) -> list[np.ndarray]:
        decisions = [job.decision for job in jobs]
        self._on_batch(len(decisions))
        batch = next(item_scores(self._recommender.policy, decisions, batch_size=len(decisions)))
        scores = list(batch.float().cpu().numpy())
        for decision, row in zip(decisions, scores, strict=True):
            self._cache.put(decision, row.copy())
        return scores

    def _justify(self, jobs: Sequence[_Job[Justification]]) -> list[Justification]:
        items = [job.item for job in jobs if job.item is not None]
        return self._recommender.justify([job.decision for job in jobs], items)


def _take(queue: "deque[_Job[Result]]", count: int) -> list[_Job[Result]]:
    """The first jobs of a queue whose client still waits."""
    taken: list[_Job[Result]] = []
    while queue and len(taken) < count:
        job = queue.popleft()
        if job.done.set_running_or_notify_cancel():
            taken.append(job)
    return taken


def _answer(jobs: list[_Job[Result]], ask: Callable[[list[_Job[Result]]], list[Result]]) -> None:
    """Answers jobs together. If that fails, each is tried alone, so that one cannot fail the others."""
    if not jobs:
        return
    try:
        results = ask(jobs)
    except Exception as error:  # whatever happens, the thread goes on and the client hears of it
        if len(jobs) == 1:
            jobs[0].done.set_exception(error)
            return
        for job in jobs:
            _answer([job], ask)
        return
    for job, result in zip(jobs, results, strict=True):
        job.done.set_result(result)

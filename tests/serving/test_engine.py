"""The model thread: batches, the order of rankings and reasons, kept rankings, errors and cancellation."""

import threading
from concurrent.futures import CancelledError
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from llmrec.data.decision import stranger
from llmrec.recommend import Justification, Recommender
from llmrec.serving.engine import Engine, EngineBusyError, ScoreCache


class FakeRecommender:
    """Scores that say which history they are for. It waits for `gate` before each call."""

    def __init__(self) -> None:
        self.policy = SimpleNamespace()
        self.calls: list[tuple[str, list[int]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def scores(self, policy: Any, decisions: list, batch_size: int):
        self._note("rank", [int(decision.items[0]) for decision in decisions])
        yield torch.tensor([[float(decision.items[0])] for decision in decisions])

    def justify(self, decisions: list, items: list[int]) -> list[Justification]:
        self._note("justify", items)
        return [Justification(f"because of {item}", True) for item in items]

    def _note(self, name: str, values: list[int]) -> None:
        self.calls.append((name, values))
        self.entered.release()
        self.gate.wait(10)
        if 13 in values and len(values) > 0:
            raise ValueError("13 is unlucky")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRecommender:
    fake = FakeRecommender()
    monkeypatch.setattr("llmrec.serving.engine.item_scores", fake.scores)
    return fake


@pytest.fixture
def engine(fake: FakeRecommender):
    engine = Engine(cast(Recommender, fake), max_batch=4)
    yield engine
    fake.gate.set()
    engine.close()


def occupy(fake: FakeRecommender, engine: Engine) -> None:
    """Makes the model thread wait in a first call."""
    fake.gate.clear()
    engine.rank(stranger([99], 5))
    fake.entered.acquire()


def test_waiting_rankings_share_a_forward_pass(fake: FakeRecommender, engine: Engine) -> None:
    occupy(fake, engine)
    promises = [engine.rank(stranger([n], 5)) for n in range(6)]
    assert engine.waiting() == 6
    fake.gate.set()
    assert [float(promise.result(10)[0]) for promise in promises] == [0, 1, 2, 3, 4, 5]
    assert fake.calls == [("rank", [99]), ("rank", [0, 1, 2, 3]), ("rank", [4, 5])]


def test_rankings_come_before_reasons_and_reasons_share_a_batch(fake: FakeRecommender, engine: Engine) -> None:
    occupy(fake, engine)
    reasons = [engine.justify(stranger([1], 5), item) for item in range(5)]
    ranking = engine.rank(stranger([7], 5))
    fake.gate.set()
    assert [reason.result(10).text for reason in reasons] == [f"because of {item}" for item in range(5)]
    assert ranking.result(10) is not None
    assert fake.calls[1:] == [("rank", [7]), ("justify", [0, 1, 2, 3]), ("justify", [4])]


def test_one_bad_question_does_not_fail_the_others(fake: FakeRecommender, engine: Engine) -> None:
    occupy(fake, engine)
    promises = [engine.rank(stranger([n], 5)) for n in (12, 13, 14)]
    fake.gate.set()
    assert float(promises[0].result(10)[0]) == 12 and float(promises[2].result(10)[0]) == 14
    with pytest.raises(ValueError, match="unlucky"):
        promises[1].result(10)
    assert engine.alive()


def test_what_was_cancelled_is_not_asked(fake: FakeRecommender, engine: Engine) -> None:
    occupy(fake, engine)
    reasons = [engine.justify(stranger([1], 5), item) for item in range(3)]
    reasons[0].cancel()
    reasons[2].cancel()
    fake.gate.set()
    assert reasons[1].result(10).text == "because of 1"
    assert fake.calls[1:] == [("justify", [1])]


def test_a_full_queue_refuses(fake: FakeRecommender, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmrec.serving.engine.MAX_WAITING", 2)
    occupy(fake, engine)
    promises = [engine.rank(stranger([n], 5)) for n in range(2)]
    with pytest.raises(EngineBusyError):
        engine.rank(stranger([5], 5))
    fake.gate.set()
    assert all(promise.result(10) is not None for promise in promises)


def test_a_ranking_is_kept_until_the_history_changes(fake: FakeRecommender, engine: Engine) -> None:
    for items, excluded in (([1, 2], []), ([1, 2], []), ([1, 2], [5]), ([1, 2, 3], []), ([1, 2], [])):
        engine.rank(stranger(items, 5, excluded)).result(10)
    assert [values for _, values in fake.calls] == [[1], [1], [1]]


def test_a_closed_engine_cancels_what_waits(fake: FakeRecommender) -> None:
    engine = Engine(cast(Recommender, fake))
    occupy(fake, engine)
    waiting = engine.justify(stranger([1], 5), 0)
    closing = threading.Thread(target=engine.close)
    closing.start()
    fake.gate.set()
    closing.join(10)
    with pytest.raises((CancelledError, TimeoutError)):
        waiting.result(0)
    with pytest.raises(EngineBusyError):
        engine.rank(stranger([2], 5))


def test_the_cache_drops_the_least_recently_used() -> None:
    """A ranking of two items has 8 bytes, and what it depends on 16: the profile "new user" and one seen item."""
    cache = ScoreCache(max_bytes=2 * 24)
    a, b, c = (stranger([n], 5) for n in range(3))
    for decision in (a, b):
        cache.put(decision, np.zeros(2, dtype=np.float32))
    assert cache.get(a) is not None
    cache.put(c, np.zeros(2, dtype=np.float32))
    assert cache.get(b) is None and cache.get(a) is not None and cache.get(c) is not None
    cache.put(b, np.zeros(100, dtype=np.float32))  # larger than the cache
    assert cache.get(b) is None and cache.get(a) is not None


def test_what_a_ranking_depends_on_counts_in_the_cache() -> None:
    """A request for one category leaves out nearly all items, whose indices are larger than the ranking."""
    cache = ScoreCache(max_bytes=1000)
    for left_out in range(20):
        cache.put(replace(stranger([1], 5), excluded=list(range(left_out, left_out + 50))), np.zeros(50, np.float32))
    assert len(cache._kept) == 1  # pyright: ignore[reportPrivateUsage]  # 200 bytes of scores, 416 of the rest

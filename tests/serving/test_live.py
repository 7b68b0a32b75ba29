"""Exchange of versions while requests run: no request fails, and each list is ranked by the version that it names."""

import asyncio
import gc
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from peft.tuners.lora import LoraLayer

from llmrec.policy.model import RecPolicy
from llmrec.serving import tables
from llmrec.serving.live import Follower, load_version
from llmrec.serving.messages import RecommendRequest
from llmrec.serving.server import Model, serving
from llmrec.serving.service import Service
from llmrec.versions.registry import Registry, Version
from tests.serving.conftest import options


@pytest.fixture
def followed(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(Follower.__init__, "__defaults__", (0.02,))
    with serving(Model.of_registry(registry, quantized=True), options(tmp_path / "feedback.db")) as service:
        yield service


def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.005)


def scores_of(registry: Registry, version: Version) -> np.ndarray:
    """Probability of each item for somebody who has seen i1, by a version that nothing else uses."""
    model = Model.of_registry(registry, quantized=True)
    recommender = model.recommender if version.number == model.number else model.other(version)
    ranked = recommender.recommend(history=[1], top_k=10)
    index = {item: number for number, item in enumerate(recommender.policy.vocabulary.item_ids)}
    scores = np.zeros(len(index))
    scores[[index[one.item_id] for one in ranked]] = [one.score or 0.0 for one in ranked]
    return scores


def test_versions_change_under_load_without_a_failed_request(registry: Registry, followed: Service) -> None:
    expected = {one.label: scores_of(registry, one) for one in registry.versions()}
    requests = 0
    stop = threading.Event()

    async def client(number: int) -> None:
        nonlocal requests
        while not stop.is_set():
            request = RecommendRequest(user=f"new-{number}-{requests}", history=["i1"], k=3)
            answer = await followed.recommend(request)
            assert answer.recorded
            requests += 1

    async def clients() -> None:
        await asyncio.gather(*(client(number) for number in range(8)))

    load = threading.Thread(target=lambda: asyncio.run(clients()))
    load.start()
    try:
        for change in (
            lambda: registry.start_canary(1, 0.5, "it passed", {}),
            lambda: registry.promote(1, "better"),
            lambda: registry.promote(2, "better still"),
            lambda: registry.roll_back("worse"),
        ):
            change()
            until(lambda: followed.live.traffic == registry.traffic())
            until(lambda enough=requests + 20: requests > enough)
    finally:
        stop.set()
        load.join()
    rows = followed.store.rows(tables.impressions, ["at"])
    assert len({row["request_id"] for row in rows}) == requests > 80
    assert {row["policy"] for row in rows} == set(expected)
    items = {item: number for number, item in enumerate(followed.items.ids)}
    for row in rows:
        assert row["score"] == pytest.approx(expected[row["policy"]][items[row["item_id"]]], abs=1e-5)


def test_served_models_are_merged_once(registry: Registry, tmp_path: Path) -> None:
    model = Model.of_registry(registry, quantized=True)
    alone = model.recommender.recommend(history=[1], top_k=3)
    layers = [module for module in model.recommender.policy.modules() if isinstance(module, LoraLayer)]
    for _ in range(2):
        with serving(model, options(tmp_path / "feedback.db")):
            assert layers and all(layer.merged for layer in layers)
            again = model.recommender.recommend(history=[1], top_k=3)
        assert [one.item_id for one in again] == [one.item_id for one in alone]
        assert [one.score for one in again] == pytest.approx([one.score for one in alone], abs=1e-6)


def test_versions_are_loaded_one_at_a_time(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    load = RecPolicy.from_pretrained
    inside: list[int] = []
    most = 0

    def slowly(adapter: Path, quantized: bool) -> RecPolicy:
        nonlocal most
        inside.append(1)
        most = max(most, len(inside))
        time.sleep(0.05)  # the others come in meanwhile, if nothing stops them
        policy = load(adapter, quantized=quantized)
        inside.pop()
        return policy

    monkeypatch.setattr(RecPolicy, "from_pretrained", slowly)
    threads = [threading.Thread(target=load_version, args=(registry.run, one)) for one in registry.versions()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(threads) == 3 and most == 1


def test_a_canary_serves_its_users_alone(registry: Registry, followed: Service) -> None:
    registry.start_canary(2, 0.3, "it passed", {})
    until(lambda: followed.live.traffic.canary == 2)
    labels = {version.number: version.label for version in registry.versions()}
    traffic = registry.traffic()
    for user in [*(f"person-{number}" for number in range(20)), None]:
        request = RecommendRequest(user=user, history=["i1"], k=1)
        assert asyncio.run(followed.recommend(request)).policy == labels[traffic.version_of(user)]
    text = followed.metrics.text().decode()
    assert "llmrec_current_version 0.0" in text and "llmrec_canary_share 0.3" in text


def test_a_stream_that_has_begun_ends_with_its_version(registry: Registry, followed: Service) -> None:
    async def stream() -> tuple[str, int]:
        response, reasons = await followed.stream(RecommendRequest(history=["i1"], k=4))
        registry.promote(1, "better")
        while followed.live.traffic.current != 1:
            await asyncio.sleep(0.01)
        return response.policy, len([reason async for reason in reasons])

    first = followed.live.current.engine
    assert asyncio.run(stream()) == (registry.find(0).label, 4)
    gc.collect()
    until(lambda: not first.alive())  # nobody holds version 0 any more
    assert followed.live.alive()


def test_a_version_that_cannot_be_loaded_changes_nothing(registry: Registry, followed: Service) -> None:
    registry.start_canary(1, 0.5, "it passed", {})
    until(lambda: followed.live.traffic.canary == 1)
    shutil.rmtree(registry.find(2).adapter)
    history = registry.directory / "history.jsonl"
    history.write_text(history.read_text() + '{"version": 2, "state": "current", "at": "", "why": ""}\n')
    time.sleep(0.2)
    assert followed.live.traffic.current == 0
    assert len(asyncio.run(followed.recommend(RecommendRequest(history=["i1"], k=2))).items) == 2


def test_a_restarted_server_serves_the_current_version_and_the_canary(registry: Registry, tmp_path: Path) -> None:
    registry.promote(1, "better")
    registry.start_canary(2, 0.5, "it passed", {})
    with serving(Model.of_registry(registry, quantized=True), options(tmp_path / "f.db")) as service:
        assert service.live.current.label == registry.find(1).label
        assert service.live.traffic == registry.traffic()

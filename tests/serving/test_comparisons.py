"""Comparisons of two versions: who sees which list, what is said when, votes and their tally."""

import asyncio
import gc
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from llmrec.serving import tables
from llmrec.serving.app import make_app
from llmrec.serving.comparisons import Comparisons, tallies, wilson_interval
from llmrec.serving.errors import ApiError
from llmrec.serving.messages import ComparisonRequest, Tally
from llmrec.serving.server import Model, serving
from llmrec.serving.service import Service
from llmrec.versions.registry import Registry
from tests.serving.conftest import LIMITS, options

KEY = "a-key-of-sixteen-characters"


@pytest.fixture
def compared(registry: Registry, tmp_path: Path) -> Iterator[Service]:
    """A server of version 0, with the candidates 1 and 2."""
    with serving(Model.of_registry(registry, quantized=True), options(tmp_path / "feedback.db")) as service:
        yield service


@pytest.fixture
def comparing(compared: Service) -> TestClient:
    return TestClient(make_app(compared, LIMITS, ()))


def draw(client: TestClient, **request) -> dict:
    answer = client.post("/comparisons", json={"history": ["i1"], "k": 6} | request)
    assert answer.status_code == 200, answer.text
    return answer.json()


def vote(client: TestClient, shown: dict, verdict: str) -> dict:
    answer = client.post(f"/comparisons/{shown['comparison_id']}/vote", json={"verdict": verdict})
    assert answer.status_code == 200, answer.text
    return answer.json()


def refusal(answer) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_each_list_is_that_of_the_version_that_the_vote_names(
    comparing: TestClient, compared: Service, registry: Registry
) -> None:
    label = {one.number: one.label for one in registry.versions()}
    model = Model.of_registry(registry, quantized=True)
    expected = {
        label[number]: [
            item.item_id
            for item in (model.recommender if number == 0 else model.other(registry.find(number))).recommend(
                history=[1], top_k=6
            )
        ]
        for number in (0, 1, 2)
    }
    assert len({tuple(items) for items in expected.values()}) == 3
    on_the_left = []
    for versions in (None, [2, 1]):
        for _ in range(20):
            shown = draw(comparing, versions=versions)
            assert not any(name in str(shown) for name in label.values())
            said = vote(comparing, shown, "tie")
            for side in ("left", "right"):
                assert [item["item"] for item in shown[side]] == expected[said[side]]
            assert {said["left"], said["right"]} == {label[2], label[1 if versions else 0]}
            on_the_left.append(said["left"])
    assert set(on_the_left[:20]) == {label[0], label[2]} and set(on_the_left[20:]) == {label[1], label[2]}
    assert compared.store.rows(tables.impressions, ["at"]) == []


def test_a_comparison_has_one_vote(comparing: TestClient, compared: Service, registry: Registry) -> None:
    shown = draw(comparing)
    said = vote(comparing, shown, "left")
    assert vote(comparing, shown, "left") == said
    place = f"/comparisons/{shown['comparison_id']}/vote"
    assert refusal(comparing.post(place, json={"verdict": "right"})) == (409, "already_voted")
    assert refusal(comparing.post("/comparisons/nothing/vote", json={"verdict": "tie"})) == (404, "unknown_comparison")
    assert comparing.post(place, json={"verdict": "left", "left": "sft@0"}).status_code == 422
    first, second = sorted((registry.find(0).label, registry.find(2).label))
    (pair,) = comparing.get("/comparisons").json()["pairs"]
    assert (pair["first"], pair["second"], pair["ties"]) == (first, second, 0)
    assert (pair["first_better"], pair["second_better"]) == ((1, 0) if said["left"] == first else (0, 1))


def test_versions_are_those_with_weights(comparing: TestClient, registry: Registry) -> None:
    registry.register(3, 0, registry.find(1).folder, "worse", {}, rejected=True)
    found = comparing.get("/versions").json()
    assert [(one["version"], one["state"]) for one in found["versions"]] == [
        (0, "current"),
        (1, "candidate"),
        (2, "candidate"),
    ]
    assert found["versions"][1]["policy"] == registry.find(1).label and found["default"] == [0, 2]
    registry.start_canary(1, 0.5, "it passed", {})
    assert comparing.get("/versions").json()["default"] == [0, 1]
    for versions in ([0, 3], [7, 1]):
        answer = comparing.post("/comparisons", json={"versions": versions})
        assert refusal(answer) == (404, "unknown_version") and "there are 0, 1, 2" in answer.json()["error"]["message"]
    same = comparing.post("/comparisons", json={"versions": [1, 1]})
    assert refusal(same) == (422, "invalid_request")


def test_one_version_alone_is_not_compared(client: TestClient) -> None:
    assert refusal(client.post("/comparisons", json={"user": "u1"})) == (409, "one_version")
    assert client.get("/versions").json() == {"versions": [], "default": []}
    assert client.get("/comparisons").json() == {"pairs": []}


def test_two_versions_at_most_are_kept_beside_those_that_answer(compared: Service) -> None:
    comparisons = Comparisons(compared)
    engines: dict[int, object] = {}

    def kept() -> list[int]:
        return sorted(compared.contenders._kept)

    async def draw_all() -> None:
        for versions, expected in (([0, 1], [1]), ([1, 2], [1, 2]), ([0, 2], [2])):
            await comparisons.draw(ComparisonRequest(history=["i1"], k=2, versions=versions))
            assert kept() == expected
            engines.update({number: one.engine for number, one in compared.contenders._kept.items()})

    asyncio.run(draw_all())
    gc.collect()
    engines[1]._thread.join(60)  # type: ignore[attr-defined]
    assert not engines[1].alive() and engines[2].alive()  # type: ignore[attr-defined]


def test_versions_leave_the_memory_when_nobody_compares(compared: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the last comparison was refused."""
    monkeypatch.setattr("llmrec.serving.comparisons.IDLE_SECONDS", 1.0)

    async def compare_and_wait() -> None:
        comparisons = Comparisons(compared)
        await comparisons.draw(ComparisonRequest(history=["i1"], k=2))
        with pytest.raises(ApiError, match="no version 7"):
            await comparisons.draw(ComparisonRequest(history=["i1"], k=2, versions=[0, 7]))
        assert compared.contenders._kept
        while compared.contenders._kept:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(compare_and_wait(), 60))


def test_a_version_without_its_files_is_an_error_of_the_server(comparing: TestClient, registry: Registry) -> None:
    shutil.rmtree(registry.find(2).adapter)
    answer = comparing.post("/comparisons", json={"history": ["i1"]})
    assert refusal(answer) == (503, "model_unavailable") and str(registry.directory) not in answer.text
    assert len(draw(comparing, versions=[0, 1])["left"]) == 6


def test_an_erased_person_has_no_comparisons(comparing: TestClient, compared: Service) -> None:
    mine = draw(comparing, user="u3", history=None)
    vote(comparing, mine, "left")
    open_one = draw(comparing, user="u3", history=None)
    draw(comparing, user="u4", history=None)
    assert comparing.delete("/users/u3").json()["comparisons"] == 2
    assert [row["user_id"] for row in compared.store.rows(tables.comparisons, ["at"])] == ["u4"]
    late = comparing.post(f"/comparisons/{open_one['comparison_id']}/vote", json={"verdict": "left"})
    assert refusal(late) == (404, "unknown_comparison")
    assert comparing.get("/comparisons").json() == {"pairs": []}


def test_comparisons_need_a_key_and_are_documented(service: Service) -> None:
    client = TestClient(make_app(service, LIMITS, [KEY]))
    assert client.get("/versions").status_code == client.get("/comparisons").status_code == 401
    assert client.post("/comparisons", json={}).status_code == 401
    document = client.get("/openapi.json", headers={"X-API-Key": KEY}).json()
    for path in ("/comparisons", "/comparisons/{comparison}/vote"):
        assert set(document["paths"][path]["post"]["responses"]) >= {"200", "401", "404", "409", "422", "429", "503"}
    for name in ("ComparisonRequest", "VoteRequest"):
        assert document["components"]["schemas"][name]["examples"]


def test_sides_are_swapped_before_votes_are_counted() -> None:
    votes = [("b", "a", "left", 2), ("a", "b", "left", 5), ("a", "b", "right", 1), ("b", "a", "tie", 4)]
    votes.append(("a", "c", "tie", 1))
    # a against b: 5 for a; 2 + 1 for b. Wilson's interval of 5 / 8 is that of the next test.
    assert tallies(votes) == [
        Tally(
            first="a",
            second="b",
            first_better=5,
            second_better=3,
            ties=4,
            share=5 / 8,
            low=wilson_interval(5, 8)[0],
            high=wilson_interval(5, 8)[1],
        ),
        Tally(first="a", second="c", first_better=0, second_better=0, ties=1, share=None, low=None, high=None),
    ]


@pytest.mark.parametrize(("successes", "trials"), [(5, 8), (0, 1), (3, 3), (450, 1000)])
def test_intervals_are_those_of_scipy(successes: int, trials: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)

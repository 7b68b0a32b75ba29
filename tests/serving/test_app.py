"""The HTTP interface, end to end on a tiny policy: answers, streams, errors and what is recorded."""

import asyncio
import json
import time

import pytest
from starlette.testclient import TestClient

from llmrec.policy.model import RecPolicy
from llmrec.recommend import Recommender
from llmrec.serving.app import make_app
from llmrec.serving.server import Model, serving
from llmrec.serving.service import Service
from llmrec.serving.store import StoreError
from llmrec.serving.tables import feedback, impressions
from tests.conftest import make_config, make_data
from tests.serving.conftest import LIMITS, options


def recommend(client: TestClient, **request) -> dict:
    answer = client.post("/recommend", json=request)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(*rows: tuple) -> dict:
    keys = ("event_id", "user", "item", "type", "value", "request_id")
    return {"events": [dict(zip(keys, row, strict=False)) for row in rows]}


def ids(answer: dict) -> list[str]:
    return [item["item"] for item in answer["items"]]


# --- recommendations ---


def test_a_list_is_that_of_the_recommender(client: TestClient, recommender: Recommender) -> None:
    answer = recommend(client, user="u3", k=4)
    expected = recommender.recommend(user="u3", top_k=4)
    assert ids(answer) == [item.item_id for item in expected]
    assert [item["score"] for item in answer["items"]] == pytest.approx([item.score for item in expected], rel=1e-4)
    assert [item["position"] for item in answer["items"]] == [1, 2, 3, 4]
    assert answer["policy"] == "tiny@1" and answer["recorded"] is True
    assert "reason" not in answer["items"][0]


def test_reasons_are_those_of_the_recommender(client: TestClient, recommender: Recommender) -> None:
    answer = recommend(client, history=["i0", "i1"], k=2, reasons="complete")
    expected = recommender.recommend(history=[0, 1], top_k=2)
    found = [(item["item"], item["reason"], item["grounded"]) for item in answer["items"]]
    assert found == [(item.item_id, item.justification, item.grounded) for item in expected]


def test_a_stream_sends_items_first_and_then_each_reason(client: TestClient) -> None:
    complete = recommend(client, history=["i0", "i1"], k=3, reasons="complete")
    answer = client.post("/recommend", json={"history": ["i0", "i1"], "k": 3, "reasons": "stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    parts = [part.split("\n") for part in answer.text.strip().split("\n\n")]
    names = [part[0].removeprefix("event: ") for part in parts]
    values = [json.loads(part[1].removeprefix("data: ")) for part in parts]
    assert names == ["items", "reason", "reason", "reason", "done"]
    assert ids(values[0]) == ids(complete)
    assert [(v["position"], v["reason"]) for v in values[1:4]] == [
        (item["position"], item["reason"]) for item in complete["items"]
    ]


def test_categories_and_exclusions_are_kept(client: TestClient) -> None:
    """Comedies are the items 1, 2 and 6; item 1 is in the history."""
    answer = recommend(client, history=["i1"], categories=["Comedy"], exclude=["i6"], k=10)
    assert ids(answer) == ["i2"]
    assert answer["items"][0]["score"] == pytest.approx(1)


def test_everybody_else_is_a_new_person(client: TestClient) -> None:
    assert sorted(ids(recommend(client, k=50))) == sorted(ids(recommend(client, user="nobody", k=50)))


def test_diversity_changes_the_order_and_not_the_scores(client: TestClient) -> None:
    plain = recommend(client, user="u1", k=6)
    diverse = recommend(client, user="u1", k=6, diversity=10)
    assert sorted(ids(plain)) == sorted(ids(diverse)) and ids(plain) != ids(diverse)
    score = {item["item"]: item["score"] for item in plain["items"]}
    assert {item["item"]: item["score"] for item in diverse["items"]} == score


def test_sampled_lists_are_recorded_with_their_propensities(recommender: Recommender, tmp_path) -> None:
    with serving(Model(recommender, "tiny@1"), options(tmp_path / "f.db", sampled_share=1.0)) as service:
        client = TestClient(make_app(service, LIMITS, ()))
        answers = [recommend(client, user="u1", k=6) for _ in range(5)]
        rows = service.store.rows(impressions, ["at", "request_id", "position"])
    assert len({tuple(ids(answer)) for answer in answers}) > 1
    assert all(answer["sampled"] for answer in answers)
    for answer in answers:
        shown = [row for row in rows if row["request_id"] == answer["request_id"]]
        assert [(row["item_id"], row["position"], row["propensity"]) for row in shown] == [
            (item["item"], item["position"], item["propensity"]) for item in answer["items"]
        ]
        left = 1.0
        for item in answer["items"]:
            assert item["propensity"] == pytest.approx(item["score"] / left, rel=1e-6)
            left -= item["score"]


def test_requests_in_words_reach_the_policy(tiny_base: str, tmp_path) -> None:
    config = make_config(tiny_base, sft={"requests": 0.5})
    recommender = Recommender(RecPolicy.create(config, make_data()), 24, make_data())
    with serving(Model(recommender, "tiny@1"), options(tmp_path / "f.db")) as service:
        client = TestClient(make_app(service, LIMITS, ()))
        answer = recommend(client, history=["i0"], request="funny", k=9)
        expected = recommender.recommend(history=[0], request="funny", top_k=9)
        assert [(item["item"], item["satisfies"]) for item in answer["items"]] == [
            (item.item_id, item.satisfies) for item in expected
        ]
        assert ids(recommend(client, history=["i0"], k=9)) != ids(answer)
        nothing = client.post("/recommend", json={"history": ["i2"], "request": "a funny musical"})
        assert nothing.status_code == 409 and nothing.json()["error"]["code"] == "no_item_satisfies"


def test_a_policy_that_reads_no_requests_says_so(client: TestClient) -> None:
    answer = client.post("/recommend", json={"request": "funny"})
    assert answer.status_code == 422 and answer.json()["error"]["code"] == "requests_not_read"


# --- feedback and people ---


def test_a_click_joins_the_history_and_a_skip_leaves_the_lists(client: TestClient) -> None:
    before = ids(recommend(client, user="u3", k=10))
    sent = client.post("/feedback", json=events(("a", "u3", before[0], "click"), ("b", "u3", before[1], "skip")))
    assert sent.json() == {"accepted": 2, "duplicates": 0}
    assert sorted(ids(recommend(client, user="u3", k=10))) == sorted(before[2:])
    person = client.get("/users/u3").json()
    assert [item["item"] for item in person["history"]] == ["i8", "i6", "i4", before[0]]
    assert [item["item"] for item in person["skipped"]] == [before[1]]
    assert person["events"] == 2
    assert "42" in client.get("/users/u2").json()["profile"]


def test_an_event_is_stored_once(client: TestClient, service: Service) -> None:
    batch = events(("a", "x", "i1", "rating", 4), ("b", "x", "i2", "purchase"))
    assert client.post("/feedback", json=batch).json() == {"accepted": 2, "duplicates": 0}
    batch["events"].append({"event_id": "c", "user": "x", "item": "i3", "type": "impression"})
    assert client.post("/feedback", json=batch).json() == {"accepted": 1, "duplicates": 2}
    rows = service.store.rows(feedback, ["event_id"])
    assert [(row["event_id"], row["type"], row["value"]) for row in rows] == [
        ("a", "rating", 4.0),
        ("b", "purchase", None),
        ("c", "impression", None),
    ]


def test_a_batch_with_an_unknown_item_is_refused_whole(client: TestClient, service: Service) -> None:
    answer = client.post("/feedback", json=events(("a", "x", "i1", "click"), ("b", "x", "i77", "click")))
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_item" and "did you mean i7" in answer.json()["error"]["message"]
    assert service.store.rows(feedback, ["event_id"]) == []


def test_a_large_catalogue_is_not_searched_for_similar_names(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a catalogue of 100,000 items, the search takes two seconds, for which clients could ask at any rate."""
    monkeypatch.setattr("llmrec.serving.items.MOST_COMPARED", 9)
    monkeypatch.setattr("llmrec.serving.items.nearest", lambda *_: pytest.fail("compared"))
    answer = client.post("/feedback", json=events(("b", "x", "i77", "click")))
    message = "There is no item with the id i77 in the catalogue. `GET /items` lists all."
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, message)


def test_slow_work_runs_outside_of_the_event_loop(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def watched(owner: object, name: str) -> None:
        function = getattr(owner, name)

        def check(*given: object):
            called.append(name)
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()
            return function(*given)

        monkeypatch.setattr(owner, name, check)

    watched(service.items, "indices")
    watched(service.items, "without")
    watched(service.recommender, "decision")
    recommend(client, history=["i1"], categories=["Comedy"])
    assert client.post("/feedback", json=events(("b", "x", "i7", "click"))).status_code == 200
    assert called == ["indices", "without", "indices", "decision", "indices"]


@pytest.mark.parametrize("user", [" 42", "42\u00a0", " ", "nan", "NaN"])
def test_ids_of_people_that_no_event_log_can_hold_are_refused(client: TestClient, user: str) -> None:
    """A reader would take ` 42` for `42`, and `nan` for a missing id, so that no training could read the log."""
    answer = client.post("/feedback", json=events(("a", user, "i1", "click")))
    assert answer.status_code == 422 and answer.json()["error"]["fields"][0]["field"] == "events[0].click.user"
    assert client.post("/recommend", json={"user": user, "k": 1}).status_code == 422


def test_an_erased_person_is_new_again(client: TestClient, service: Service) -> None:
    recommend(client, user="u3", k=3)
    client.post("/feedback", json=events(("a", "u3", "i1", "click"), ("b", "u4", "i1", "click")))
    assert client.delete("/users/u3").json() == {"feedback": 1, "impressions": 3, "comparisons": 0}
    person = client.get("/users/u3").json()
    assert person["history"] == [] and person["erased"] and person["profile"] == "new user"
    assert len(ids(recommend(client, user="u3", k=10))) == 10
    assert client.get("/users/u4").json()["events"] == 1
    assert client.delete("/users/u3").json()["feedback"] == 0


def test_an_unknown_person_is_not_found(client: TestClient) -> None:
    assert client.get("/users/zz").json()["error"]["code"] == "unknown_user"


def test_items_are_found_by_title_and_category(client: TestClient) -> None:
    found = client.get("/items", params={"query": "quiet", "limit": 1}).json()
    assert found == {"total": 2, "items": [{"item": "i6", "title": "Quiet", "categories": ["Comedy", "Drama"]}]}
    assert client.get("/items", params={"category": "Sci-Fi", "offset": 1}).json()["items"][0]["item"] == "i5"
    wrong = client.get("/items", params={"category": "SciFi"}).json()["error"]
    assert wrong["code"] == "unknown_category" and "Did you mean Sci-Fi?" in wrong["message"]


def test_routes_of_gorse(client: TestClient, service: Service) -> None:
    """`read` is an impression, `like` a click; equal events are stored once; ids or scores by the API version."""
    rows = [
        {"FeedbackType": kind, "UserId": "g", "ItemId": item, "Timestamp": "2026-01-31T12:00:00+00:00", "Value": value}
        for kind, item, value in (("read", "i1", 0), ("like", "i2", 0), ("rating", "i3", 4.0))
    ]
    assert client.post("/api/feedback", json=rows).json() == {"RowAffected": 3}
    assert client.put("/api/feedback", json=rows).json() == {"RowAffected": 0}
    stored = [(row["type"], row["value"], row["at"]) for row in service.store.rows(feedback, ["item_id"])]
    assert stored == [("impression", None, 1769860800.0), ("click", None, 1769860800.0), ("rating", 4.0, 1769860800.0)]
    found = client.get("/api/recommend/g", params={"n": 20}).json()
    assert sorted(found) == ["i0", "i1", "i4", "i5", "i6", "i7", "i8", "i9"]
    scored = client.get("/api/recommend/g/Comedy", headers={"X-API-Version": "2"}).json()
    assert {one["Id"] for one in scored} == {"i1", "i6"} and sum(one["Score"] for one in scored) == pytest.approx(1)
    wrong = client.post("/api/feedback", json=[rows[0] | {"FeedbackType": "hate"}])
    assert wrong.status_code == 422 and wrong.json()["error"]["code"] == "unknown_feedback_type"
    late = client.post("/api/feedback", json=[rows[0] | {"Timestamp": "yesterday"}])
    assert late.json()["error"]["message"].startswith("Timestamp is not a date")
    assert client.get("/api/recommend/g", params={"offset": 5}).status_code == 422


def test_a_time_of_gorse_without_a_zone_is_in_utc(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"FeedbackType": "like", "UserId": "g", "ItemId": "i2", "Timestamp": "2026-01-31T12:00:00"}
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        assert client.post("/api/feedback", json=[row]).status_code == 200
    time.tzset()
    assert service.store.rows(feedback, ["at"])[0]["at"] == 1769860800.0


@pytest.mark.parametrize("timestamp", ["0001-01-01T00:00:00Z", "1969-12-31", "2100-01-02", "1970-01-01T00:00:00+14:00"])
def test_a_time_of_gorse_beyond_the_horizon_is_refused(client: TestClient, timestamp: str) -> None:
    """The first is what Go writes for a time that was never set."""
    row = {"FeedbackType": "like", "UserId": "g", "ItemId": "i2", "Timestamp": timestamp}
    answer = client.post("/api/feedback", json=[row])
    assert answer.status_code == 422 and answer.json()["error"]["code"] == "invalid_timestamp"


# --- errors ---


@pytest.mark.parametrize(
    ("request_body", "field"),
    [
        ({"k": 0}, "k"),
        ({"k": True}, "k"),
        ({"k": "5"}, "k"),
        ({"user": ""}, "user"),
        ({"user": "a\x00b"}, "user"),
        ({"history": "i1"}, "history"),
        ({"text": "something funny"}, "text"),
        ({"reasons": "maybe"}, "reasons"),
        ({"categories": []}, "categories"),
        ({"diversity": -1}, "diversity"),
    ],
)
def test_a_wrong_field_is_named(client: TestClient, request_body: dict, field: str) -> None:
    answer = client.post("/recommend", json=request_body)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "invalid_request"
    assert [one["field"] for one in answer.json()["error"]["fields"]] == [field]


def test_the_field_of_an_event_is_named(client: TestClient) -> None:
    answer = client.post("/feedback", json=events(("a", "u", "i1", "click"), ("b c", "u", "i1", "rating")))
    fields = [one["field"] for one in answer.json()["error"]["fields"]]
    assert fields == ["events[1].rating.event_id", "events[1].rating.value"]


def test_a_time_in_the_future_is_refused(client: TestClient) -> None:
    body = events(("a", "u", "i1", "click"))
    body["events"][0]["timestamp"] = 4e9
    assert client.post("/feedback", json=body).json()["error"]["code"] == "timestamp_in_the_future"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"user": "\\ud800"}', b'{"k": NaN}', b"1e999"])
def test_what_is_no_request_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/recommend", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["code"] == "invalid_request"


def test_nothing_left_is_a_conflict(client: TestClient) -> None:
    answer = client.post("/recommend", json={"history": [f"i{n}" for n in range(10)]})
    assert answer.status_code == 409 and answer.json()["error"]["code"] == "no_item_left"


def test_unknown_routes_and_methods_have_typed_errors(client: TestClient) -> None:
    assert client.get("/nothing").json()["error"]["code"] == "not_found"
    assert client.get("/recommend").json()["error"]["code"] == "method_not_allowed"


def test_a_full_disk_refuses_feedback_and_serves_lists(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("llmrec.serving.store._run_each", fail)
        answer = client.post("/feedback", json=events(("a", "u", "i1", "click")))
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "store_unavailable"
        assert answer.headers["retry-after"] == "5"
        assert recommend(client, history=["i1"], k=2)["recorded"] is False
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
    assert client.post("/feedback", json=events(("a", "u", "i1", "click"))).json()["accepted"] == 1
    assert client.get("/readyz").status_code == 200


def test_an_unreadable_store_is_an_error_of_requests_with_a_user(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> None:
        raise StoreError("gone")

    monkeypatch.setattr(service.store, "person", fail)
    assert client.post("/recommend", json={"user": "u1"}).json()["error"]["code"] == "store_unavailable"
    assert client.post("/recommend", json={"history": ["i1"]}).status_code == 200


def test_a_bug_is_a_typed_error_without_the_values(client: TestClient, service: Service, caplog) -> None:
    service.people.find = lambda user: 1 / 0  # type: ignore[method-assign]
    answer = client.post("/recommend", json={"user": "secret"})
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal"
    assert "secret" not in answer.text and "secret" not in caplog.text


# --- operations ---


def test_metrics_count_routes_without_ids(client: TestClient) -> None:
    recommend(client, user="u1", k=2)
    recommend(client, user="u1", k=2)
    client.get("/users/somebody")
    text = client.get("/metrics").text
    assert 'llmrec_requests_total{method="POST",route="/recommend",status="200"} 2.0' in text
    assert 'route="/users/{user:path}",status="404"' in text and "somebody" not in text
    assert 'llmrec_impressions_total{outcome="recorded"} 4.0' in text
    assert 'llmrec_rankings_total{source="cache"} 1.0' in text
    assert "llmrec_store_waiting_rows 0.0" in text


def test_openapi_documents_examples_and_errors(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) >= {"/recommend", "/feedback", "/items", "/users/{user}", "/healthz", "/readyz"}
    assert document["components"]["schemas"]["RecommendRequest"]["examples"]
    assert set(document["paths"]["/recommend"]["post"]["responses"]) >= {"200", "404", "409", "413", "422", "429"}
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert client.get("/docs").status_code == 404

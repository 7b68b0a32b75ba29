"""Keys, limits of rate, concurrency, size and time, and the request log."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from llmrec.serving.guard import Guard, Limits
from llmrec.serving.logs import JsonFormatter
from llmrec.serving.monitoring import Metrics

KEY = "a-key-of-sixteen-characters"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def echo(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


class Client:
    """Sends requests to a guard around `echo`."""

    def __init__(self, limits: Limits, keys: tuple[str, ...] = (), app: Any = echo) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.guard = Guard(app, limits, keys, self.metrics, self.clock)

    async def ask(
        self,
        body: list[bytes] | Callable[[], Awaitable[dict]] = [b""],  # noqa: B006
        path: str = "/x",
        address: str = "10.0.0.1",
        **headers: str,
    ) -> tuple[int, dict[str, str], Any]:
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": path, "headers": raw, "client": (address, 1)}
        parts = [] if callable(body) else list(body)
        sent: list[dict] = []

        async def receive() -> dict:
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.guard(scope, body if callable(body) else receive, send)
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        text = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"], found, json.loads(text) if found.get("content-type") else text


def code(answer: tuple[int, dict, Any]) -> tuple[int, str]:
    return answer[0], answer[2]["error"]["code"]


def test_the_whole_body_reaches_the_application() -> None:
    assert asyncio.run(Client(Limits()).ask([b"ab", b"", b"cd"]))[::2] == (200, b"abcd")


def test_without_a_key_nothing_is_answered_but_health() -> None:
    client = Client(Limits(), (KEY, "another-key-of-sixteen"))
    assert code(asyncio.run(client.ask())) == (401, "unauthorized")
    assert code(asyncio.run(client.ask(x_api_key=KEY[:-1]))) == (401, "unauthorized")
    assert code(asyncio.run(client.ask(path="/metrics"))) == (401, "unauthorized")
    assert asyncio.run(client.ask(x_api_key=KEY))[0] == 200
    assert asyncio.run(client.ask(authorization="Bearer another-key-of-sixteen"))[0] == 200
    assert asyncio.run(client.ask(path="/healthz"))[0] == 200


def test_each_client_has_an_allowance_that_grows_again() -> None:
    """2 per second, so 4 at once; after half a second one more."""
    client = Client(Limits(rate=2))
    assert [asyncio.run(client.ask())[0] for _ in range(5)] == [200, 200, 200, 200, 429]
    assert asyncio.run(client.ask(address="10.0.0.2"))[0] == 200
    refused = asyncio.run(client.ask())
    assert code(refused) == (429, "too_many_requests") and refused[1]["retry-after"] == "1"
    client.clock.now += 0.5
    assert [asyncio.run(client.ask())[0] for _ in range(2)] == [200, 429]
    client.clock.now += 1000
    assert [asyncio.run(client.ask())[0] for _ in range(5)] == [200, 200, 200, 200, 429]


def test_keys_share_no_allowance() -> None:
    client = Client(Limits(rate=0.5), (KEY, "another-key-of-sixteen"))
    assert [asyncio.run(client.ask(x_api_key=KEY))[0] for _ in range(2)] == [200, 429]
    assert asyncio.run(client.ask(x_api_key="another-key-of-sixteen"))[0] == 200


def test_a_large_body_is_refused_by_its_header_and_by_its_bytes() -> None:
    client = Client(Limits(body_bytes=3))
    assert asyncio.run(client.ask([b"abc"]))[0] == 200
    assert code(asyncio.run(client.ask([b"abcd"]))) == (413, "too_large")
    assert code(asyncio.run(client.ask([b"ab", b"cd", b"never read"]))) == (413, "too_large")
    assert code(asyncio.run(client.ask(content_length="4"))) == (413, "too_large")


def test_a_body_that_does_not_arrive_is_refused() -> None:
    async def never() -> dict:
        await asyncio.sleep(60)
        raise AssertionError

    client = Client(Limits(body_seconds=0.05))
    assert code(asyncio.run(client.ask(never))) == (408, "too_slow")


def test_too_many_requests_at_once_are_refused() -> None:
    async def main() -> list[int]:
        go_on = asyncio.Event()

        async def wait(scope: Any, receive: Any, send: Any) -> None:
            await go_on.wait()
            await echo(scope, receive, send)

        client = Client(Limits(concurrency=2), app=wait)
        asked = [asyncio.create_task(client.ask()) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refused = await client.ask()
        assert code(refused) == (503, "busy") and refused[1]["retry-after"] == "1"
        go_on.set()
        answers = [await task for task in asked]
        return [answer[0] for answer in [*answers, await client.ask()]]

    assert asyncio.run(main()) == [200, 200, 200]


def test_the_log_names_no_path_and_no_address(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(Limits())
    with caplog.at_level(logging.INFO, "llmrec.serving"):
        logging.getLogger("llmrec.serving").propagate = True
        asyncio.run(client.ask(path="/users/secret", address="10.9.8.7"))
    line = JsonFormatter().format(caplog.records[-1])
    assert json.loads(line) | {"time": 0} == {
        "time": 0,
        "level": "info",
        "message": "request",
        "route": "unknown",
        "method": "POST",
        "status": 200,
        "ms": 0.0,
    }


def test_a_logged_error_holds_its_place_and_not_its_message() -> None:
    try:
        raise ValueError("secret")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "x", 1, "failed", None, (ValueError, error, error.__traceback__))
    line = json.loads(JsonFormatter().format(record))
    assert line["error"] == "ValueError" and "test_guard.py" in line["at"][0] and "secret" not in json.dumps(line)

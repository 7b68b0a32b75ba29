"""What stands before every route: API keys, limits of rate, concurrency and size, metrics and the request log."""

import asyncio
import hashlib
import hmac
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmrec.serving.errors import ApiError, busy
from llmrec.serving.monitoring import Metrics

LOG = logging.getLogger("llmrec.serving")
OPEN_ROUTES = ("/healthz", "/readyz")  # answered without a key and beyond all limits
PAGE = "/page/"  # where the files of the page at `/` lie; they hold no data and are answered without a key
METHODS = ("GET", "HEAD", "POST", "DELETE")  # others are counted together, because clients may invent them
MAX_CLIENTS = 10_000  # clients whose rate is remembered


@dataclass(frozen=True)
class Limits:
    """What clients may ask of a server.

    Attributes:
        body_bytes: size of a request at most.
        body_seconds: time in which a request must have arrived.
        rate: requests per second of one API key, or of one address without keys; twice as many may come at once.
        concurrency: requests in progress at most.
    """

    body_bytes: int = 1_000_000
    body_seconds: float = 10.0
    rate: float = 100.0
    concurrency: int = 256


class Guard:
    """Middleware around the application.

    Args:
        app: the application.
        limits: what clients may ask.
        keys: API keys that are accepted; without any, no key is needed.
        metrics: counters.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        keys: Sequence[str],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._app = app
        self._limits = limits
        self._keys = [_digest(key) for key in keys]
        self._metrics = metrics
        self._clock = clock
        self._in_progress = 0
        self._allowance: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = self._clock()
        status = 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._in_progress += 1
        self._metrics.in_progress.inc()
        try:
            await self._serve(scope, receive, send_and_note)
        except ApiError as error:
            await _answer(send_and_note, error)
        finally:
            self._in_progress -= 1
            self._metrics.in_progress.dec()
            self._note(scope, status, self._clock() - started)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in OPEN_ROUTES:
            self._limit_rate(self._client(scope))
            if self._in_progress > self._limits.concurrency:
                raise busy(f"{self._limits.concurrency} requests are in progress, which is the limit of this server.")
        body = await self._body(scope, receive)
        await self._app(scope, _replay(body, receive), send)

    # --- keys and rates ---

    def _client(self, scope: Scope) -> bytes:
        """What stands for the client: the digest of its key, or its address if it needs none.

        Raises:
            ApiError: there is no key, or a wrong one.
        """
        if not self._keys or scope["path"] == "/" or scope["path"].startswith(PAGE):
            return str((scope.get("client") or ("",))[0]).encode()
        headers = dict(scope["headers"])
        given = headers.get(b"x-api-key", b"")
        bearer = headers.get(b"authorization", b"")
        if not given and bearer.lower().startswith(b"bearer "):
            given = bearer[len(b"bearer ") :].strip()
        digest = hashlib.sha256(given).digest()
        if not any([hmac.compare_digest(digest, key) for key in self._keys]):  # a list: all keys are compared
            found = "The API key is unknown." if given else "The request has no API key."
            message = f"{found} Send a key of this server in the header `X-API-Key`."
            raise ApiError(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})
        return digest

    def _limit_rate(self, client: bytes) -> None:
        """Takes one request from the allowance of a client, which grows by the rate (token bucket).

        Raises:
            ApiError: the allowance is used up.
        """
        now = self._clock()
        burst = max(1.0, 2 * self._limits.rate)
        left, since = self._allowance.pop(client, (burst, now))
        left = min(burst, left + (now - since) * self._limits.rate)
        self._allowance[client] = (left - 1 if left >= 1 else left, now)
        if len(self._allowance) > MAX_CLIENTS:
            self._allowance.popitem(last=False)
        if left < 1:
            wait = int((1 - left) / self._limits.rate) + 1
            message = f"More than {self._limits.rate:g} requests per second. Wait {wait} s."
            raise ApiError(429, "too_many_requests", message, {"Retry-After": str(wait)})

    # --- the body ---

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Reads the whole body, so that routes never wait for a slow client.

        Raises:
            ApiError: it is too large or arrives too slowly.
        """
        limit = self._limits.body_bytes
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise _too_large(limit)
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            message = f"The request did not arrive within {self._limits.body_seconds:g} s. Send it again."
            raise ApiError(408, "too_slow", message, {"Connection": "close"}) from None

    # --- the log ---

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        """Counts and logs a request by its route. Paths and queries may name people, so they are not logged."""
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.requests.labels(route, method, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        fields = {"route": route, "method": method, "status": status, "ms": round(1000 * seconds, 1)}
        LOG.info("request", extra={"fields": fields})


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _too_large(limit: int) -> ApiError:
    message = f"The request is larger than {limit} bytes. Send fewer events or ids at once."
    return ApiError(413, "too_large", message, {"Connection": "close"})


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns a body that was read before, then waits for the client to leave."""
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _answer(send: Send, error: ApiError) -> None:
    """Sends an error."""
    headers = {"Content-Type": "application/json", **error.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": json.dumps(error.body()).encode()})

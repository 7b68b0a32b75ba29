"""Starts and stops the server process."""

import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from llmrec.errors import UserError
from llmrec.language.adapter_files import ADAPTER_WEIGHTS
from llmrec.recommend import Recommender
from llmrec.serving.app import make_app
from llmrec.serving.engine import Engine
from llmrec.serving.guard import Limits
from llmrec.serving.logs import set_up_logs
from llmrec.serving.monitoring import Metrics
from llmrec.serving.service import Service
from llmrec.serving.store import Store, StoreError

KEYS_VARIABLE = "LLMREC_API_KEYS"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
CONNECTIONS_PER_REQUEST = 4  # open connections, idle ones included, for each request that may be in progress


@dataclass(frozen=True)
class ServerOptions:
    """How a server listens.

    Attributes:
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        store: URL or path of the feedback store.
        sampled_share: share of requests whose list is drawn at random.
        keys: API keys that are accepted.
        limits: what clients may ask.
    """

    host: str
    port: int
    store: str
    sampled_share: float
    keys: tuple[str, ...]
    limits: Limits

    def check(self) -> None:
        """Checks that strangers cannot use the server.

        Raises:
            UserError: the server would be open to a network without a key.
        """
        if self.host not in LOOPBACK and not self.keys:
            raise UserError(
                f"--host {self.host} opens the server to other machines, but there are no API keys. Give "
                f"--api-keys FILE or set {KEYS_VARIABLE}, or listen on 127.0.0.1."
            )


def read_keys(file: Path | None) -> tuple[str, ...]:
    """API keys: the lines of a file, and those of the environment variable `LLMREC_API_KEYS`, with commas between them.

    Raises:
        UserError: the file holds no key, or a key is too short to be secret.
    """
    lines = [] if file is None else file.read_text(encoding="utf-8").split("\n")
    keys = [key.strip() for key in [*lines, *os.environ.get(KEYS_VARIABLE, "").split(",")] if key.strip()]
    if file is not None and not keys:
        raise UserError(f"{file} holds no API key. Write one key of at least 16 characters on each line.")
    for number, key in enumerate(keys, start=1):
        if len(key) < 16 or not key.isascii():
            raise UserError(
                f"API key {number} has {len(key)} characters; expected at least 16 of ASCII. "
                "`openssl rand -hex 24` makes a good one."
            )
    return tuple(keys)


def policy_version(adapter: Path, name: str) -> str:
    """A name for the weights of an adapter: what it is, and the start of their SHA-256."""
    digest = hashlib.sha256((adapter / ADAPTER_WEIGHTS).read_bytes()).hexdigest()
    return f"{name}@{digest[:12]}"


@contextmanager
def serving(recommender: Recommender, version: str, options: ServerOptions) -> Iterator[Service]:
    """A service that is ready to answer. It commits what is waiting when the `with` block ends.

    Args:
        recommender: the model.
        version: what impressions record as the policy.
        options: its store and its share of lists that are drawn at random.

    Raises:
        UserError: the store cannot be opened or written.
    """
    metrics = Metrics()
    store = Store(options.store, on_commit=metrics.committed)
    engine = Engine(recommender, on_batch=metrics.batch.observe, on_cache=metrics.cached)
    metrics.watch("llmrec_model_waiting", "Rankings and reasons that wait for the model.", engine.waiting)
    metrics.watch("llmrec_store_waiting_rows", "Rows that wait for the store.", store.waiting_rows)
    try:
        service = Service(recommender, engine, store, version, options.sampled_share, metrics)
        try:
            service.start()
        except StoreError as error:
            raise UserError(f"The store cannot be written ({error}). Check its disk and its permissions.") from None
        yield service
    finally:
        engine.close()
        store.close()


class _Server(uvicorn.Server):
    """A server that says when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]):
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen."""
        await super().startup(sockets)
        self._ready()


def serve(
    load: Callable[[], tuple[Recommender, str]],
    options: ServerOptions,
    ready: Callable[[str], None],
) -> None:
    """Serves until SIGINT or SIGTERM; requests in progress are answered before it returns.

    Args:
        load: loads the model and names its version.
        options: how to listen.
        ready: called with the address when the server answers.

    Raises:
        UserError: the port is taken, or the store cannot be opened.
    """
    with _bound(options.host, options.port) as listener:
        recommender, version = load()
        set_up_logs()
        with serving(recommender, version, options) as service:
            config = uvicorn.Config(
                make_app(service, options.limits, options.keys),
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=10,
                limit_concurrency=CONNECTIONS_PER_REQUEST * options.limits.concurrency,
            )
            host, port = listener.getsockname()[:2]
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            try:
                _Server(config, lambda: ready(address)).run(sockets=[listener])
            except (KeyboardInterrupt, SystemExit):
                return  # uvicorn raises the signal again after it has answered everything


def _bound(host: str, port: int) -> socket.socket:
    """Takes the port before the model is loaded, so that a taken one is reported at once."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UserError(
            f"Cannot listen on {host}, port {port}: {error.strerror or error}. Choose another --port or --host."
        ) from None
    return listener

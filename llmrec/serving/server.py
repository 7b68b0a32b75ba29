"""Starts and stops the server process."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from llmrec.errors import UserError
from llmrec.hub.client import find_adapter
from llmrec.recommend import Recommender
from llmrec.serving.app import make_app
from llmrec.serving.contenders import Contenders
from llmrec.serving.engine import Engine
from llmrec.serving.guard import Limits
from llmrec.serving.live import Follower, Live, Loaded, load_version
from llmrec.serving.logs import set_up_logs
from llmrec.serving.monitoring import Metrics
from llmrec.serving.service import Service
from llmrec.serving.store import Store, StoreError
from llmrec.versions.registry import Registry, Version, version_label

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
    try:
        lines = [] if file is None else file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text. Write one key of at least 16 characters on each line.") from None
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


@dataclass(frozen=True)
class Model:
    """What a server answers with.

    Attributes:
        recommender: the model in memory.
        label: what impressions record as the policy.
        registry: versions that the server follows; None if it always serves the same adapter.
        number: number of the version in memory.
        quantized: whether other versions are loaded quantized as in training.
    """

    recommender: Recommender
    label: str
    registry: Registry | None = None
    number: int = 0
    quantized: bool = True

    @classmethod
    def of_registry(cls, registry: Registry, quantized: bool) -> "Model":
        """The current version of a run, and those that follow it."""
        current = registry.current()
        recommender = load_version(registry.run, current, quantized)
        return cls(recommender, current.label, registry, current.number, quantized)

    @classmethod
    def of_hub(cls, model: str, revision: str | None, quantized: bool) -> "Model":
        """A saved adapter: a directory, or `OWNER/NAME` on a hub."""
        label = version_label(find_adapter(model, revision), model)
        return cls(Recommender.from_pretrained(model, revision, quantized), label)

    def other(self, version: Version) -> Recommender:
        """Loads another version of the registry."""
        assert self.registry is not None
        return load_version(self.registry.run, version, self.quantized, like=self.recommender)


@contextmanager
def serving(model: Model, options: ServerOptions) -> Iterator[Service]:
    """A service that is ready to answer. It commits what is waiting when the `with` block ends.

    Args:
        model: what it answers with.
        options: its store and its share of lists that are drawn at random.

    Raises:
        UserError: the store cannot be opened or written.
    """
    metrics = Metrics()
    store = Store(options.store, on_commit=metrics.committed)

    def started(recommender: Recommender, label: str) -> Loaded:
        recommender.policy.merge()
        engine = Engine(recommender, on_batch=metrics.batch.observe, on_cache=metrics.cached)
        engine.rank(recommender.decision([0])).result()  # the first request must not wait for lazy set-up
        return Loaded(label, engine)

    live = Live(started(model.recommender, model.label), model.number)
    registry = model.registry
    contenders = Contenders(live, registry, lambda one: started(model.other(one), one.label))
    follower = None
    metrics.watch("llmrec_model_waiting", "Rankings and reasons that wait for the model.", live.waiting)
    metrics.watch("llmrec_store_waiting_rows", "Rows that wait for the store.", store.waiting_rows)
    try:
        if registry is not None:
            metrics.watch("llmrec_current_version", "Number of the current version.", lambda: live.traffic.current)
            metrics.watch("llmrec_canary_share", "Share of users of the canary.", lambda: live.traffic.share)
            follower = Follower(registry, live, lambda one: started(model.other(one), one.label))
        service = Service(model.recommender, live, contenders, store, options.sampled_share, metrics)
        try:
            service.start()
        except StoreError as error:
            raise UserError(f"The store cannot be written ({error}). Check its disk and its permissions.") from None
        yield service
    finally:
        if follower is not None:
            follower.close()
        contenders.close()
        live.close()
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
    load: Callable[[], Model],
    options: ServerOptions,
    ready: Callable[[str], None],
) -> None:
    """Serves until SIGINT or SIGTERM; requests in progress are answered before it returns.

    Args:
        load: loads the model.
        options: how to listen.
        ready: called with the address when the server answers.

    Raises:
        UserError: the port is taken, or the store cannot be opened.
    """
    with _bound(options.host, options.port) as listener:
        model = load()
        set_up_logs()
        with serving(model, options) as service:
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
    except (OSError, UnicodeError) as error:  # the latter if no host can have such a name
        listener.close()
        found = getattr(error, "strerror", None) or error
        raise UserError(f"Cannot listen on {host}, port {port}: {found}. Choose another --port or --host.") from None
    return listener

"""The versions that answer requests at present, and their exchange while requests run.

A request takes its version once and keeps it until its answer is complete. The model thread of a version ends when
the last request that holds the version has ended, so an exchange fails no request.
"""

import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from llmrec.data.dataset import load_data
from llmrec.errors import ModelError
from llmrec.policy.model import RecPolicy
from llmrec.recommend import Recommender
from llmrec.run import Run
from llmrec.serving.engine import Engine
from llmrec.versions.registry import Registry, Version, check_weights
from llmrec.versions.traffic import Traffic

LOG = logging.getLogger("llmrec.serving")
POLL_SECONDS = 1.0
RETRY_SECONDS = 60.0  # after a version could not be loaded
# transformers changes state of the whole process while it loads a model, so two threads must not load at once.
_LOADING = threading.Lock()


class Loaded:
    """A version in memory. Its model thread ends when nothing refers to this object any more.

    Args:
        label: what impressions record as the policy.
        engine: the thread that uses the model.
    """

    def __init__(self, label: str, engine: Engine):
        self.label = label
        self.engine = engine
        weakref.finalize(self, engine.end)


@dataclass(frozen=True)
class _Serving:
    """Who is served what, and the versions for that by number."""

    traffic: Traffic
    loaded: dict[int, Loaded]


class Live:
    """The versions that answer requests: the current one, and a canary for a share of users.

    Args:
        current: the version that answers everybody at first.
        number: its number.
    """

    def __init__(self, current: Loaded, number: int = 0):
        self._serving = _Serving(Traffic(number), {number: current})  # replaced as a whole, so a reader needs no lock

    @property
    def traffic(self) -> Traffic:
        """Which version serves whom."""
        return self._serving.traffic

    @property
    def current(self) -> Loaded:
        """The version that serves everybody but the users of a canary."""
        return self.of(None)

    def of(self, user: str | None) -> Loaded:
        """The version that serves a person; None is somebody without an id."""
        serving = self._serving
        return serving.loaded[serving.traffic.version_of(user)]

    def loaded(self, number: int) -> Loaded | None:
        """A version by its number, if it answers requests at present."""
        return self._serving.loaded.get(number)

    def change(self, traffic: Traffic, load: Callable[[int], Loaded]) -> None:
        """Serves by other versions from the next request on.

        Args:
            traffic: the versions and their users.
            load: loads a version by its number. Versions that are loaded already are kept.
        """
        wanted = [number for number in (traffic.current, traffic.canary) if number is not None]
        before = self._serving.loaded
        self._serving = _Serving(traffic, {number: before.get(number) or load(number) for number in wanted})

    def waiting(self) -> int:
        """Rankings and reasons that wait for a model."""
        return sum(one.engine.waiting() for one in self._serving.loaded.values())

    def alive(self) -> bool:
        """Whether all model threads run."""
        return all(one.engine.alive() for one in self._serving.loaded.values())

    def close(self) -> None:
        """Ends the model threads."""
        for one in self._serving.loaded.values():
            one.engine.close()


def load_version(run: Run, version: Version, quantized: bool = True, like: Recommender | None = None) -> Recommender:
    """Loads the model of a version.

    Args:
        run: the run.
        version: the version.
        quantized: see `Recommender.from_run`.
        like: a version that is loaded already. Its event log is used, and the catalogue must be the same.

    Raises:
        ModelError: the adapter cannot be read, or has another catalogue.
        RunError: its weights are not those that were registered.
    """
    check_weights(version)
    with _LOADING:
        policy = RecPolicy.from_pretrained(version.adapter, quantized=quantized)
    if like is not None and policy.vocabulary.item_ids != like.policy.vocabulary.item_ids:
        raise ModelError(
            f"{version.adapter} has another catalogue than the version that is served. Restart the server."
        )
    data = partial(load_data, run.path("data")) if like is None else like.data
    return Recommender(policy, run.config.ppo.response_length, data)


class Follower:
    """A thread that watches the registry of a run and exchanges versions.

    Args:
        registry: the registry.
        live: what is exchanged.
        load: loads and starts a version.
        seconds: pause between two looks at the registry.
    """

    def __init__(
        self, registry: Registry, live: Live, load: Callable[[Version], Loaded], seconds: float = POLL_SECONDS
    ):
        self._registry = registry
        self._live = live
        self._load = load
        self._seconds = seconds
        self._seen: object = object()  # the first look always reads the registry
        self._ended = threading.Event()
        self.look()
        self._thread = threading.Thread(target=self._follow, name="versions", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._ended.set()
        self._thread.join()

    def look(self) -> bool:
        """Takes over what has changed in the registry since the last look.

        Returns:
            False if a version cannot be loaded. The versions that were served before are still served then.
        """
        mark = self._registry.mark()
        if mark == self._seen:
            return True
        try:
            traffic = self._registry.traffic()
            if traffic != self._live.traffic:
                self._live.change(traffic, lambda number: self._load(self._registry.find(number)))
                fields = {"current": traffic.current, "canary": traffic.canary, "share": traffic.share}
                LOG.info("versions changed", extra={"fields": fields})
        except Exception as error:  # whatever is wrong with a new version, the old one goes on answering
            LOG.error("a version cannot be served", exc_info=error)
            return False
        self._seen = mark
        return True

    def _follow(self) -> None:
        pause = self._seconds
        while not self._ended.wait(pause):
            pause = self._seconds if self.look() else RETRY_SECONDS

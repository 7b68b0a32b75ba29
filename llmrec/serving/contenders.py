"""The versions of a comparison in memory: at most two beside those that answer requests."""

from collections.abc import Callable, Sequence

from llmrec.serving.errors import ApiError
from llmrec.serving.live import Live, Loaded
from llmrec.versions.registry import Registry, Version


class Contenders:
    """The versions that can be compared. One thread at a time may use this object.

    Args:
        live: the versions that answer requests. They are compared as they are in memory.
        registry: all versions; None if the server always serves the same adapter.
        load: loads and starts a version.
    """

    def __init__(self, live: Live, registry: Registry | None, load: Callable[[Version], Loaded]):
        self._live = live
        self._registry = registry
        self._load = load
        self._kept: dict[int, Loaded] = {}
        self._versions: list[Version] = []
        self._seen: object = object()  # the first look always reads the registry

    def versions(self) -> list[Version]:
        """The versions that have weights, by number; empty if the server has no registry.

        Raises:
            RunError: a file of the registry is damaged.
        """
        if self._registry is None:
            return []
        mark = self._registry.mark()
        if mark != self._seen:
            self._versions = [one for one in self._registry.versions() if one.state != "rejected"]
            self._seen = mark
        return self._versions

    def default(self) -> list[int]:
        """Numbers of the current version, and of the canary or else the newest one; empty without a second version."""
        found = self.versions()
        others = [one for one in found if one.state != "current"]
        if not others:
            return []
        current = next(one.number for one in found if one.state == "current")
        canary = next((one.number for one in others if one.state == "canary"), None)
        return [current, max(one.number for one in others) if canary is None else canary]

    def pair(self, numbers: Sequence[int] | None) -> list[Loaded]:
        """Two versions, loaded. Those of the pair before are dropped when nothing uses them any more.

        Args:
            numbers: their numbers; None for the default.

        Raises:
            ApiError: one is unknown, or there is one version only.
            RunError, ModelError: one cannot be loaded.
        """
        known = {one.number: one for one in self.versions()}
        if len(known) < 2:
            message = "The server has one version only, so there is nothing to compare. `llmrec learn` makes others."
            raise ApiError(409, "one_version", message)
        wanted = self.default() if numbers is None else numbers
        for number in wanted:
            if number not in known:
                message = f"There is no version {number} with weights; there are {', '.join(map(str, known))}."
                raise ApiError(404, "unknown_version", message)
        # Others leave the memory before a version is loaded.
        self._kept = {number: self._kept[number] for number in wanted if number in self._kept}
        pair = []
        for number in wanted:
            found = self._live.loaded(number)
            if found is None:
                found = self._kept[number] = self._kept.get(number) or self._load(known[number])
            else:
                self._kept.pop(number, None)
            pair.append(found)
        return pair

    def release(self) -> None:
        """Drops what only comparisons use."""
        self._kept = {}

    def close(self) -> None:
        """Ends the model threads."""
        for one in self._kept.values():
            one.engine.close()
        self.release()

"""The registry of a run's versions: adapters that were trained one from another, and which of them is in use.

    RUN/versions/history.jsonl          one line for each change of a state; the states follow from it
    RUN/versions/0003/version.json      what the version is
    RUN/versions/0003/adapter/          its weights, unless it was rejected

Version 0 is the adapter of the run's own stages and has no folder. Every change is one rename, so a reader sees the
states before it or after it.
"""

import hashlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llmrec.errors import DataError, RunError, UserError
from llmrec.files import atomic_directory, plain, read_json, write_json, write_text
from llmrec.language.adapter_files import ADAPTER_WEIGHTS
from llmrec.run import Run
from llmrec.versions.history import Change, State, read_history, states_after, write_history
from llmrec.versions.traffic import Traffic

FOLDER = "versions"
HISTORY_FILE = "history.jsonl"
VERSION_FILE = "version.json"
SALT_FILE = "salt"
LOCK_SECONDS = 10  # a change takes milliseconds


@dataclass(frozen=True)
class Version:
    """An adapter of the run.

    Attributes:
        number: its number; 0 is the adapter of the run's stages.
        state: `candidate`: registered and served to nobody. `canary`: served to a share of users. `current`: served to
            the others. `retired`: was current before. `rejected`: not good enough to be served; without adapter.
            `rolled back`: was taken out of service.
        parent: number of the version that its training began with; None for version 0.
        label: name and hash of the weights, as impressions record it.
        created: when it was registered; "" for version 0.
        changed: when it got its state; "" if version 0 has never changed.
        why: why it has its state.
        share: share of users that a canary is served to.
        metrics: what was measured before it was registered.
        folder: folder of the version; the run directory for version 0.
        adapter: directory of its weights.
    """

    number: int
    state: State
    parent: int | None
    label: str
    created: str
    changed: str
    why: str
    share: float | None
    metrics: dict[str, Any]
    folder: Path
    adapter: Path

    def as_json(self) -> dict[str, Any]:
        """The version as JSON values."""
        return plain(asdict(self))


def version_label(adapter: Path, name: str) -> str:
    """A name for the weights of an adapter: what it is, and the start of their SHA-256."""
    digest = hashlib.sha256((adapter / ADAPTER_WEIGHTS).read_bytes()).hexdigest()
    return f"{name}@{digest[:12]}"


class Registry:
    """The versions of a run.

    Args:
        run: the run.
        clock: gives the time of a change, seconds since 1970.
    """

    def __init__(self, run: Run, clock: Callable[[], float] = time.time):
        self.run = run
        self._clock = clock
        self.directory = run.directory / FOLDER

    # --- reads ---

    def history(self) -> list[Change]:
        """All changes, oldest first; empty if version 0 is the only one.

        Raises:
            RunError: the file was not written by llmrec.
        """
        return read_history(self.directory / HISTORY_FILE)

    def versions(self) -> list[Version]:
        """All versions by number.

        Raises:
            RunError: the run has no finished adapter, or a file of the registry is damaged.
        """
        changes = self.history()
        numbers = sorted({change.version for change in changes} | {0})
        newest = {change.version: change for change in changes}
        return [self._version(number, newest.get(number)) for number in numbers]

    def find(self, number: int) -> Version:
        """A version by its number.

        Raises:
            UserError: there is none.
        """
        found = self.versions()
        for version in found:
            if version.number == number:
                return version
        raise UserError(
            f"{self.run.directory} has no version {number}; it has {', '.join(str(one.number) for one in found)}."
        )

    def current(self) -> Version:
        """The version in use."""
        return next(version for version in self.versions() if version.state == "current")

    def canary(self) -> Version | None:
        """The version that is tried on a share of users, if there is one."""
        return next((version for version in self.versions() if version.state == "canary"), None)

    def traffic(self) -> Traffic:
        """Which version serves whom.

        Raises:
            RunError: a canary is running, and the secret that assigns users to it has been deleted.
        """
        versions = self.versions()
        current = next(version.number for version in versions if version.state == "current")
        canary = next((version for version in versions if version.state == "canary"), None)
        if canary is None:
            return Traffic(current)
        return Traffic(current, canary.number, canary.share or 0.0, self.salt())

    def salt(self) -> str:
        """The secret that is hashed with user ids; `start_canary` makes it.

        Raises:
            RunError: it has been deleted.
        """
        file = self.directory / SALT_FILE
        if not file.is_file():
            raise RunError(
                f"{file} is missing. It holds the secret that decides which users get the canary; with another one, "
                "users would move between the versions. Restore the file, or end the canary with `llmrec versions "
                f"{self.directory.parent} rollback`."
            )
        return file.read_text(encoding="utf-8").strip()

    def mark(self) -> tuple[int, int] | None:
        """A value that differs after each change; cheap, for a server that polls."""
        file = self.directory / HISTORY_FILE
        if not file.is_file():
            return None
        found = file.stat()
        return found.st_mtime_ns, found.st_size

    # --- changes ---

    def next_number(self) -> int:
        """The number of the next version."""
        return max(version.number for version in self.versions()) + 1

    def register(
        self, number: int, parent: int, folder: Path, why: str, metrics: dict[str, Any], rejected: bool = False
    ) -> Version:
        """Adds a version. Registering the same number again, after a crash amid it, replaces what is there.

        Args:
            number: `next_number()`.
            parent: the version that its training began with.
            folder: what the version keeps: `adapter`, and other results. It is copied.
            why: one sentence.
            metrics: what was measured.
            rejected: whether the version must not be served.

        Raises:
            RunError: the number is taken.
        """
        with self._changing() as changes:
            if any(change.version == number for change in changes):
                raise RunError(f"{self.directory} has a version {number} already.")
            target = self._folder(number)
            with atomic_directory(target) as temporary:
                shutil.copytree(folder, temporary, dirs_exist_ok=True)
                label = "" if rejected else version_label(temporary / "adapter", f"v{number}")
                record = {"version": number, "parent": parent, "created": self._now(), "label": label}
                write_json(temporary / VERSION_FILE, plain(record | {"metrics": metrics}))
            changes.append(Change(self._now(), number, "rejected" if rejected else "candidate", why))
        return self.find(number)

    def start_canary(self, number: int, share: float, why: str, metrics: dict[str, Any]) -> None:
        """Serves a candidate to a share of users.

        Raises:
            RunError: the version is no candidate, or another canary is running.
        """
        with self._changing() as changes:
            states = states_after(changes)
            if states.get(number) != "candidate" or "canary" in states.values():
                raise RunError(f"Version {number} cannot become a canary: the states are {states}.")
            file = self.directory / SALT_FILE
            if not file.is_file():
                write_text(file, secrets.token_hex(16))
                file.chmod(0o600)
            changes.append(Change(self._now(), number, "canary", why, share, plain(metrics)))

    def promote(self, number: int, why: str, metrics: dict[str, Any] | None = None) -> None:
        """Makes a version the current one. A canary of another version ends: it was compared with the former one.

        Raises:
            UserError: there is no such version, it is current already, or it was rejected.
        """
        version = self.find(number)
        with self._changing() as changes:
            states = states_after(changes)
            if states[number] == "current":
                raise UserError(f"Version {number} is current already.")
            if states[number] == "rejected":
                raise UserError(f"Version {number} was rejected and has no adapter. Promote another version.")
            self._make_current(version, changes, why, metrics)

    def end_canary(self, number: int, promoted: bool, why: str, metrics: dict[str, Any]) -> bool:
        """Promotes a canary or takes it out of service, unless somebody has ended it since it was judged.

        Args:
            number: the canary.
            promoted: whether it becomes the current version.
            why: one sentence.
            metrics: numbers that the change rests on.

        Returns:
            False if the version is no canary any more. Nothing is changed then.
        """
        version = self.find(number)
        with self._changing() as changes:
            if states_after(changes)[number] != "canary":
                return False
            if promoted:
                self._make_current(version, changes, why, metrics)
            else:
                changes.append(Change(self._now(), number, "rolled back", why, metrics=plain(metrics)))
            return True

    def _make_current(self, version: Version, changes: list[Change], why: str, metrics: dict[str, Any] | None) -> None:
        """Appends the changes by which a version becomes the current one."""
        check_weights(version)
        for other, state in states_after(changes).items():
            if state == "canary" and other != version.number:
                why_ended = f"version {version.number} was promoted meanwhile"
                changes.append(Change(self._now(), other, "candidate", why_ended))
            if state == "current":
                changes.append(Change(self._now(), other, "retired", f"version {version.number} takes its place"))
        changes.append(Change(self._now(), version.number, "current", why, metrics=plain(metrics or {})))

    def roll_back(self, why: str, metrics: dict[str, Any] | None = None) -> tuple[int, int]:
        """Takes the canary out of service; without a canary the current version, whose predecessor takes its place.

        Returns:
            the number of the version that was taken out of service, and of the one that serves its users now.

        Raises:
            UserError: there is no canary and no earlier version.
            RunError: the weights of the earlier version are missing or differ.
        """
        with self._changing() as changes:
            states = states_after(changes)
            current = next(number for number, state in states.items() if state == "current")
            canary = next((number for number, state in states.items() if state == "canary"), None)
            if canary is not None:
                changes.append(Change(self._now(), canary, "rolled back", why, metrics=plain(metrics or {})))
                return canary, current
            before = [one.version for one in changes if one.state == "retired" and states[one.version] == "retired"]
            if not before:
                raise UserError(
                    f"Version {current} has no predecessor and there is no canary, so nothing can be rolled back. "
                    f"`llmrec versions {self.run.directory} promote V` chooses another version."
                )
            check_weights(self.find(before[-1]))
            changes.append(Change(self._now(), current, "rolled back", why, metrics=plain(metrics or {})))
            changes.append(Change(self._now(), before[-1], "current", f"version {current} was rolled back"))
            return current, before[-1]

    @contextmanager
    def _changing(self) -> Iterator[list[Change]]:
        """The history; changes that are appended to it are written together at the end."""
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.directory / ".lock", timeout=LOCK_SECONDS):
                changes = self.history()
                before = len(changes)
                yield changes
                if len(changes) == before:
                    return
                write_history(self.directory / HISTORY_FILE, changes)
        except Timeout:
            raise RunError(f"Another process changes {self.directory}. Run the same command again.") from None

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")

    # --- one version ---

    def _folder(self, number: int) -> Path:
        return self.directory / f"{number:04d}"

    def _version(self, number: int, newest: Change | None) -> Version:
        """A version, from its folder and its newest change."""
        change = newest or Change("", number, "current", "the adapter of the run")
        if number == 0:
            adapter = self.run.adapter()
            label = version_label(adapter, self.run.adapter_stage())
            record: dict[str, Any] = {"parent": None, "created": "", "label": label, "metrics": {}}
            folder = self.run.directory
        else:
            folder = self._folder(number)
            adapter = folder / "adapter"
            record = _read_record(folder / VERSION_FILE)
        return Version(
            number=number,
            state=change.state,
            parent=record["parent"],
            label=record["label"],
            created=record["created"],
            changed=change.at,
            why=change.why,
            share=change.share,
            metrics=record["metrics"],
            folder=folder,
            adapter=adapter,
        )


def _read_record(file: Path) -> dict[str, Any]:
    try:
        record = read_json(file)
        return {key: record[key] for key in ("parent", "created", "label", "metrics")}
    except DataError as error:
        raise RunError(str(error)) from None
    except (OSError, KeyError, TypeError) as error:
        raise RunError(f"{file} is not readable ({error}); the history names this version. Restore it.") from None


def check_weights(version: Version) -> None:
    """Checks that the weights are those that were registered.

    Raises:
        RunError: they are missing or differ.
    """
    name = version.label.partition("@")[0]
    try:
        found = version_label(version.adapter, name)
    except OSError as error:
        raise RunError(
            f"{version.adapter} is not readable ({error}). Restore it, or promote another version."
        ) from None
    if found != version.label:
        raise RunError(
            f"{version.adapter} holds the weights {found}; expected {version.label}, which were registered. Restore "
            "them, or promote another version."
        )

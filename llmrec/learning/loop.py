"""The loop of `llmrec learn`: it decides on the canary, or trains a round and starts the canary of its result."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from llmrec.config import LearnConfig
from llmrec.errors import DataError
from llmrec.learning.canary import judge, tolerated_loss
from llmrec.learning.round import FOLDER, PLAN_FILE, Plan, new_events, remove_finished, run_round
from llmrec.run import Run, refuse_unprotected
from llmrec.run.lock import locked
from llmrec.serving.store import Store, StoreError
from llmrec.versions.registry import Registry, Version

LEAST_EVENTS = 50  # of a round that begins because of `learn.every_hours`


@dataclass(frozen=True)
class Outcome:
    """What a step of the loop has done.

    Attributes:
        action: `waited`, `trained`, `started a canary`, `promoted` or `rolled back`.
        why: one sentence.
        version: the version that it is about; None if nothing was to be done.
        metrics: numbers of the canary.
    """

    action: str
    why: str
    version: int | None
    metrics: dict[str, Any]


def learn(run: Run, store: Store, say: Callable[[str], Any], now: Callable[[], float] = time.time) -> Outcome:
    """One step: decides on the canary if there is one, else trains a round if there are enough new events.

    Args:
        run: the run that is served.
        store: the feedback.
        say: takes a line for people.
        now: the clock, seconds since 1970.

    Raises:
        RunError: another process learns in this run.
        DataError: the events are too few to hold some out.
        ConfigError: the config has the section `privacy`, which does not cover PPO.
    """
    refuse_unprotected(run.config, "learn")
    with locked(run.directory):
        registry = Registry(run, now)
        config = run.config.learn
        remove_finished(registry)
        canary = registry.canary()
        if canary is not None:
            return _decide(registry, canary, store, config, now())
        candidate = _waiting_candidate(registry)
        if candidate is None:
            plan = new_events(registry, store)
            if not _interrupted(run, plan.number) and plan.events < config.min_events:
                missing = f"{plan.events:,} new events; a round needs {config.min_events:,} (learn.min_events)"
                if not _is_due(registry, plan, config, now()):
                    return Outcome("waited", missing, None, {})
            trained = run_round(registry, store, plan, say)
            if trained.state == "rejected":
                return Outcome("trained", f"version {trained.number} was rejected: {trained.why}", trained.number, {})
            candidate = trained
            if candidate.parent != registry.current().number:
                other = f"version {candidate.number} began with version {candidate.parent}, which is no longer current"
                return Outcome("trained", other, candidate.number, {})
        return _start_canary(registry, candidate, store, config)


def steps(run: Run, store: Store, say: Callable[[str], Any], seconds: float | None) -> Iterator[Outcome]:
    """Repeats `learn` until it is interrupted, and yields what differs from the step before.

    It holds the lock of the run all the time.

    Args:
        run: the run that is served.
        store: the feedback.
        say: takes a line for people.
        seconds: pause after a step that had nothing to do; None for a single step.
    """
    before = None
    with locked(run.directory):
        while True:
            try:
                outcome = learn(run, store, say)
            except (DataError, StoreError) as error:  # the database may be starting again
                if seconds is None:
                    raise
                reason = f"the feedback store fails ({error})" if isinstance(error, StoreError) else str(error)
                outcome = Outcome("waited", reason, None, {})
            if outcome != before:
                yield outcome
            before = outcome
            if seconds is None:
                return
            if outcome.action == "waited":
                time.sleep(seconds)


def _decide(registry: Registry, canary: Version, store: Store, config: LearnConfig, now: float) -> Outcome:
    verdict = judge(registry, canary, store, config, now)
    if verdict.action == "wait":
        return Outcome("waited", verdict.why, canary.number, verdict.metrics)
    promoted = verdict.action == "promote"
    if not registry.end_canary(canary.number, promoted, verdict.why, verdict.metrics):
        return Outcome("waited", f"somebody has ended the canary meanwhile, although {verdict.why}", canary.number, {})
    return Outcome("promoted" if promoted else "rolled back", verdict.why, canary.number, verdict.metrics)


def _start_canary(registry: Registry, candidate: Version, store: Store, config: LearnConfig) -> Outcome:
    metrics = tolerated_loss(store, config)
    registry.start_canary(candidate.number, config.canary_share, candidate.why, metrics)
    return Outcome("started a canary", candidate.why, candidate.number, metrics)


def _waiting_candidate(registry: Registry) -> Version | None:
    """A candidate of the present version whose canary has not started, because the process ended before."""
    newest = registry.versions()[-1]
    is_next = newest.state == "candidate" and newest.parent == registry.current().number
    return newest if is_next else None


def _interrupted(run: Run, number: int) -> bool:
    """Whether the round of a version was begun and has not ended."""
    return (run.directory / FOLDER / f"{number:04d}" / PLAN_FILE).is_file()


def _is_due(registry: Registry, plan: Plan, config: LearnConfig, now: float) -> bool:
    """Whether `learn.every_hours` have passed since the last round, or since the first new event."""
    if config.every_hours is None or plan.events < LEAST_EVENTS:
        return False
    rounds = [one.metrics["round"]["received"] for one in registry.versions() if "round" in one.metrics]
    return now - max(rounds, default=plan.since) >= 3600 * config.every_hours

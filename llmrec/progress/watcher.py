"""How a trainer says what is not a number, and who hears it."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import TrainerCallback


@dataclass(frozen=True)
class Sample:
    """One completion of a rollout, for people to read.

    Attributes:
        step: the update in which it was sampled.
        profile: the user, as the prompt names them.
        history: titles that the prompt shows, oldest first.
        item: title of the recommended item.
        text: the justification.
        rewards: part of the reward to its value.
    """

    step: int
    profile: str
    history: list[str]
    item: str
    text: str
    rewards: dict[str, float]


class Watcher(TrainerCallback):
    """A callback that also hears of samples and events, and is closed when training ended or failed."""

    def on_samples(self, samples: Sequence[Sample]) -> None:
        """Called with a few samples of one step."""

    def on_event(self, step: int, text: str) -> None:
        """Called when something happened that a reader of the curves should know."""

    def close(self) -> None:
        """Called once, whether training began, ended or failed."""


class TrainingLog:
    """Where a trainer says what is not a number; without watchers, nobody hears it.

    To be used between the callbacks' `on_train_begin` and the end of `watch`.
    """

    def __init__(self, watchers: Sequence[Watcher] = ()):
        self.watchers = watchers

    def samples(self, samples: Sequence[Sample]) -> None:
        """Shows and keeps a few samples of one step."""
        for watcher in self.watchers:
            watcher.on_samples(samples)

    def event(self, step: int, text: str) -> None:
        """Shows and keeps one line about a step."""
        for watcher in self.watchers:
            watcher.on_event(step, text)

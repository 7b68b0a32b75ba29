"""How a trainer reports samples and events, and the interface of what receives them."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import TrainerCallback


@dataclass(frozen=True)
class Sample:
    """One completion of a rollout, for people to read.

    Attributes:
        step: the update in which it was sampled.
        profile: the user, as the prompt describes them.
        history: titles that the prompt shows, oldest first.
        item: title of the recommended item.
        text: the justification.
        rewards: name of each part of the reward to its value.
    """

    step: int
    profile: str
    history: list[str]
    item: str
    text: str
    rewards: dict[str, float]


class Watcher(TrainerCallback):
    """A callback of a trainer that also receives samples and events, and is closed at the end of training."""

    def on_samples(self, samples: Sequence[Sample]) -> None:
        """Receives a few samples of one step."""

    def on_event(self, step: int, text: str) -> None:
        """Receives one line about something that a reader of the training curves should know."""

    def close(self) -> None:
        """Is called once, when training has ended or failed, even if it never began."""


class TrainingLog:
    """Passes samples and events of a trainer to watchers.

    Use it between the callbacks' `on_train_begin` and the end of `watch`.

    Args:
        watchers: what receives them; none is allowed.
    """

    def __init__(self, watchers: Sequence[Watcher] = ()):
        self.watchers = watchers

    def samples(self, samples: Sequence[Sample]) -> None:
        """Shows and stores a few samples of one step."""
        for watcher in self.watchers:
            watcher.on_samples(samples)

    def event(self, step: int, text: str) -> None:
        """Shows and stores one line about a step."""
        for watcher in self.watchers:
            watcher.on_event(step, text)

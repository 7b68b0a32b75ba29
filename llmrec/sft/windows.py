"""Training windows of SFT: slices of user histories, each followed by a true justification of its last item.

`TrainingWindows` keeps a few numbers a window. A window's texts and tokens are drawn when it is read, from a generator
of its own, so a log of any size takes little memory and a window is the same whenever it is read.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from llmrec.config import SFTConfig
from llmrec.data.dataset import InteractionData
from llmrec.data.decision import Decision
from llmrec.data.profiles import NEW_USER, profile_texts
from llmrec.data.windows import cut
from llmrec.language.templates import sample_justification
from llmrec.policy.model import RecPolicy
from llmrec.requests.draw import RequestSampler
from llmrec.requests.request import Request

Window = dict[str, Any]  # {profile, request, prior, items, learned, completions}
CHUNK = 16  # batches whose windows are sorted by length


class HistoryWindows:
    """Makes windows from slices of training histories.

    A window is a row `{profile, request, prior, items, learned, completions}`. The only completion recommends the item
    that followed `items` and justifies it with true facts. It satisfies the request, which is "" in most rows.
    `learned` says which of the shown items are targets: all, or those that satisfy the request.

    Args:
        policy: renders completions as tokens.
        data: the prepared log; windows come from the training part of its histories.
        attributes: user attributes that the prompt names.
        section: number of epochs, batch size, and shares of hidden profiles and of requests.
        seed: seed of windows, justifications and order.
    """

    def __init__(
        self, policy: RecPolicy, data: InteractionData, attributes: list[str], section: SFTConfig, seed: int
    ) -> None:
        self.policy = policy
        self.histories = data.train_histories
        self.profiles = profile_texts(data.users, attributes)
        self.section = section
        self.seed = seed
        self.sampler = RequestSampler(policy.attributes) if policy.attributes is not None else None

    def __len__(self) -> int:
        """Number of rows that a trainer goes through."""
        raise NotImplementedError

    def of_row(self, number: int) -> list[Window]:
        """The windows of a row."""
        raise NotImplementedError

    def window(self, place: np.ndarray, name: str) -> Window:
        """The window of a slice of a history.

        Args:
            place: user, start and end, int [3].
            name: seeds what is drawn for the window, together with the seed of the windows.
        """
        user, start, stop = place.tolist()
        history = self.histories[user]
        *items, target = history[start:stop].tolist()
        generator = random.Random(f"window {name} {self.seed}")
        hidden = generator.random() < self.section.profile_dropout
        request, learned = self._request(name, items, target)
        return {
            "profile": NEW_USER if hidden else self.profiles[user],
            "prior": history[:start].tolist(),
            "items": items,
            "completions": [_completion(self.policy, items, target, generator)],
            "request": request,
            "learned": learned,
        }

    def _request(self, name: str, items: list[int], target: int) -> tuple[str, list[bool]]:
        """A request that the target satisfies, "" in most windows, and which of the shown items satisfy it."""
        generator = random.Random(f"request {name} {self.seed}")  # the other draws do not depend on requests
        if self.sampler is not None and generator.random() < self.section.requests:
            request = self.sampler.draw(target, items, generator)
            if request is not None:
                return request.text, self.sampler.attributes.satisfied(request.conditions)[items].tolist()
        return "", [True] * len(items)


class TrainingWindows(HistoryWindows):
    """The windows of all epochs, in training order. Each epoch has new cuts, a new order and new justifications.

    Args:
        policy, data, attributes, section, seed: as in `HistoryWindows`.

    Attributes:
        places: user, start and end of each window, int32 [W, 3].
    """

    def __init__(
        self, policy: RecPolicy, data: InteractionData, attributes: list[str], section: SFTConfig, seed: int
    ) -> None:
        super().__init__(policy, data, attributes, section, seed)
        width = policy.catalogue.max_history
        epochs = int(np.ceil(section.num_train_epochs))
        lengths = self.histories.lengths
        places = np.concatenate([_epoch(lengths, width, section.batch_size, seed, epoch) for epoch in range(epochs)])
        self.places = places[: int(len(places) * section.num_train_epochs / epochs)]

    def __len__(self) -> int:
        # The first windows fill up the last batch. A smaller one could not be shared by processes evenly.
        return len(self.places) + -len(self.places) % self.section.batch_size

    def __iter__(self) -> Iterator[Window]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Window:
        if not 0 <= number < len(self):
            raise IndexError(number)
        number %= len(self.places)
        return self.window(self.places[number], str(number))

    def of_row(self, number: int) -> list[Window]:
        """The one window of a row."""
        return [self[number]]


class UserWindows(HistoryWindows):
    """Poisson samples of users, one row a step. A drawn user gives one window, which depends on no other user.

    Args:
        policy, data, attributes, section: as in `HistoryWindows`.
        rate: probability with which a user with training data is drawn into a step.
        steps: number of steps.
        seed: seed of samples, windows and justifications. It must be secret.
    """

    def __init__(
        self,
        policy: RecPolicy,
        data: InteractionData,
        attributes: list[str],
        section: SFTConfig,
        rate: float,
        steps: int,
        seed: int,
    ) -> None:
        super().__init__(policy, data, attributes, section, seed)
        self.rate = rate
        self.steps = steps
        self.users = np.flatnonzero(self.histories.lengths)

    def __len__(self) -> int:
        return self.steps

    def of_row(self, number: int) -> list[Window]:
        """The windows of the users that are drawn into a step, independently of each other; often none if few are."""
        drawn = self.users[np.random.default_rng((self.seed, number)).random(len(self.users)) < self.rate]
        return [self.of_user(user, number) for user in drawn.tolist()]

    def of_user(self, user: int, step: int) -> Window:
        """A window of a user: one of those that an epoch would have, at random."""
        generator = np.random.default_rng((self.seed, step, user))
        places = _cut_randomly(self.histories.lengths[[user]], self.policy.catalogue.max_history, generator)
        _, start, stop = places[generator.integers(len(places))].tolist()
        return self.window(np.array([user, start, stop]), f"{step} of user {user}")


def _epoch(lengths: np.ndarray, width: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """The places of an epoch's windows in training order, int32 [W, 3]."""
    generator = np.random.default_rng((seed, epoch))
    return _batches_of_like_length(_cut_randomly(lengths, width, generator), batch_size, generator)


def _cut_randomly(lengths: np.ndarray, width: int, generator: np.random.Generator) -> np.ndarray:
    """Cuts histories into places of windows, in the order of the users, int32 [W, 3].

    A window has at most `width` shown items and one item to predict. The first cut is random, so that epochs differ.
    """
    is_long = lengths > width + 1
    firsts = np.where(is_long, generator.integers(2, width + 2, len(lengths)), width + 1)
    places = cut(lengths, width + 1, firsts)
    sizes = places[:, 2] - places[:, 1]
    return places[(sizes > 1) | ~is_long[places[:, 0]]]


def _batches_of_like_length(places: np.ndarray, batch_size: int, generator: np.random.Generator) -> np.ndarray:
    """Shuffles windows into batches of similar length: less padding, and still a random order of batches."""
    places = places[generator.permutation(len(places))]
    chunk = np.arange(len(places)) // (CHUNK * batch_size)
    places = places[np.lexsort((places[:, 2] - places[:, 1], chunk))]
    batch = generator.permutation(-(-len(places) // batch_size))
    rows = (batch[:, None] * batch_size + np.arange(batch_size)).ravel()
    return places[rows[rows < len(places)]]


def _completion(policy: RecPolicy, shown: list[int], item: int, generator: random.Random) -> list[int]:
    """Token ids that recommend an item after the shown ones, with a sampled justification and the end token."""
    justification = policy.prompts.justification(sample_justification(policy.facts, item, shown, generator))
    completion: list[Any] = [*policy.vocabulary.sequences[item], *justification, policy.prompts.end]
    return completion


def decision_of(row: Window, repeats: bool = False) -> Decision:
    """The decision that a window ends with; `repeats` as in `Decision`."""
    request = Request(row["request"]) if row["request"] else None
    return Decision(row["profile"], row["prior"], row["items"], request=request, repeats=repeats)

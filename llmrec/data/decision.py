"""A user at a moment: what a recommender may know before it decides and, where known, what the user took next.

Every stage asks the same question of a policy, a baseline or a reward model: "given this history, which item next?".
`Decision` is one such question and `Decisions` holds many of them by column.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np

from llmrec.config import CatalogueConfig
from llmrec.data.dataset import InteractionData, Targets
from llmrec.data.profiles import NEW_USER, profile_texts
from llmrec.data.ragged import Ragged
from llmrec.requests.request import Request

_ROW_KEYS = ("user", "profile", "prior", "items", "purchased")


@dataclass(frozen=True)
class Decision:
    """One user at one moment.

    Reward functions of users read it as a mapping too: `row["items"]`, `row.get("user")`, `"user" in row`, `dict(row)`.
    The mapping holds what was known before the decision, so it lacks the target.

    Attributes:
        profile: what the prompt says of the user.
        prior: item indices seen before the prompt's window, oldest first. They are not shown.
        items: item indices that the prompt shows, oldest first.
        purchased: whether each item of `prior + items` is known to be purchased; None if unknown.
        user: index in the event log; None for somebody outside of it.
        target: item index that the user took next; None if unknown.
        request: what the user asks for in words; None for no request.
        excluded: item indices that must not be recommended, beside the seen ones.
        repeats: whether seen items may be recommended.
    """

    profile: str
    prior: Sequence[int] | np.ndarray
    items: Sequence[int] | np.ndarray
    purchased: Sequence[bool] | np.ndarray | None = None
    user: int | None = None
    target: int | None = None
    request: Request | None = None
    excluded: Sequence[int] = ()
    repeats: bool = False

    @property
    def history(self) -> np.ndarray:
        """All seen items, oldest first, int64 [n]."""
        return np.array([*self.prior, *self.items], dtype=np.int64)

    @property
    def masked_before(self) -> np.ndarray:
        """Items that must not be recommended, apart from those that the prompt shows, int64 [n]."""
        seen = () if self.repeats else self.prior
        return np.array([*seen, *self.excluded], dtype=np.int64)

    @property
    def masked(self) -> np.ndarray:
        """All items that must not be recommended, int64 [n]."""
        return np.array([*self.masked_before, *(() if self.repeats else self.items)], dtype=np.int64)

    @property
    def known_purchases(self) -> np.ndarray:
        """Whether each item of the history is known to be purchased, bool [n]; unknown purchases count as none."""
        if self.purchased is None:
            return np.zeros(len(self.prior) + len(self.items), dtype=bool)
        return np.asarray(self.purchased, dtype=bool)

    def keys(self) -> tuple[str, ...]:
        """Keys of the mapping."""
        return _ROW_KEYS

    def __iter__(self) -> Iterator[str]:
        return iter(_ROW_KEYS)

    def __contains__(self, name: object) -> bool:
        return name in _ROW_KEYS

    def __getitem__(self, name: str) -> Any:
        """A value of the mapping, sequences as lists.

        Raises:
            KeyError: the mapping has no such key.
        """
        if name not in _ROW_KEYS:
            raise KeyError(name)
        value = getattr(self, name)
        return np.asarray(value).tolist() if name in ("prior", "items", "purchased") and value is not None else value

    def get(self, name: str, default: Any = None) -> Any:
        """A value of the mapping, or a default without such a key."""
        return self[name] if name in _ROW_KEYS else default


@dataclass(frozen=True)
class KnownPurchases(Sequence[np.ndarray]):
    """Which items were known to be purchased at M positions of the log, bool [n_m] each; computed when they are read.

    Attributes:
        data: the prepared log.
        targets: the M positions.
    """

    data: InteractionData
    targets: Targets

    def __len__(self) -> int:
        return len(self.targets)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> "KnownPurchases": ...

    def __getitem__(self, index: int | slice) -> "np.ndarray | KnownPurchases":
        users, positions = self.targets.users[index], self.targets.positions[index]
        if isinstance(index, slice):
            return KnownPurchases(self.data, Targets(users, positions))
        return self.data.purchases_before(int(users), int(positions))

    def select(self, rows: np.ndarray) -> "KnownPurchases":
        """Some of the positions, in the order of `rows`."""
        return KnownPurchases(self.data, Targets(self.targets.users[rows], self.targets.positions[rows]))


@dataclass(frozen=True)
class Decisions(Sequence[Decision]):
    """M decisions by column. Histories are views of the event log's arrays, which are made when they are read.

    Attributes:
        profiles: what the prompt says of each user, [M].
        histories: seen items of each, oldest first, int64 [n_m].
        purchased: which of them are known to be purchased, bool [n_m].
        users: index in the event log, int64 [M]; -1 for somebody outside of it.
        targets: the item that each user took next, int64 [M]; -1 if unknown.
        max_history: how many of the newest items a prompt shows.
        requests: what each user asks for, [M]; empty if nobody asks for anything.
        repeats: whether seen items may be recommended.
    """

    profiles: list[str]
    histories: Sequence[np.ndarray]
    purchased: Sequence[np.ndarray]
    users: np.ndarray
    targets: np.ndarray
    max_history: int
    requests: Sequence[Request | None] = ()
    repeats: bool = False

    @property
    def masked(self) -> Sequence[np.ndarray]:
        """Items that must not be recommended at each decision: the seen ones, or none; int64 [n_m]."""
        return [np.zeros(0, dtype=np.int64)] * len(self) if self.repeats else self.histories

    @classmethod
    def from_targets(
        cls, data: InteractionData, targets: Targets, catalogue: CatalogueConfig | None = None
    ) -> "Decisions":
        """The decisions that prediction targets ask for, with all that was known just before each target.

        Args:
            data: the prepared log.
            targets: positions in histories. A position at a history's end has no target yet.
            catalogue: which user attributes the prompt names and how many items it shows; None uses the defaults.
        """
        catalogue = catalogue or CatalogueConfig()
        texts = profile_texts(data.users, catalogue.user_attributes)
        users = np.asarray(targets.users, dtype=np.int64)
        positions = np.asarray(targets.positions, dtype=np.int64)
        return cls(
            profiles=[texts[user] for user in users],
            histories=Ragged.of(data.histories).select(users).first(positions),
            purchased=KnownPurchases(data, Targets(users, positions)),
            users=users,
            targets=items_at(data, users, positions),
            max_history=catalogue.max_history,
            repeats=data.repeats,
        )

    @classmethod
    def from_decisions(cls, decisions: Iterable[Decision], max_history: int) -> "Decisions":
        """Columns of single decisions; unknown purchases count as none."""
        rows = list(decisions)
        return cls(
            profiles=[row.profile for row in rows],
            histories=[row.history for row in rows],
            purchased=[row.known_purchases for row in rows],
            users=np.array([-1 if row.user is None else row.user for row in rows], dtype=np.int64),
            targets=np.array([-1 if row.target is None else row.target for row in rows], dtype=np.int64),
            max_history=max_history,
            requests=[row.request for row in rows],
            repeats=any(row.repeats for row in rows),
        )

    def __len__(self) -> int:
        return len(self.histories)

    @overload
    def __getitem__(self, index: int) -> Decision: ...

    @overload
    def __getitem__(self, index: slice) -> "Decisions": ...

    def __getitem__(self, index: int | slice) -> "Decision | Decisions":
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        history = self.histories[index]
        user, target = int(self.users[index]), int(self.targets[index])
        return Decision(
            profile=self.profiles[index],
            prior=history[: -self.max_history],
            items=history[-self.max_history :],
            purchased=self.purchased[index],
            user=None if user < 0 else user,
            target=None if target < 0 else target,
            request=self.requests[index] if self.requests else None,
            repeats=self.repeats,
        )

    def select(self, rows: Sequence[int] | np.ndarray) -> "Decisions":
        """Some of the decisions, in the order of `rows`."""
        index = np.asarray(rows, dtype=np.int64)
        return Decisions(
            profiles=[self.profiles[m] for m in index],
            histories=Ragged.of(self.histories).select(index),
            purchased=(
                self.purchased.select(index)
                if isinstance(self.purchased, KnownPurchases)
                else Ragged.of(self.purchased).select(index)
            ),
            users=self.users[index],
            targets=self.targets[index],
            max_history=self.max_history,
            requests=[self.requests[m] for m in index] if self.requests else (),
            repeats=self.repeats,
        )

    def without_profiles(self) -> "Decisions":
        """The same decisions for people of whom nothing is known but their history."""
        return replace(self, profiles=[NEW_USER] * len(self))

    def batches(self, size: int) -> Iterator["Decisions"]:
        """At most `size` decisions at a time, in order."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


def items_at(data: InteractionData, users: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The items at positions of histories, each int64 [M]; -1 at the end of a history."""
    histories = Ragged.of(data.histories)
    inside = positions < histories.lengths[users]
    items = np.full(len(users), -1, dtype=np.int64)
    items[inside] = histories.at(users[inside], positions[inside])
    return items


def stranger(
    items: Sequence[int],
    max_history: int,
    excluded: Sequence[int] = (),
    profile: str = NEW_USER,
    request: Request | None = None,
    repeats: bool = False,
) -> Decision:
    """The decision for somebody with a history of their own.

    Args:
        items: seen item indices, oldest first.
        max_history: how many of the newest items the prompt shows.
        excluded: item indices that must not be recommended either.
        profile: what the prompt says of the person.
        request: what the person asks for in words.
        repeats: whether seen items may be recommended.
    """
    prior, shown = items[:-max_history], items[-max_history:]
    return Decision(profile, prior, shown, request=request, excluded=excluded, repeats=repeats)

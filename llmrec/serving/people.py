"""What the server knows of people: their history in the event log of the run, and their feedback since."""

from dataclasses import dataclass

from llmrec.data.profiles import NEW_USER
from llmrec.recommend import Recommender
from llmrec.serving.items import Items
from llmrec.serving.store import Store
from llmrec.serving.tables import erasures

SEEN = ("click", "purchase", "rating")  # feedback whose item joins the history


@dataclass(frozen=True)
class Person:
    """Somebody to recommend to.

    Attributes:
        profile: what the prompt says of the person.
        history: indices of seen items, oldest first.
        skipped: indices of items that the person does not want.
        events: number of events in the store.
        erased: whether data of the person was deleted. The event log is not used for them any more.
        known: whether the log or the store knows the person.
    """

    profile: str = NEW_USER
    history: tuple[int, ...] = ()
    skipped: tuple[int, ...] = ()
    events: int = 0
    erased: bool = False
    known: bool = False


class People:
    """Finds people by id.

    Args:
        recommender: the model, with the event log of its run if there is one.
        items: its catalogue.
        store: the feedback store.
    """

    def __init__(self, recommender: Recommender, items: Items, store: Store):
        self._recommender = recommender
        self._items = items
        self._store = store

    def ids(self, start: str) -> list[str]:
        """Ids of the event log that start with some characters, in its order. Deleted people are left out.

        Raises:
            StoreError: the store cannot be read.
        """
        data = self._recommender.data
        erased = {row["user_id"] for row in self._store.rows(erasures, ["user_id"])}
        return [] if data is None else [one for one in data.user_index if one.startswith(start) and one not in erased]

    def find(self, user_id: str) -> Person:
        """What is known of a person; an empty history of a new user if nothing is.

        Raises:
            StoreError: the store cannot be read.
        """
        stored = self._store.person(user_id)
        data = self._recommender.data
        row = None if data is None or stored.erased else data.user_index.get(user_id)
        logged: list[int] = [] if data is None or row is None else data.histories[row].tolist()
        seen = self._items.known([item for kind, item in stored.feedback if kind in SEEN])
        skipped = self._items.known([item for kind, item in stored.feedback if kind == "skip"])
        return Person(
            profile=NEW_USER if row is None else self._recommender.profiles[row],
            history=self._recommender.distinct([*logged, *seen]),
            skipped=tuple(skipped),
            events=len(stored.feedback),
            erased=stored.erased,
            known=row is not None or bool(stored.feedback) or stored.erased,
        )

"""What the server does, without HTTP: recommends to people, records what it shows, and knows their history."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeVar

import numpy as np

from llmrec.data.decision import Decision
from llmrec.errors import CatalogueError, ModelError, UserError
from llmrec.recommend import Justification, Recommender
from llmrec.requests.request import Request
from llmrec.serving.contenders import Contenders
from llmrec.serving.engine import EngineBusyError
from llmrec.serving.errors import ApiError, busy, store_unavailable
from llmrec.serving.items import Items
from llmrec.serving.lists import Candidates, RankedList, choose_list
from llmrec.serving.live import Live, Loaded
from llmrec.serving.messages import (
    FeedbackEvent,
    Question,
    Rating,
    Reason,
    RecommendedItem,
    RecommendRequest,
    RecommendResponse,
    Statement,
)
from llmrec.serving.monitoring import Metrics
from llmrec.serving.people import People, Person
from llmrec.serving.store import Deleted, Feedback, Impression, Store, StoreBusyError, StoreError

Result = TypeVar("Result")
MAX_AHEAD = 86_400  # seconds that a client's clock may be ahead


class Service:
    """A policy with a store of feedback.

    Args:
        recommender: a model of the catalogue that all versions share.
        live: the versions that answer.
        contenders: the versions that can be compared.
        store: the feedback store.
        sampled_share: share of requests whose list is drawn at random.
        metrics: counters.
    """

    def __init__(
        self,
        recommender: Recommender,
        live: Live,
        contenders: Contenders,
        store: Store,
        sampled_share: float,
        metrics: Metrics,
    ):
        self.recommender = recommender
        self.live = live
        self.contenders = contenders
        self.store = store
        self.sampled_share = sampled_share
        self.metrics = metrics
        self.items = Items(recommender)
        self.people = People(recommender, self.items, store)

    def start(self) -> None:
        """Reads what the first request would have to wait for, and writes the catalogue into the store.

        Raises:
            StoreError: the store cannot be written.
        """
        rows = [
            {"item_id": item, "row": row, "title": title, "categories": "|".join(self.items.of_item(row))}
            for row, (item, title) in enumerate(zip(self.items.ids, self.items.titles, strict=True))
        ]
        written = self.store.put_items(rows)
        self.people.find("")  # reads the event log
        written.result()

    def check(self) -> None:
        """Checks that requests can be answered.

        Raises:
            StoreError: the store fails.
            ApiError: the model thread has ended.
        """
        if not self.live.alive():
            raise ApiError(503, "model_unavailable", "The model thread has ended. Restart the server.")
        self.store.check()

    # --- recommendations ---

    async def recommend(self, request: RecommendRequest) -> RecommendResponse:
        """Chooses a list, records it, and writes the reasons if the request asks for complete ones.

        Raises:
            ApiError: an item or category is unknown, nothing is left to recommend, or the server is too busy.
        """
        version = self.live.of(request.user)
        decision, response = await self._list(request, version)
        if request.reasons != "complete":
            return response
        reasons = await asyncio.gather(*self._reasons(version, decision, response))
        items = [
            item.model_copy(
                update={"reason": reason.text, "grounded": reason.grounded, "statements": self._statements(reason)}
            )
            for item, reason in zip(response.items, reasons, strict=True)
        ]
        return response.model_copy(update={"items": items})

    async def stream(self, request: RecommendRequest) -> tuple[RecommendResponse, AsyncIterator[Reason]]:
        """Chooses and records a list.

        Returns:
            the list, and an iterator of its reasons in order. If the iterator is closed early, the other reasons are
            not written.

        Raises:
            ApiError: see `recommend`.
        """
        version = self.live.of(request.user)
        decision, response = await self._list(request, version)
        pending = self._reasons(version, decision, response)

        async def reasons(held: Loaded = version) -> AsyncIterator[Reason]:  # `held` keeps the model thread running
            try:
                for item, waiting in zip(response.items, pending, strict=True):
                    written = await waiting
                    yield Reason(
                        position=item.position,
                        item=item.item,
                        reason=written.text,
                        grounded=written.grounded,
                        statements=self._statements(written),
                    )
            finally:
                for waiting in pending:
                    waiting.cancel()

        return response, reasons()

    async def _list(self, request: RecommendRequest, version: Loaded) -> tuple[Decision, RecommendResponse]:
        decision, satisfies = await self.decision(request)
        chosen = await self.choose(decision, request, version, self.sampled_share)
        items = [
            RecommendedItem(
                item=self.items.ids[item],
                title=self.items.titles[item],
                position=position,
                score=score,
                propensity=propensity,
                satisfies=None if satisfies is None else bool(satisfies[item]),
            )
            for position, (item, score, propensity) in enumerate(
                zip(chosen.items.tolist(), chosen.scores.tolist(), chosen.propensities.tolist(), strict=True), start=1
            )
        ]
        response = RecommendResponse(
            request_id=uuid.uuid4().hex,
            policy=version.label,
            sampled=chosen.sampled,
            recorded=True,
            items=items,
        )
        recorded = await self._record(request.user, response)
        self.metrics.lists.labels("sampled" if chosen.sampled else "best").inc()
        return decision, response.model_copy(update={"recorded": recorded})

    async def decision(self, request: Question) -> tuple[Decision, np.ndarray | None]:
        """The prompt of a request, and which items satisfy what the person asks for, bool [N]; None if nobody knows.

        Raises:
            ApiError: an item or category is unknown, or nothing is left to recommend.
        """
        person = Person() if request.user is None else await self.person(request.user)
        return await asyncio.to_thread(self._decide, request, person)

    def _decide(self, request: Question, person: Person) -> tuple[Decision, np.ndarray | None]:
        """What `decision` returns. It takes milliseconds in a large catalogue, so a thread runs it."""
        excluded = self.items.indices(request.exclude)
        excluded += [] if request.categories is None else self.items.without(request.categories)
        if request.history is not None:
            person = replace(person, history=self.recommender.distinct(self.items.indices(request.history)))
        asked = None if request.request is None else self._understand(request.request)
        decision = self.recommender.decision(person.history, [*excluded, *person.skipped], person.profile, asked)
        if len(set(decision.masked.tolist())) >= len(self.items):
            message = "No item is left: the person has seen, or the request leaves out, all of them. Leave out less."
            raise ApiError(409, "no_item_left", message)
        try:
            return decision, self.recommender.satisfying(decision)
        except CatalogueError as error:
            raise ApiError(409, "no_item_satisfies", str(error)) from None

    def _understand(self, words: str) -> Request:
        try:
            return self.recommender.understand(words)
        except ModelError as error:
            raise ApiError(422, "requests_not_read", str(error)) from None
        except UserError as error:
            raise ApiError(422, "unreadable_request", str(error)) from None

    async def choose(self, decision: Decision, request: Question, version: Loaded, sampled_share: float) -> RankedList:
        """The list of a version, without recording it.

        Args:
            decision: the prompt of the request.
            request: the request.
            version: what ranks the items.
            sampled_share: probability of a list that is drawn at random.

        Raises:
            ApiError: too many requests wait.
        """
        try:
            scores = await asyncio.wrap_future(version.engine.rank(decision))
        except EngineBusyError:
            raise busy("Too many requests wait for the model.") from None
        return await asyncio.to_thread(self._choose, scores, request, sampled_share)

    def _choose(self, scores: np.ndarray, request: Question, sampled_share: float) -> RankedList:
        candidates = Candidates.from_scores(scores, self.items.representatives, self.items.has_category)
        return choose_list(candidates, request.k, sampled_share, request.diversity, np.random.default_rng())

    async def _record(self, user: str | None, response: RecommendResponse) -> bool:
        """Writes the impressions of a list; False if the store fails, because the person gets the list anyway."""
        now = time.time()
        impressions = [
            Impression(
                request_id=response.request_id,
                position=item.position,
                user_id=user,
                item_id=item.item,
                propensity=item.propensity,
                score=item.score,
                policy=response.policy,
                sampled=response.sampled,
                at=now,
            )
            for item in response.items
        ]
        try:
            await asyncio.wrap_future(self.store.add_impressions(impressions))
        except StoreError:
            self.metrics.impressions.labels("lost").inc(len(impressions))
            return False
        self.metrics.impressions.labels("recorded").inc(len(impressions))
        return True

    def _reasons(
        self, version: Loaded, decision: Decision, response: RecommendResponse
    ) -> "Sequence[asyncio.Future[Justification]]":
        pending: list[Future[Justification]] = []
        try:
            for item in response.items:
                pending.append(version.engine.justify(decision, self.items.indices([item.item])[0]))
        except EngineBusyError:
            for waiting in pending:
                waiting.cancel()
            raise busy("Too many reasons wait for the model.") from None
        return [asyncio.wrap_future(waiting) for waiting in pending]

    def _statements(self, reason: Justification) -> list[Statement]:
        titles, ids = self.items.titles, self.items.ids
        return [
            Statement(text=one.text(titles), true=one.true, about=[ids[item] for item in one.about])
            for one in reason.statements
        ]

    # --- people ---

    async def users(self, start: str) -> list[str]:
        """Ids of the people of the event log that start with some characters, without those whose data was deleted.

        Raises:
            ApiError: the store fails.
        """
        try:
            return await asyncio.to_thread(self.people.ids, start)
        except StoreError:
            raise store_unavailable() from None

    async def person(self, user_id: str) -> Person:
        """What is known of a person.

        Raises:
            ApiError: the store fails.
        """
        try:
            return await asyncio.to_thread(self.people.find, user_id)
        except StoreError:
            raise store_unavailable() from None

    async def erase(self, user_id: str) -> Deleted:
        """Deletes what the store holds of a person, and lists the person for the next training.

        Raises:
            ApiError: the store fails.
        """
        return await written(lambda: self.store.erase(user_id))

    # --- feedback ---

    async def add_feedback(self, events: Sequence[FeedbackEvent]) -> int:
        """Writes events; returns how many are new.

        Raises:
            ApiError: an item is unknown, a time lies in the future, or the store fails. Nothing was written then.
        """
        await asyncio.to_thread(self.items.indices, [event.item for event in events])
        now = time.time()  # after all waiting, so that events are received in the order in which they are stored
        for number, event in enumerate(events):
            if event.timestamp is not None and event.timestamp > now + MAX_AHEAD:
                message = (
                    f"events[{number}].timestamp is {event.timestamp:.0f}, more than a day after now ({now:.0f}). Give "
                    "seconds since 1970, and check the clock of the client."
                )
                raise ApiError(422, "timestamp_in_the_future", message)
        rows = [
            Feedback(
                event_id=event.event_id,
                user_id=event.user,
                item_id=event.item,
                type=event.type,
                value=event.value if isinstance(event, Rating) else None,
                request_id=event.request_id,
                at=now if event.timestamp is None else event.timestamp,
                received=now,
            )
            for event in events
        ]
        accepted = await written(lambda: self.store.add_feedback(rows))
        self.metrics.feedback.labels("accepted").inc(accepted)
        self.metrics.feedback.labels("duplicate").inc(len(rows) - accepted)
        return accepted


async def written(write: "Callable[[], Future[Result]]") -> Result:
    """The result of a write to the store.

    Raises:
        ApiError: the store fails or has too much to do.
    """
    try:
        return await asyncio.wrap_future(write())
    except StoreBusyError:
        raise busy("Too many events wait for the database.") from None
    except StoreError:
        raise store_unavailable() from None

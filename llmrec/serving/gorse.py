"""Routes of Gorse, so that its clients work with this server: feedback in, item ids out."""

import hashlib
import time
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Query
from pydantic import BaseModel, Field

from llmrec.serving.errors import ApiError
from llmrec.serving.messages import HORIZON, MAX_EVENTS, MAX_LENGTH, Action, ItemId, Rating, RecommendRequest, UserId
from llmrec.serving.service import Service

# Gorse has no fixed types. These are the ones of its documentation and of this server.
ACTIONS: dict[str, Literal["impression", "click", "purchase", "skip"]] = {
    "read": "impression",
    "impression": "impression",
    "like": "click",
    "star": "click",
    "click": "click",
    "purchase": "purchase",
    "skip": "skip",
}


User = Annotated[UserId, Path(description="Id of the person.")]
Category = Annotated[str, Path(min_length=1, max_length=200, description="A category.")]
Offset = Annotated[int, Query(ge=0, le=0, description="Lists have one page, because all shown items are recorded.")]
Version = Annotated[
    str | None, Header(alias="X-API-Version", description="`2`: items with their probability. Otherwise ids alone.")
]
Count = Annotated[int, Query(ge=1, le=MAX_LENGTH, description="Number of items.")]


class GorseFeedback(BaseModel):
    """One event, as clients of Gorse send it."""

    FeedbackType: str = Field(max_length=64, examples=["like"])
    UserId: UserId
    ItemId: ItemId
    Timestamp: str = Field(default="", max_length=64, description="ISO 8601, in UTC if it names no zone; empty: now.")
    Value: float | None = Field(default=None, allow_inf_nan=False)
    Comment: str = ""


class GorseSuccess(BaseModel):
    """Number of new events."""

    RowAffected: int


class GorseScore(BaseModel):
    """A recommended item."""

    Id: str
    Score: float


Recommended = list[str] | list[GorseScore]


def gorse_routes(service: Service) -> APIRouter:
    """The routes of Gorse that this server has."""
    router = APIRouter(prefix="/api", tags=["Gorse"])

    @router.post("/feedback")
    @router.put("/feedback")
    async def feedback(
        events: Annotated[list[GorseFeedback], Field(min_length=1, max_length=MAX_EVENTS)],
    ) -> GorseSuccess:
        """Stores feedback. Equal events are stored once."""
        return GorseSuccess(RowAffected=await service.add_feedback([to_event(event) for event in events]))

    @router.get("/recommend/{user}")
    async def recommend(user: User, n: Count = 10, offset: Offset = 0, version: Version = None) -> Recommended:
        """Recommends items to a person, and records them as shown."""
        return await recommended(RecommendRequest(user=user, k=n), version)

    @router.get("/recommend/{user}/{category}")
    async def recommend_category(
        user: User, category: Category, n: Count = 10, offset: Offset = 0, version: Version = None
    ) -> Recommended:
        """Recommends items of a category to a person, and records them as shown."""
        return await recommended(RecommendRequest(user=user, k=n, categories=[category]), version)

    async def recommended(request: RecommendRequest, version: str | None) -> Recommended:
        items = (await service.recommend(request)).items
        if version == "2":
            return [GorseScore(Id=item.item, Score=item.score) for item in items]
        return [item.item for item in items]

    return router


def to_event(event: GorseFeedback) -> Action | Rating:
    """An event of Gorse as one of this server. Its id follows from its content, as Gorse stores equal events once.

    Raises:
        ApiError: the type or the time is unknown.
    """
    kind = event.FeedbackType.lower()
    text = "\x1f".join([kind, event.UserId, event.ItemId, event.Timestamp])
    common = {
        "event_id": f"gorse-{hashlib.sha256(text.encode()).hexdigest()[:40]}",
        "user": event.UserId,
        "item": event.ItemId,
        "timestamp": _seconds(event.Timestamp),
    }
    if kind == "rating" and event.Value is not None:
        return Rating(type="rating", value=event.Value, **common)
    if kind not in ACTIONS:
        known = ", ".join([*ACTIONS, "rating (with a Value)"])
        raise ApiError(422, "unknown_feedback_type", f"FeedbackType is not known here. Expected one of {known}.")
    return Action(type=ACTIONS[kind], **common)


def _seconds(timestamp: str) -> float:
    if not timestamp:
        return time.time()
    try:
        at = datetime.fromisoformat(timestamp)
        seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds < HORIZON:
        message = "Timestamp is not a date from 1970 to 2099. Expected ISO 8601, such as 2026-01-31."
        raise ApiError(422, "invalid_timestamp", message)
    return seconds

"""The HTTP application: routes, errors and their documentation."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

import llmrec
from llmrec.serving.comparison_routes import comparison_routes
from llmrec.serving.errors import ApiError, store_unavailable
from llmrec.serving.gorse import gorse_routes
from llmrec.serving.guard import Guard, Limits
from llmrec.serving.messages import (
    DeletedResponse,
    ErrorResponse,
    FeedbackRequest,
    FeedbackResponse,
    Health,
    ItemsResponse,
    Reason,
    RecommendRequest,
    RecommendResponse,
    UserId,
    UserResponse,
    UsersResponse,
)
from llmrec.serving.page import page_routes
from llmrec.serving.service import Service
from llmrec.serving.store import StoreError

LOG = logging.getLogger("llmrec.serving")
ERRORS = {
    400: "The request is no JSON.",
    401: "The API key is missing or unknown.",
    404: "An item, category, person, version or comparison is unknown.",
    408: "The request arrived too slowly.",
    409: "No item is left to recommend, none satisfies the request in words, only one version exists, or the vote "
    "differs from the first one.",
    413: "The request is too large.",
    422: "A field of the request is wrong.",
    429: "Too many requests per second.",
    503: "The server is too busy, or the store fails.",
}
CODES = {404: "not_found", 405: "method_not_allowed"}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documentation of the errors of a route."""
    return {status: {"model": ErrorResponse, "description": ERRORS[status]} for status in statuses}


LIMITED = _errors(400, 401, 408, 413, 422, 429, 503)


def make_app(service: Service, limits: Limits, keys: Sequence[str]) -> FastAPI:
    """The application of a service.

    Args:
        service: what answers.
        limits: what clients may ask.
        keys: API keys that are accepted; without any, no key is needed.
    """
    app = FastAPI(
        title="llmrec",
        version=llmrec.__version__,
        description="Recommendations of a language model, and feedback to them.",
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(_recommend_routes(service))
    app.include_router(_catalogue_routes(service))
    app.include_router(comparison_routes(service), responses=LIMITED | _errors(404, 409))
    app.include_router(_operation_routes(service))
    app.include_router(page_routes())
    app.include_router(gorse_routes(service), responses=LIMITED | _errors(404, 409))
    app.add_middleware(Guard, limits=limits, keys=keys, metrics=service.metrics)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected_error)
    return app


# --- routes ---------------------------------------------------------------------------------------


def _recommend_routes(service: Service) -> APIRouter:
    router = APIRouter(responses=LIMITED)

    @router.post(
        "/recommend",
        response_model=RecommendResponse,
        response_model_exclude_none=True,
        responses=_errors(404, 409) | {200: {"content": {"text/event-stream": {}}, "description": "The list."}},
    )
    async def recommend(request: RecommendRequest) -> Any:
        """Recommends items to a person, best first, and records what is shown.

        With `reasons: stream` the answer is a stream of server-sent events: `items` with the list, a `reason` for each
        item in order, then `done`; or `error` if the reasons cannot be written.
        """
        if request.reasons != "stream":
            return await service.recommend(request)
        response, reasons = await service.stream(request)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(response, reasons), media_type="text/event-stream", headers=headers)

    @router.post("/feedback", responses=_errors(404))
    async def feedback(request: FeedbackRequest) -> FeedbackResponse:
        """Stores what people did. The events are on the disk when the answer arrives."""
        accepted = await service.add_feedback(request.events)
        return FeedbackResponse(accepted=accepted, duplicates=len(request.events) - accepted)

    return router


def _catalogue_routes(service: Service) -> APIRouter:
    router = APIRouter(responses=LIMITED)
    user_path = Path(description="Id of the person.")

    @router.get("/items", responses=_errors(404))
    async def items(
        query: Annotated[str | None, Query(max_length=200, description="Words of the title.")] = None,
        category: Annotated[str | None, Query(max_length=200, description="A category of the item.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000, description="Items on the page.")] = 100,
        offset: Annotated[int, Query(ge=0, le=10**9, description="Items before the page.")] = 0,
    ) -> ItemsResponse:
        """Lists items of the catalogue."""
        found = await asyncio.to_thread(service.items.find, query, category)
        page = service.items.describe(found[offset : offset + limit])
        return ItemsResponse(total=len(found), items=page)

    @router.get("/users")
    async def users(
        query: Annotated[str, Query(max_length=200, description="First characters of the id.")] = "",
        limit: Annotated[int, Query(ge=1, le=1000, description="Ids at most.")] = 20,
    ) -> UsersResponse:
        """Lists people of the event log."""
        found = await service.users(query)
        return UsersResponse(total=len(found), users=found[:limit])

    @router.get("/users/{user:path}", responses=_errors(404))
    async def user(user: Annotated[UserId, user_path]) -> UserResponse:
        """Shows what the server knows of a person."""
        person = await service.person(user)
        if not person.known:
            raise ApiError(404, "unknown_user", "Neither the event log nor the store knows this person.")
        return UserResponse(
            user=user,
            profile=person.profile,
            history=service.items.describe(person.history),
            skipped=service.items.describe(person.skipped),
            events=person.events,
            erased=person.erased,
        )

    @router.delete("/users/{user:path}", responses=_errors(404))  # an id with a line break fits no route
    async def erase(user: Annotated[UserId, user_path]) -> DeletedResponse:
        """Deletes all feedback, impressions and comparisons of a person, and lists the person for the next training.

        The event log of the run is not used for the person any more. The present model has still been trained on it.
        """
        deleted = await service.erase(user)
        return DeletedResponse(**asdict(deleted))

    return router


def _operation_routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> Health:
        """Answers while the process runs."""
        return Health()

    @router.get("/readyz", responses=_errors(503))
    async def readyz() -> Health:
        """Answers if the model and the store work."""
        try:
            await asyncio.to_thread(service.check)
        except StoreError as error:
            LOG.warning("the store fails", extra={"fields": {"reason": str(error)}})
            raise store_unavailable() from None
        return Health()

    @router.get("/metrics", response_class=PlainTextResponse, responses=_errors(401, 429, 503))
    async def metrics() -> Response:
        """Metrics in the text format of Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


async def _events(response: RecommendResponse, reasons: AsyncIterator[Reason]) -> AsyncIterator[str]:
    """A list and its reasons as server-sent events."""
    yield _event("items", response.model_dump_json(exclude_none=True))
    try:
        async for reason in reasons:
            yield _event("reason", reason.model_dump_json())
    except Exception as error:  # the status of the answer was sent long ago
        LOG.error("a reason failed", exc_info=error)
        yield _event("error", json.dumps(ApiError(500, "internal", "The reasons could not be written.").body()))
        return
    yield _event("done", "{}")


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"


# --- errors ---------------------------------------------------------------------------------------


async def _api_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, headers=error.headers)


async def _invalid_request(_: Request, error: Exception) -> JSONResponse:
    """Says which fields are wrong, without repeating their values."""
    assert isinstance(error, RequestValidationError)
    fields = [{"field": _field(one["loc"]), "message": one["msg"]} for one in error.errors()[:20]]
    message = "; ".join(f"{one['field']}: {one['message']}" for one in fields[:3])
    body = ApiError(422, "invalid_request", message).body() | {}
    return JSONResponse({"error": body["error"] | {"fields": fields}}, 422)


def _field(place: tuple[int | str, ...]) -> str:
    """The path of a field, such as `events[3].item`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in place[1:]]
    return "".join(parts).lstrip(".") or str(place[0])


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = CODES.get(error.status_code, "invalid_request")
    body = ApiError(error.status_code, code, str(error.detail)).body()
    return JSONResponse(body, error.status_code, headers=error.headers)


async def _unexpected_error(_: Request, error: Exception) -> JSONResponse:
    LOG.error("a request failed", exc_info=error)
    body = ApiError(500, "internal", "This is a bug of the server. Its log says where.").body()
    return JSONResponse(body, 500)

"""The routes by which people compare two versions without knowing which is which."""

from typing import Annotated

from fastapi import APIRouter, Path

from llmrec.serving.comparisons import Comparisons
from llmrec.serving.messages import (
    ComparisonRequest,
    ComparisonResponse,
    TallyResponse,
    Token,
    VersionsResponse,
    VoteRequest,
    VoteResponse,
)
from llmrec.serving.service import Service


def comparison_routes(service: Service) -> APIRouter:
    """The routes of comparisons."""
    comparisons = Comparisons(service)
    router = APIRouter()

    @router.get("/versions")
    async def versions() -> VersionsResponse:
        """Lists the versions that can be compared."""
        return await comparisons.versions()

    @router.post("/comparisons")
    async def compare(request: ComparisonRequest) -> ComparisonResponse:
        """Shows the lists of two versions without saying which is which.

        The order is drawn at random. The lists are not recorded as impressions, so no training and no off-policy
        estimate reads them.
        """
        return await comparisons.draw(request)

    @router.post("/comparisons/{comparison}/vote")
    async def vote(
        comparison: Annotated[Token, Path(description="Id of the comparison.")], request: VoteRequest
    ) -> VoteResponse:
        """Stores which list is better, and says which version made which.

        The same vote may be sent again. Another one is refused.
        """
        return await comparisons.vote(comparison, request.verdict)

    @router.get("/comparisons")
    async def tally() -> TallyResponse:
        """Counts the votes on each pair of versions."""
        return await comparisons.tally()

    return router

"""Comparison of two versions side by side: lists without names, votes, and their tally.

The server draws which version is on which side and keeps that in its store. A client gets an id, and the names after
its vote. The lists are no impressions: nobody was recommended one of them, so no policy would learn from them.
"""

import asyncio
import logging
import math
import secrets
import time
from collections import defaultdict
from collections.abc import Sequence

from llmrec.errors import UserError
from llmrec.serving.errors import ApiError, store_unavailable
from llmrec.serving.lists import RankedList
from llmrec.serving.live import Loaded
from llmrec.serving.messages import (
    ComparedItem,
    ComparisonRequest,
    ComparisonResponse,
    ServedVersion,
    Tally,
    TallyResponse,
    Verdict,
    VersionsResponse,
    VoteResponse,
)
from llmrec.serving.service import Service, written
from llmrec.serving.store import Comparison, StoreError

LOG = logging.getLogger("llmrec.serving")
IDLE_SECONDS = 600.0  # without a comparison, after which versions that only comparisons use leave the memory
Z = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


class Comparisons:
    """Comparisons of the versions of a service.

    Args:
        service: what ranks items and stores votes.
    """

    def __init__(self, service: Service):
        self._service = service
        self._contenders = service.contenders
        self._loading = asyncio.Lock()
        self._release: asyncio.TimerHandle | None = None

    async def versions(self) -> VersionsResponse:
        """The versions that can be compared.

        Raises:
            ApiError: the registry cannot be read.
        """
        async with self._loading:
            return await asyncio.to_thread(self._list_versions)

    def _list_versions(self) -> VersionsResponse:
        try:
            found = self._contenders.versions()
            default = self._contenders.default()
        except UserError as error:
            raise _unavailable(error) from None
        versions = [ServedVersion(version=one.number, policy=one.label, state=one.state) for one in found]
        return VersionsResponse(versions=versions, default=default)

    async def draw(self, request: ComparisonRequest) -> ComparisonResponse:
        """The lists of two versions, in an order that is drawn at random and stored.

        Raises:
            ApiError: a version, item or category is unknown, there is nothing to compare or to recommend, or the server
                or its store cannot answer at present.
        """
        decision, _ = await self._service.decision(request)
        pair = await self._pair(request.versions)
        secrets.SystemRandom().shuffle(pair)
        left, right = await asyncio.gather(*(self._service.choose(decision, request, one, 0.0) for one in pair))
        shown = Comparison(
            comparison_id=secrets.token_hex(16),
            user_id=request.user,
            left_policy=pair[0].label,
            right_policy=pair[1].label,
            at=time.time(),
        )
        await written(lambda: self._service.store.add_comparison(shown))
        return ComparisonResponse(
            comparison_id=shown.comparison_id, left=self._describe(left), right=self._describe(right)
        )

    async def _pair(self, numbers: Sequence[int] | None) -> list[Loaded]:
        async with self._loading:  # a thread loads, one pair at a time
            if self._release is not None:
                self._release.cancel()
            try:
                return await asyncio.to_thread(self._contenders.pair, numbers)
            except UserError as error:
                raise _unavailable(error) from None
            finally:
                self._release = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._contenders.release)

    def _describe(self, chosen: RankedList) -> list[ComparedItem]:
        items = self._service.items
        return [ComparedItem(item=items.ids[item], title=items.titles[item]) for item in chosen.items.tolist()]

    async def vote(self, comparison_id: str, verdict: Verdict) -> VoteResponse:
        """Stores a vote, and says which version was on which side. The same vote may be sent again.

        Raises:
            ApiError: there is no such comparison, it has another vote, or the store fails.
        """
        found = await written(lambda: self._service.store.vote(comparison_id, verdict))
        if found is None:
            message = "There is no comparison with this id. It was never shown here, or the person's data was deleted."
            raise ApiError(404, "unknown_comparison", message)
        if found.verdict != verdict:
            message = f"This comparison has the vote `{found.verdict}` already. Ask for another comparison."
            raise ApiError(409, "already_voted", message)
        return VoteResponse(verdict=verdict, left=found.left_policy, right=found.right_policy)

    async def tally(self) -> TallyResponse:
        """The votes on all pairs of versions.

        Raises:
            ApiError: the store fails.
        """
        try:
            votes = await asyncio.to_thread(self._service.store.votes)
        except StoreError:
            raise store_unavailable() from None
        return TallyResponse(pairs=tallies(votes))


def tallies(votes: Sequence[tuple[str, str, str, int]]) -> list[Tally]:
    """Sums up votes by pairs of versions, whichever side each was on.

    Args:
        votes: left version, right version, verdict and count.
    """
    counts: defaultdict[tuple[str, str], defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for left, right, verdict, count in votes:
        first, second = sorted((left, right))
        counts[first, second][{"left": left, "right": right}.get(verdict, "tie")] += count
    return [_tally(first, second, counts[first, second]) for first, second in sorted(counts)]


def _tally(first: str, second: str, better: dict[str, int]) -> Tally:
    decided = better[first] + better[second]
    low, high = wilson_interval(better[first], decided) if decided else (None, None)
    return Tally(
        first=first,
        second=second,
        first_better=better[first],
        second_better=better[second],
        ties=better["tie"],
        share=better[first] / decided if decided else None,
        low=low,
        high=high,
    )


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a probability from independent trials, of which there is at least one.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927).
    """
    share = successes / trials
    scale = 1 + Z**2 / trials
    center = (share + Z**2 / (2 * trials)) / scale
    margin = Z / scale * math.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    return max(0.0, center - margin), min(1.0, center + margin)


def _unavailable(error: UserError) -> ApiError:
    """A version that cannot be loaded. Its message names files of the server, so only the log has it."""
    LOG.error("a version cannot be compared", extra={"fields": {"reason": str(error)}})
    message = "A version cannot be loaded at present. The log of the server says why."
    return ApiError(503, "model_unavailable", message, {"Retry-After": "5"})

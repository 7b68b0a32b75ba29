"""What `report.json` holds of requests in words, as typed records."""

from pydantic import Field

from llmrec.evaluation.estimates import Estimate, Section


class RequestReport(Section):
    """How well one policy follows requests of one kind, each true of the item that the user took."""

    requests: int | None = Field(default=None, description="Number of requests.")
    satisfied: Estimate | None = Field(
        default=None,
        description="Share of the ten best items that satisfy the request. If fewer than ten unseen items satisfy it, "
        "the share of those.",
    )
    satisfied_without: Estimate | None = Field(
        default=None, description="The same share of the list that the policy gives without the request."
    )
    ndcg: Estimate | None = Field(default=None, description="NDCG@10 with the request.")
    ndcg_without: Estimate | None = Field(default=None, description="NDCG@10 without the request.")
    ndcg_oracle: Estimate | None = Field(
        default=None,
        description="NDCG@10 of the ranking without the request, filtered by an oracle that knows its conditions.",
    )
    ndcg_popular: Estimate | None = Field(
        default=None,
        description="NDCG@10 of the most clicked items under the same filter: what satisfies and ignores the user.",
    )
    of_oracle: Estimate | None = Field(
        default=None, description="`ndcg` divided by `ndcg_oracle`, with a paired interval; null if that is 0."
    )

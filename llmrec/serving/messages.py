"""Requests and answers of the server. Unknown fields are errors, and values are never converted to another type."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

HORIZON = 4_102_444_800  # start of the year 2100, in seconds since 1970
MAX_LENGTH = 50  # items of a list
MAX_EVENTS = 1000  # events of a request
MAX_IDS = 1000  # items of a history or of an exclusion
NO_CONTROL = r"^[^\u0000-\u001f\u007f]+$"
# Spaces of any language, listed because dialects of regular expressions differ in what `\s` is.
_SPACE = r"\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
NO_SPACE_AROUND = rf"^[^{_SPACE}\u0000-\u001f\u007f]([^\u0000-\u001f\u007f]*[^{_SPACE}\u0000-\u001f\u007f])?$"
MISSING = ("nan", "NaN")  # such ids are missing values in an event log


def _whole(value: Any) -> Any:
    """JSON writes the whole number 10 as `10` or as `10.0`."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _not_missing(value: str) -> str:
    if value in MISSING:
        raise ValueError("the id is the name of a missing value, so no event log can hold it. Use another id")
    return value


def _distinct(values: list[int]) -> list[int]:
    if len(set(values)) < len(values):
        raise ValueError("a version cannot be compared with itself. Give the numbers of two versions")
    return values


Whole = BeforeValidator(_whole)
UserId = Annotated[
    str,
    Field(min_length=1, max_length=200, pattern=NO_SPACE_AROUND, examples=["42"]),
    AfterValidator(_not_missing),
]
ItemId = Annotated[str, Field(min_length=1, max_length=200, pattern=NO_CONTROL, examples=["50"])]
Token = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:-]+$")]


class Message(BaseModel):
    """Base of all messages."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


# --- recommendations ------------------------------------------------------------------------------


class Question(Message):
    """Who asks for which list: a person whom the server knows, or somebody with the given history."""

    user: UserId | None = Field(
        default=None,
        description="The person. The server adds the history that it has of them. Somebody unknown has none yet.",
    )
    history: list[ItemId] | None = Field(
        default=None,
        max_length=MAX_IDS,
        description="Ids of seen items, oldest first, instead of the history that the server has.",
    )
    request: Annotated[str, Field(min_length=1, max_length=300, examples=["a funny one from the eighties"])] | None = (
        Field(default=None, description="What the person asks for in words, if the policy was trained on requests.")
    )
    k: Annotated[int, Whole] = Field(default=10, ge=1, le=MAX_LENGTH, description="Number of items.")
    categories: list[Annotated[str, Field(min_length=1, max_length=200)]] | None = Field(
        default=None, min_length=1, max_length=50, description="Only items with at least one of these categories."
    )
    exclude: list[ItemId] = Field(default=[], max_length=MAX_IDS, description="Ids of items that are left out.")
    diversity: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Nats by which the log-probability of an item falls if its categories equal those of an item above "
        "it, in proportion if they overlap. 0: order by probability alone.",
    )


class RecommendRequest(Question):
    """A request for recommendations, to a person whom the server knows or to somebody with the given history."""

    reasons: Literal["none", "complete", "stream"] = Field(
        default="none",
        description="`none`: items only. `complete`: the answer comes with a reason for each item. `stream`: "
        "server-sent events, first the items, then each reason when it is written.",
    )

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"user": "42", "k": 5, "reasons": "stream"},
                {"history": ["50", "181"], "categories": ["Comedy"], "exclude": ["172"], "diversity": 1.0},
            ]
        }
    )


class Statement(Message):
    """A stretch of a reason. The stretches of a reason make up its text."""

    text: str
    true: bool | None = Field(
        default=None, description="Whether the statement is true; absent or null for words that state nothing."
    )
    about: list[str] = Field(
        description="Ids of the items of which it must be true: the recommended item and those that the sentence cites."
    )


class RecommendedItem(Message):
    """An item of a list."""

    item: str = Field(description="Id of the item.")
    title: str = Field(description="Title of the item.")
    position: int = Field(description="Rank in the list, 1 for the first.")
    score: float = Field(description="Probability of the item under the policy, among all items that are possible.")
    propensity: float = Field(
        description="Probability with which the server shows the item at this position, given the items above it."
    )
    satisfies: bool | None = Field(
        default=None, description="Whether the item satisfies what was recognized in the request in words."
    )
    reason: str | None = Field(default=None, description="The reason, with `reasons: complete`.")
    grounded: bool | None = Field(default=None, description="Whether every statement of the reason is true.")
    statements: list[Statement] | None = Field(default=None, description="The statements of the reason.")


class RecommendResponse(Message):
    """A list of recommendations, best first."""

    request_id: str = Field(description="Id of the list; feedback about its items should name it.")
    policy: str = Field(description="Version of the policy.")
    sampled: bool = Field(description="Whether the list was drawn at random.")
    recorded: bool = Field(description="Whether the list is in the store. False if the store fails at present.")
    items: list[RecommendedItem]


class Reason(Message):
    """The reason for an item, a server-sent event `reason`."""

    position: int
    item: str
    reason: str
    grounded: bool
    statements: list[Statement]


# --- comparisons ----------------------------------------------------------------------------------


class ServedVersion(Message):
    """A version of the policy that can be compared."""

    version: int = Field(description="Its number.")
    policy: str = Field(description="Its name, as impressions record it.")
    state: str = Field(description="`current`, `canary`, `candidate`, `retired` or `rolled back`.")


class VersionsResponse(Message):
    """The versions that can be compared, by number."""

    versions: list[ServedVersion]
    default: list[int] = Field(
        description="The two that are compared if a request names none: the current one, and the canary or else the "
        "newest. Empty if there is one version only."
    )


class ComparisonRequest(Question):
    """A request for the lists of two versions, for the same person."""

    versions: Annotated[list[Annotated[int, Whole, Field(ge=0, lt=2**31)]], AfterValidator(_distinct)] | None = Field(
        default=None,
        min_length=2,
        max_length=2,
        description="Numbers of two versions, in any order. null: the current one, and the canary or else the newest.",
        json_schema_extra={"uniqueItems": True},
    )

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user": "42", "k": 5}, {"history": ["50", "181"], "versions": [0, 3]}]}
    )


class ComparedItem(Message):
    """An item of a list that is compared."""

    item: str = Field(description="Id of the item.")
    title: str = Field(description="Title of the item.")


class ComparisonResponse(Message):
    """Two lists, best first. Which version made which is drawn at random, and said after the vote."""

    comparison_id: str = Field(description="Id of the comparison, for the vote.")
    left: list[ComparedItem]
    right: list[ComparedItem]


Verdict = Literal["left", "right", "tie"]


class VoteRequest(Message):
    """Which list is better."""

    verdict: Verdict = Field(description="The better list; `tie`: there is no difference.")

    model_config = ConfigDict(json_schema_extra={"examples": [{"verdict": "left"}]})


class VoteResponse(Message):
    """What the lists were. The vote is on the disk when the answer arrives."""

    verdict: Verdict
    left: str = Field(description="Version of the policy that made the left list.")
    right: str = Field(description="Version of the policy that made the right list.")


class Tally(Message):
    """The votes on two versions."""

    first: str = Field(description="A version of the policy.")
    second: str = Field(description="The other version.")
    first_better: int = Field(description="Votes for the first version.")
    second_better: int = Field(description="Votes for the second version.")
    ties: int = Field(description="Votes that see no difference.")
    share: float | None = Field(description="Share of the votes for the first one among those for either.")
    low: float | None = Field(description="Lower end of the 95 % interval of the share (Wilson).")
    high: float | None = Field(description="Upper end of that interval. It takes votes for independent.")


class TallyResponse(Message):
    """The votes on all pairs of versions."""

    pairs: list[Tally]


# --- feedback -------------------------------------------------------------------------------------


class _Event(Message):
    event_id: Token = Field(
        description="Id that the client chooses. An event whose id the store has already is ignored, so a request may "
        "be sent again.",
        examples=["0b9f7e0c-1"],
    )
    user: UserId
    item: ItemId
    request_id: Token | None = Field(default=None, description="The list in which the person saw the item.")
    timestamp: float | None = Field(
        default=None, ge=0, lt=HORIZON, description="When it happened, in seconds since 1970. null: now."
    )


class Action(_Event):
    """Something that a person did with an item."""

    type: Literal["impression", "click", "purchase", "skip"] = Field(
        description="`impression`: the person saw the item. `skip`: the person does not want it, and the server stops "
        "recommending it to them."
    )


class Rating(_Event):
    """A rating of an item."""

    type: Literal["rating"]
    value: float = Field(description="The rating.")


FeedbackEvent = Annotated[Action | Rating, Field(discriminator="type")]


class FeedbackRequest(Message):
    """Events. Either all of them are stored or none."""

    events: list[FeedbackEvent] = Field(min_length=1, max_length=MAX_EVENTS)

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "events": [
                        {"event_id": "a-1", "user": "42", "item": "50", "type": "click"},
                        {"event_id": "a-2", "user": "42", "item": "50", "type": "rating", "value": 5},
                    ]
                }
            ]
        }
    )


class FeedbackResponse(Message):
    """What became of the events. They are on the disk when the answer arrives."""

    accepted: int = Field(description="Events that are new.")
    duplicates: int = Field(description="Events whose id was in the store already.")


# --- items and people -----------------------------------------------------------------------------


class Item(Message):
    """An item of the catalogue."""

    item: str
    title: str
    categories: list[str]


class ItemsResponse(Message):
    """A page of the catalogue."""

    total: int = Field(description="Number of items that match.")
    items: list[Item]


class UsersResponse(Message):
    """People of the event log."""

    total: int = Field(description="Number of people that match.")
    users: list[str] = Field(description="The first ids, in the order of the log.")


class UserResponse(Message):
    """What the server knows of a person."""

    user: str
    profile: str = Field(description="What the prompt says of the person.")
    history: list[Item] = Field(description="Seen items, oldest first.")
    skipped: list[Item] = Field(description="Items that are no longer recommended to the person.")
    events: int = Field(description="Events of the person in the store.")
    erased: bool = Field(description="Whether data of this person was deleted before.")


class DeletedResponse(Message):
    """What was deleted. The person is listed for the next training, which must leave them out."""

    feedback: int
    impressions: int
    comparisons: int


class Health(Message):
    """The server answers."""

    status: Literal["ok"] = "ok"


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str = Field(description="Kind of the error, for programs.")
    message: str = Field(description="What was found and what to do.")
    fields: list[dict[str, str]] | None = Field(default=None, description="Wrong fields of the request.")


class ErrorResponse(BaseModel):
    """An error."""

    error: ErrorDetail

"""Tables of the feedback store. `migrations/` creates and changes them in a database."""

from sqlalchemy import Boolean, Column, Double, Index, Integer, MetaData, String, Table, Text

metadata = MetaData()

impressions = Table(
    "impressions",
    metadata,
    Column("request_id", String(64), primary_key=True, comment="The list in which the item was shown."),
    Column("position", Integer, primary_key=True, comment="Rank in the list, 1 for the first."),
    Column("user_id", Text, comment="Null if the request named nobody."),
    Column("item_id", Text, nullable=False),
    Column("propensity", Double, nullable=False, comment="Probability of the item given the items above it."),
    Column("score", Double, nullable=False, comment="Probability of the item under the policy."),
    Column("policy", String(200), nullable=False, comment="Version of the policy."),
    Column("sampled", Boolean, nullable=False, comment="Whether the list was drawn at random."),
    Column("at", Double, nullable=False, comment="Seconds since 1970."),
    Index("impressions_user", "user_id", "at"),
)

feedback = Table(
    "feedback",
    metadata,
    Column("event_id", String(64), primary_key=True, comment="Chosen by the client; a repeated id is ignored."),
    Column("user_id", Text, nullable=False),
    Column("item_id", Text, nullable=False),
    Column("type", String(16), nullable=False, comment="impression, click, purchase, skip or rating."),
    Column("value", Double, comment="The rating."),
    Column("request_id", String(64), comment="The list that the person saw, as the client says."),
    Column("at", Double, nullable=False, comment="When it happened, seconds since 1970."),
    Column("received", Double, nullable=False, comment="When the server received it, seconds since 1970."),
    Index("feedback_user", "user_id", "at"),
)

comparisons = Table(
    "comparisons",
    metadata,
    Column("comparison_id", String(64), primary_key=True, comment="Chosen by the server."),
    Column("user_id", Text, comment="Null if the request named nobody."),
    Column("left_policy", String(200), nullable=False, comment="Version of the policy of the left list."),
    Column("right_policy", String(200), nullable=False, comment="Version of the policy of the right list."),
    Column("at", Double, nullable=False, comment="When the lists were shown, seconds since 1970."),
    Column("verdict", String(8), comment="left, right or tie; null without a vote."),
    Column("voted", Double, comment="When the vote came, seconds since 1970."),
    Index("comparisons_user", "user_id"),
)

items = Table(
    "items",
    metadata,
    Column("item_id", Text, primary_key=True),
    Column("row", Integer, nullable=False, comment="Index in the catalogue of the policy."),
    Column("title", Text, nullable=False),
    Column("categories", Text, nullable=False, comment="Category names with `|` between them."),
)

erasures = Table(
    "erasures",
    metadata,
    Column("user_id", Text, primary_key=True, comment="A person whose data the next training leaves out."),
    Column("at", Double, nullable=False, comment="Seconds since 1970."),
)

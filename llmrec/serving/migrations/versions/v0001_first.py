"""The first tables: impressions, feedback, items and erasures."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "impressions",
        sa.Column("request_id", sa.String(64), primary_key=True, comment="The list in which the item was shown."),
        sa.Column("position", sa.Integer, primary_key=True, comment="Rank in the list, 1 for the first."),
        sa.Column("user_id", sa.Text, comment="Null if the request named nobody."),
        sa.Column("item_id", sa.Text, nullable=False),
        sa.Column("propensity", sa.Double, nullable=False, comment="Probability of the item given the items above it."),
        sa.Column("score", sa.Double, nullable=False, comment="Probability of the item under the policy."),
        sa.Column("policy", sa.String(200), nullable=False, comment="Version of the policy."),
        sa.Column("sampled", sa.Boolean, nullable=False, comment="Whether the list was drawn at random."),
        sa.Column("at", sa.Double, nullable=False, comment="Seconds since 1970."),
    )
    op.create_index("impressions_user", "impressions", ["user_id", "at"])
    op.create_table(
        "feedback",
        sa.Column(
            "event_id", sa.String(64), primary_key=True, comment="Chosen by the client; a repeated id is ignored."
        ),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("item_id", sa.Text, nullable=False),
        sa.Column("type", sa.String(16), nullable=False, comment="impression, click, purchase, skip or rating."),
        sa.Column("value", sa.Double, comment="The rating."),
        sa.Column("request_id", sa.String(64), comment="The list that the person saw, as the client says."),
        sa.Column("at", sa.Double, nullable=False, comment="When it happened, seconds since 1970."),
        sa.Column("received", sa.Double, nullable=False, comment="When the server received it, seconds since 1970."),
    )
    op.create_index("feedback_user", "feedback", ["user_id", "at"])
    op.create_table(
        "items",
        sa.Column("item_id", sa.Text, primary_key=True),
        sa.Column("row", sa.Integer, nullable=False, comment="Index in the catalogue of the policy."),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("categories", sa.Text, nullable=False, comment="Category names with `|` between them."),
    )
    op.create_table(
        "erasures",
        sa.Column("user_id", sa.Text, primary_key=True, comment="A person whose data the next training leaves out."),
        sa.Column("at", sa.Double, nullable=False, comment="Seconds since 1970."),
    )

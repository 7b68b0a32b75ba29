"""Comparisons of two versions side by side, with their votes."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Creates the table."""
    op.create_table(
        "comparisons",
        sa.Column("comparison_id", sa.String(64), primary_key=True, comment="Chosen by the server."),
        sa.Column("user_id", sa.Text, comment="Null if the request named nobody."),
        sa.Column("left_policy", sa.String(200), nullable=False, comment="Version of the policy of the left list."),
        sa.Column("right_policy", sa.String(200), nullable=False, comment="Version of the policy of the right list."),
        sa.Column("at", sa.Double, nullable=False, comment="When the lists were shown, seconds since 1970."),
        sa.Column("verdict", sa.String(8), comment="left, right or tie; null without a vote."),
        sa.Column("voted", sa.Double, comment="When the vote came, seconds since 1970."),
    )
    op.create_index("comparisons_user", "comparisons", ["user_id"])

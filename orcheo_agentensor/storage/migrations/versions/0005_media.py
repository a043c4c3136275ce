"""Keep images, sounds and files once, apart from the cases and outputs that refer to them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_INSTANT = sa.Text().with_variant(sa.DateTime(timezone=True), "postgresql")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "agentensor_media",
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_agentensor_media"),
    )


def downgrade() -> None:
    """Drop the table with what it holds: cases that refer to it cannot be run any more."""
    op.drop_table("agentensor_media")

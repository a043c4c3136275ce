"""Count calls that reported no tokens, and answers of a cache."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TABLES = ("agentensor_rollouts", "agentensor_scores", "agentensor_calls")
_COLUMNS = ("unreported_calls", "cached_calls")


def upgrade() -> None:
    """Add the two counts; what is stored so far has none."""
    for table in _TABLES:
        for column in _COLUMNS:
            op.add_column(
                table,
                sa.Column(column, sa.Integer, nullable=False, server_default=sa.text("0")),
            )


def downgrade() -> None:
    """Drop the two counts."""
    for table in _TABLES:
        for column in reversed(_COLUMNS):
            op.drop_column(table, column)

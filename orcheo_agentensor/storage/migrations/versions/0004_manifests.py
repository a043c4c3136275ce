"""Give runs a manifest, and the metadata of a dataset a version of its own."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from orcheo_agentensor.json_values import content_hash

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_JSON = sa.Text().with_variant(JSONB(none_as_null=True), "postgresql")
_INSTANT = sa.Text().with_variant(sa.DateTime(timezone=True), "postgresql")

_DATASETS = sa.table(
    "agentensor_datasets",
    *map(sa.column, ("dataset_id", "version", "created_at")),
    sa.column("metadata", _JSON),
)
_METADATA = sa.table(
    "agentensor_dataset_metadata",
    *map(sa.column, ("dataset_id", "version", "metadata_version", "created_at")),
    sa.column("metadata", _JSON),
)
_RUNS = sa.table(
    "agentensor_runs",
    *map(sa.column, ("dataset_id", "dataset_version", "dataset_metadata_version")),
)


def upgrade() -> None:
    """Move the metadata to a table of its own; runs so far had the one that was stored."""
    op.add_column("agentensor_runs", sa.Column("dataset_metadata_version", sa.Text))
    op.add_column("agentensor_runs", sa.Column("manifest", _JSON))
    op.create_table(
        "agentensor_dataset_metadata",
        sa.Column("dataset_id", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("metadata_version", sa.Text, nullable=False),
        sa.Column("metadata", _JSON, nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint(
            "dataset_id", "version", "metadata_version", name="pk_agentensor_dataset_metadata"
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id", "version"],
            ["agentensor_datasets.dataset_id", "agentensor_datasets.version"],
            name="fk_agentensor_dataset_metadata_dataset",
            ondelete="CASCADE",
        ),
    )
    connection = op.get_bind()
    for row in connection.execute(sa.select(_DATASETS)).mappings().all():
        stored = row["metadata"]
        metadata = json.loads(stored) if isinstance(stored, str) else stored
        known = content_hash(metadata)
        connection.execute(sa.insert(_METADATA).values({**row, "metadata_version": known}))
        connection.execute(
            sa.update(_RUNS)
            .where(
                _RUNS.c.dataset_id == row["dataset_id"],
                _RUNS.c.dataset_version == row["version"],
            )
            .values(dataset_metadata_version=known)
        )
    op.drop_column("agentensor_datasets", "metadata")


def downgrade() -> None:
    """Leave each dataset version the newest of its metadata."""
    op.add_column(
        "agentensor_datasets",
        sa.Column("metadata", _JSON, nullable=False, server_default=sa.text("'{}'")),
    )
    connection = op.get_bind()
    for row in connection.execute(sa.select(_METADATA).order_by("created_at")).mappings().all():
        connection.execute(
            sa.update(_DATASETS)
            .where(
                _DATASETS.c.dataset_id == row["dataset_id"],
                _DATASETS.c.version == row["version"],
            )
            .values(metadata=row["metadata"])
        )
    op.drop_table("agentensor_dataset_metadata")
    op.drop_column("agentensor_runs", "manifest")
    op.drop_column("agentensor_runs", "dataset_metadata_version")

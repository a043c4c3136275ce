"""Create the tables of the side store."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_JSON = sa.Text().with_variant(JSONB(), "postgresql")
_INSTANT = sa.Text().with_variant(sa.DateTime(timezone=True), "postgresql")
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _required(kind: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=False) for name in names]


def _optional(kind: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind) for name in names]


def _usage() -> list[sa.Column[Any]]:
    return [
        *_required(sa.Integer, "rollouts", "calls"),
        *_required(sa.BigInteger, "input_tokens", "output_tokens"),
        sa.Column("cost", sa.Double),
    ]


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "agentensor_alias_log",
        sa.Column("id", _ID, autoincrement=True),
        *_required(sa.Text, "workflow_id", "alias"),
        sa.Column("from_version", sa.Integer),
        sa.Column("to_version", sa.Integer, nullable=False),
        *_required(sa.Text, "actor", "reason", "kind"),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_agentensor_alias_log"),
    )
    op.create_index(
        "ix_agentensor_alias_log_alias", "agentensor_alias_log", ["workflow_id", "alias", "id"]
    )
    op.create_table(
        "agentensor_calls",
        *_required(sa.Text, "run_id", "key", "kind"),
        sa.Column("response", _JSON, nullable=False),
        *_usage(),
        sa.PrimaryKeyConstraint("run_id", "key", name="pk_agentensor_calls"),
    )
    op.create_table(
        "agentensor_candidates",
        *_required(sa.Text, "run_id", "candidate_hash"),
        sa.Column("position", sa.Integer, nullable=False),
        *_required(_JSON, "prompts", "parents"),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("info", _JSON, nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "candidate_hash", name="pk_agentensor_candidates"),
        sa.UniqueConstraint("run_id", "position", name="uq_agentensor_candidates_position"),
    )
    op.create_table(
        "agentensor_checkpoints",
        *_required(sa.Text, "id", "workflow_id"),
        sa.Column("config_version", sa.Integer, nullable=False),
        *_required(_JSON, "runnable_config", "metrics", "metadata"),
        sa.Column("content_hash", sa.Text, nullable=False),
        sa.Column("parent_version", sa.Integer),
        *_optional(sa.Text, "run_id", "dataset_version", "evaluator_set", "artifact_url"),
        sa.Column("objective", sa.Double),
        sa.Column("complete", sa.Boolean, nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_agentensor_checkpoints"),
        sa.UniqueConstraint(
            "workflow_id", "config_version", name="uq_agentensor_checkpoints_version"
        ),
    )
    op.create_index(
        "ix_agentensor_checkpoints_basis",
        "agentensor_checkpoints",
        ["workflow_id", "dataset_version", "evaluator_set", "objective"],
    )
    op.create_index(
        "ix_agentensor_checkpoints_run", "agentensor_checkpoints", ["run_id", "content_hash"]
    )
    op.create_table(
        "agentensor_datasets",
        *_required(sa.Text, "dataset_id", "version"),
        *_required(_JSON, "metadata", "counts"),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("dataset_id", "version", name="pk_agentensor_datasets"),
    )
    op.create_table(
        "agentensor_optimizer_state",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("state", _JSON, nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "step", name="pk_agentensor_optimizer_state"),
    )
    op.create_table(
        "agentensor_rollouts",
        *_required(sa.Text, "run_id", "key", "case_id", "candidate_hash"),
        sa.Column("replicate", sa.Integer, nullable=False),
        sa.Column("phase", sa.Text, nullable=False),
        *_optional(_JSON, "output", "tape"),
        sa.Column("latency_ms", sa.Double, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("failure", _JSON),
        *_usage(),
        sa.PrimaryKeyConstraint("run_id", "key", name="pk_agentensor_rollouts"),
    )
    op.create_index(
        "ix_agentensor_rollouts_candidate", "agentensor_rollouts", ["run_id", "candidate_hash"]
    )
    op.create_table(
        "agentensor_runs",
        *_required(sa.Text, "run_id", "workflow_id", "mode", "status"),
        sa.Column("job", _JSON, nullable=False),
        sa.Column("job_hash", sa.Text, nullable=False),
        sa.Column("config", _JSON, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        *_optional(sa.Text, "dataset_id", "dataset_version", "evaluator_set"),
        sa.Column("usage", _JSON, nullable=False),
        sa.Column("result", _JSON),
        sa.Column("error", sa.Text),
        sa.Column("event_seq", sa.BigInteger, nullable=False),
        sa.Column("thread_id", sa.Text),
        sa.Column("refs", _JSON, nullable=False),
        sa.Column("lease_owner", sa.Text),
        sa.Column("lease_token", sa.BigInteger, nullable=False),
        sa.Column("lease_expires", sa.Double),
        sa.Column("started_at", _INSTANT, nullable=False),
        sa.Column("ended_at", _INSTANT),
        sa.PrimaryKeyConstraint("run_id", name="pk_agentensor_runs"),
    )
    op.create_index("ix_agentensor_runs_started", "agentensor_runs", ["started_at"])
    op.create_index("ix_agentensor_runs_workflow", "agentensor_runs", ["workflow_id", "started_at"])
    op.create_table(
        "agentensor_scores",
        *_required(sa.Text, "run_id", "rollout_key", "evaluator_fingerprint", "name"),
        sa.Column("score", sa.Double),
        sa.Column("passed", sa.Boolean),
        *_optional(sa.Text, "reason", "label"),
        sa.Column("failure", _JSON),
        *_usage(),
        sa.PrimaryKeyConstraint(
            "run_id", "rollout_key", "evaluator_fingerprint", "name", name="pk_agentensor_scores"
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "agentensor_workflows",
        sa.Column("workflow_id", sa.Text, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("default_version", sa.Integer, nullable=False),
        sa.Column("feature_flags", _JSON, nullable=False),
        *_required(_INSTANT, "created_at", "updated_at"),
        sa.PrimaryKeyConstraint("workflow_id", name="pk_agentensor_workflows"),
    )
    op.create_table(
        "agentensor_aliases",
        *_required(sa.Text, "workflow_id", "alias"),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("updated_at", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("workflow_id", "alias", name="pk_agentensor_aliases"),
        sa.ForeignKeyConstraint(
            ["workflow_id", "version"],
            ["agentensor_checkpoints.workflow_id", "agentensor_checkpoints.config_version"],
            name="fk_agentensor_aliases_version",
        ),
    )
    op.create_table(
        "agentensor_cases",
        *_required(sa.Text, "dataset_id", "version"),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("case_id", sa.Text, nullable=False),
        sa.Column("split", sa.Text),
        sa.Column("content", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("dataset_id", "version", "position", name="pk_agentensor_cases"),
        sa.ForeignKeyConstraint(
            ["dataset_id", "version"],
            ["agentensor_datasets.dataset_id", "agentensor_datasets.version"],
            name="fk_agentensor_cases_dataset",
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "agentensor_workflow_defaults",
        sa.Column("workflow_id", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("config", _JSON, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("workflow_id", "version", name="pk_agentensor_workflow_defaults"),
        sa.ForeignKeyConstraint(
            ["workflow_id"],
            ["agentensor_workflows.workflow_id"],
            name="fk_agentensor_workflow_defaults_workflow",
        ),
    )


def downgrade() -> None:
    """Drop every table with what is in it."""
    for table in (
        "agentensor_workflow_defaults",
        "agentensor_cases",
        "agentensor_aliases",
        "agentensor_workflows",
        "agentensor_scores",
        "agentensor_runs",
        "agentensor_rollouts",
        "agentensor_optimizer_state",
        "agentensor_datasets",
        "agentensor_checkpoints",
        "agentensor_candidates",
        "agentensor_calls",
        "agentensor_alias_log",
    ):
        op.drop_table(table)

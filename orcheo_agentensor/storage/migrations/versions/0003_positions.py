"""Keep rollouts and scores in the order in which they were written.

Their keys are hashes: an index by them was written anew all over with each group of rows, and what
a case cost rose with the number of cases.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_JSON = sa.Text().with_variant(JSONB(none_as_null=True), "postgresql")


def _columns(kind: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, nullable=False) for name in names]


def _usage() -> list[sa.Column[Any]]:
    return [
        *_columns(sa.Integer, "rollouts", "calls"),
        *_columns(sa.BigInteger, "input_tokens", "output_tokens"),
        sa.Column("cost", sa.Double),
        sa.Column("unreported_calls", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("cached_calls", sa.Integer, nullable=False, server_default=sa.text("0")),
    ]


def _rollouts(place: list[sa.Column[Any]], *key: str) -> None:
    op.create_table(
        "agentensor_rollouts",
        *_columns(sa.Text, "run_id"),
        *place,
        *_columns(sa.Text, "key", "case_id", "candidate_hash"),
        sa.Column("replicate", sa.Integer, nullable=False),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("output", _JSON),
        sa.Column("tape", _JSON),
        sa.Column("latency_ms", sa.Double, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("failure", _JSON),
        *_usage(),
        sa.PrimaryKeyConstraint("run_id", *key, name="pk_agentensor_rollouts"),
    )


def _scores(place: sa.Column[Any]) -> None:
    op.create_table(
        "agentensor_scores",
        *_columns(sa.Text, "run_id"),
        place,
        *_columns(sa.Text, "evaluator_fingerprint", "name"),
        sa.Column("score", sa.Double),
        sa.Column("passed", sa.Boolean),
        *(sa.Column(name, sa.Text) for name in ("reason", "label")),
        sa.Column("failure", _JSON),
        *_usage(),
        sa.PrimaryKeyConstraint(
            "run_id", place.name, "evaluator_fingerprint", "name", name="pk_agentensor_scores"
        ),
        sqlite_with_rowid=False,
    )


_USAGE = ", ".join(column.name for column in _usage())
_ROLLOUT = (
    "key, case_id, candidate_hash, replicate, phase, output, tape, latency_ms, attempts, failure, "
    f"{_USAGE}"
)
_SCORE = f"evaluator_fingerprint, name, score, passed, reason, label, failure, {_USAGE}"


def _set_aside() -> None:
    """Make room for the new tables. (A renamed table keeps the names of its keys.)"""
    for table in ("rollouts", "scores"):
        op.execute(f"CREATE TABLE old_{table} AS SELECT * FROM agentensor_{table}")
        op.drop_table(f"agentensor_{table}")


def upgrade() -> None:
    """Number the rollouts of each run; a score has the number of its rollout for a key."""
    _set_aside()
    _rollouts(_columns(sa.BigInteger, "position"), "candidate_hash", "position")
    op.execute(
        f"INSERT INTO agentensor_rollouts (run_id, position, {_ROLLOUT}) SELECT run_id, "
        f"row_number() OVER (PARTITION BY run_id ORDER BY case_id, replicate, key), {_ROLLOUT} "
        "FROM old_rollouts ORDER BY run_id, case_id, replicate, key"
    )
    op.execute("CREATE INDEX ix_numbered ON agentensor_rollouts (run_id, key)")
    _scores(sa.Column("position", sa.BigInteger, nullable=False))
    op.execute(
        f"INSERT INTO agentensor_scores (run_id, position, {_SCORE}) "
        f"SELECT old.run_id, position, {_of('old', _SCORE)} FROM old_scores AS old "
        "JOIN agentensor_rollouts AS new ON new.run_id = old.run_id AND new.key = old.rollout_key"
    )
    op.execute("DROP INDEX ix_numbered")
    _drop_old()


def downgrade() -> None:
    """Find rollouts by their keys again, and scores by those of their rollouts."""
    _set_aside()
    _rollouts([], "key")
    op.create_index(
        "ix_agentensor_rollouts_candidate", "agentensor_rollouts", ["run_id", "candidate_hash"]
    )
    op.execute(
        f"INSERT INTO agentensor_rollouts (run_id, {_ROLLOUT}) "
        f"SELECT run_id, {_ROLLOUT} FROM old_rollouts"
    )
    op.execute("CREATE INDEX ix_numbered ON old_rollouts (run_id, position)")
    _scores(sa.Column("rollout_key", sa.Text, nullable=False))
    op.execute(
        f"INSERT INTO agentensor_scores (run_id, rollout_key, {_SCORE}) "
        f"SELECT old.run_id, key, {_of('old', _SCORE)} FROM old_scores AS old JOIN old_rollouts "
        "AS numbered ON numbered.run_id = old.run_id AND numbered.position = old.position"
    )
    _drop_old()


def _of(table: str, columns: str) -> str:
    return ", ".join(f"{table}.{column}" for column in columns.split(", "))


def _drop_old() -> None:
    op.drop_table("old_scores")
    op.drop_table("old_rollouts")

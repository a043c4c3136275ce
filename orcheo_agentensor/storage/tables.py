"""The tables of the side store, and the JSON and texts that fit into every database.

`migrations/` builds the same schema step by step; a test compares the two.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar, cast

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from orcheo_agentensor.errors import BadInput, shorten
from orcheo_agentensor.json_values import fast_json

_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_encode = _encoder.encode
_REFUSED = re.compile("[\x00\ud800-\udfff]")

_EXPONENT = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9.]+e\+[0-9]+')

decode = json.loads


def encode(value: Any, *, checked: bool = False) -> str:
    """`value` as JSON text. NUL and lone surrogates, which PostgreSQL refuses, become U+FFFD.

    It may be `checked` to be JSON. Raises `BadInput` for what is not: NaN, infinities, objects.
    """
    fast = fast_json(value, checked=checked)
    if fast is not None and "\\u0000" not in fast:
        return fast
    try:
        text = _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"cannot be stored as JSON: {shorten(value)} ({error})") from None
    if "\\u0000" in text or not (text.isascii() or _sound(text)):
        text = _encode(_cleaned(value))
    # JSONB keeps 1e+22 as an integer of 23 digits, but 10000000000000000000000.0 as it is.
    return _EXPONENT.sub(_in_full, text) if "e+" in text else text


TextT = TypeVar("TextT", bound=str | None)


def clean_text(text: TextT) -> TextT:
    """`text` without NUL and lone surrogates."""
    if text is None or ("\x00" not in text and (text.isascii() or _sound(text))):
        return text
    return cast("TextT", _REFUSED.sub("\ufffd", text))


def _in_full(token: re.Match[str]) -> str:
    found = token[0]
    return found if found.startswith('"') else f"{Decimal(found):f}.0"


def _sound(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(str(key)): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item) for item in value]
    return value


VERSION_TABLE = "agentensor_schema"


class Json(TypeDecorator[Any]):
    """JSON: TEXT on SQLite, JSONB on PostgreSQL; None is NULL."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The type of the column. The module that has JSONB takes long to load."""
        if dialect.name != "postgresql":
            return dialect.type_descriptor(Text())
        from sqlalchemy.dialects.postgresql import JSONB

        return dialect.type_descriptor(JSONB(none_as_null=True))

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Encode on SQLite; PostgreSQL's JSONB encodes by the engine's serializer."""
        if value is None or dialect.name == "postgresql":
            return value
        return encode(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """Decode on SQLite; the PostgreSQL driver has decoded already."""
        return decode(value) if isinstance(value, str) and dialect.name == "sqlite" else value


class text_in(ColumnElement[str]):
    """The text under a key of a `Json` column; NULL where there is none."""

    inherit_cache = False
    type = Text()

    def __init__(self, column: ColumnElement[Any], key: str) -> None:
        self.column, self.key = column, key


@compiles(text_in)
def _text_in(element: text_in, compiler: Any, **kwargs: Any) -> str:
    column = compiler.process(element.column, **kwargs)
    if compiler.dialect.name == "postgresql":
        return f"({column} ->> '{element.key}')"
    return f"json_extract({column}, '$.{element.key}')"


class Instant(TypeDecorator[datetime]):
    """A moment in UTC: ISO text that sorts on SQLite, TIMESTAMPTZ on PostgreSQL."""

    impl = Text().with_variant(DateTime(timezone=True), "postgresql")
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """A fixed-width text on SQLite."""
        if value is None or dialect.name == "postgresql":
            return value
        return value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Always an aware datetime in UTC."""
        if isinstance(value, str):
            return datetime.fromisoformat(value)
        return value.astimezone(UTC) if isinstance(value, datetime) else None


def _required(kind: Any, *names: str) -> list[Column[Any]]:
    return [Column(name, kind, nullable=False) for name in names]


def _optional(kind: Any, *names: str) -> list[Column[Any]]:
    return [Column(name, kind) for name in names]


JSON, INSTANT = Json(), Instant()
"""One object of each type for all columns: SQLAlchemy looks up what a database makes of each."""


def _usage_columns() -> list[Column[Any]]:
    return [
        *_required(Integer, "rollouts", "calls"),
        *_required(BigInteger, "input_tokens", "output_tokens"),
        Column("cost", Double),
        Column("unreported_calls", Integer, nullable=False, server_default=text("0")),
        Column("cached_calls", Integer, nullable=False, server_default=text("0")),
    ]


metadata = MetaData()

checkpoints = Table(
    "agentensor_checkpoints",
    metadata,
    *_required(Text, "id", "workflow_id"),
    Column("config_version", Integer, nullable=False),
    *_required(Json, "runnable_config", "metrics", "metadata"),
    Column("content_hash", Text, nullable=False),
    Column("parent_version", Integer),
    *_optional(Text, "run_id", "dataset_version", "evaluator_set", "artifact_url"),
    Column("objective", Double),
    Column("complete", Boolean, nullable=False),
    Column("created_at", INSTANT, nullable=False),
    PrimaryKeyConstraint("id", name="pk_agentensor_checkpoints"),
    UniqueConstraint("workflow_id", "config_version", name="uq_agentensor_checkpoints_version"),
)
Index("ix_agentensor_checkpoints_run", checkpoints.c.run_id, checkpoints.c.content_hash)
Index(
    "ix_agentensor_checkpoints_basis",
    checkpoints.c.workflow_id,
    checkpoints.c.dataset_version,
    checkpoints.c.evaluator_set,
    checkpoints.c.objective,
)

aliases = Table(
    "agentensor_aliases",
    metadata,
    *_required(Text, "workflow_id", "alias"),
    Column("version", Integer, nullable=False),
    Column("updated_at", INSTANT, nullable=False),
    PrimaryKeyConstraint("workflow_id", "alias", name="pk_agentensor_aliases"),
    ForeignKeyConstraint(
        ["workflow_id", "version"],
        ["agentensor_checkpoints.workflow_id", "agentensor_checkpoints.config_version"],
        name="fk_agentensor_aliases_version",
    ),
)

alias_log = Table(
    "agentensor_alias_log",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), autoincrement=True),
    *_required(Text, "workflow_id", "alias"),
    Column("from_version", Integer),
    Column("to_version", Integer, nullable=False),
    *_required(Text, "actor", "reason", "kind"),
    Column("created_at", INSTANT, nullable=False),
    PrimaryKeyConstraint("id", name="pk_agentensor_alias_log"),
)
Index("ix_agentensor_alias_log_alias", alias_log.c.workflow_id, alias_log.c.alias, alias_log.c.id)

workflows = Table(
    "agentensor_workflows",
    metadata,
    Column("workflow_id", Text, nullable=False),
    Column("owner", Text),
    Column("default_version", Integer, nullable=False),
    Column("feature_flags", JSON, nullable=False),
    *_required(Instant, "created_at", "updated_at"),
    PrimaryKeyConstraint("workflow_id", name="pk_agentensor_workflows"),
)

workflow_defaults = Table(
    "agentensor_workflow_defaults",
    metadata,
    Column("workflow_id", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("config", JSON, nullable=False),
    Column("actor", Text, nullable=False),
    Column("created_at", INSTANT, nullable=False),
    PrimaryKeyConstraint("workflow_id", "version", name="pk_agentensor_workflow_defaults"),
    ForeignKeyConstraint(
        ["workflow_id"],
        ["agentensor_workflows.workflow_id"],
        name="fk_agentensor_workflow_defaults_workflow",
    ),
)

runs = Table(
    "agentensor_runs",
    metadata,
    *_required(Text, "run_id", "workflow_id", "mode", "status"),
    Column("job", JSON, nullable=False),
    Column("job_hash", Text, nullable=False),
    Column("config", JSON, nullable=False),
    Column("seed", BigInteger, nullable=False),
    *_optional(Text, "dataset_id", "dataset_version", "evaluator_set"),
    Column("usage", JSON, nullable=False),
    Column("result", JSON),
    Column("error", Text),
    Column("event_seq", BigInteger, nullable=False),
    Column("thread_id", Text),
    Column("refs", JSON, nullable=False),
    Column("lease_owner", Text),
    Column("lease_token", BigInteger, nullable=False),
    Column("lease_expires", Double),
    Column("started_at", INSTANT, nullable=False),
    Column("ended_at", INSTANT),
    Column("dataset_metadata_version", Text),
    Column("manifest", JSON),
    PrimaryKeyConstraint("run_id", name="pk_agentensor_runs"),
)
Index("ix_agentensor_runs_workflow", runs.c.workflow_id, runs.c.started_at)
Index("ix_agentensor_runs_started", runs.c.started_at)

candidates = Table(
    "agentensor_candidates",
    metadata,
    *_required(Text, "run_id", "candidate_hash"),
    Column("position", Integer, nullable=False),
    *_required(Json, "prompts", "parents"),
    Column("status", Text, nullable=False),
    Column("info", JSON, nullable=False),
    Column("created_at", INSTANT, nullable=False),
    PrimaryKeyConstraint("run_id", "candidate_hash", name="pk_agentensor_candidates"),
    UniqueConstraint("run_id", "position", name="uq_agentensor_candidates_position"),
)

optimizer_state = Table(
    "agentensor_optimizer_state",
    metadata,
    Column("run_id", Text, nullable=False),
    Column("step", Integer, nullable=False),
    Column("state", JSON, nullable=False),
    Column("created_at", INSTANT, nullable=False),
    PrimaryKeyConstraint("run_id", "step", name="pk_agentensor_optimizer_state"),
)

rollouts = Table(
    "agentensor_rollouts",
    metadata,
    Column("run_id", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    *_required(Text, "key", "case_id", "candidate_hash"),
    Column("replicate", Integer, nullable=False),
    Column("phase", Text, nullable=False),
    *_optional(Json, "output", "tape"),
    Column("latency_ms", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("failure", JSON),
    *_usage_columns(),
    # In the order in which they are written: an index by key, which is a hash, would be written
    # anew all over with each group of rows. That no key comes twice is for the ledger to see.
    PrimaryKeyConstraint("run_id", "candidate_hash", "position", name="pk_agentensor_rollouts"),
)

scores = Table(
    "agentensor_scores",
    metadata,
    Column("run_id", Text, nullable=False),
    Column("position", BigInteger, nullable=False),  # of the rollout
    *_required(Text, "evaluator_fingerprint", "name"),
    Column("score", Double),
    Column("passed", Boolean),
    *_optional(Text, "reason", "label"),
    Column("failure", JSON),
    *_usage_columns(),
    PrimaryKeyConstraint(
        "run_id", "position", "evaluator_fingerprint", "name", name="pk_agentensor_scores"
    ),
    sqlite_with_rowid=False,  # small rows, always found by their key
)

calls = Table(
    "agentensor_calls",
    metadata,
    *_required(Text, "run_id", "key", "kind"),
    Column("response", JSON, nullable=False),
    *_usage_columns(),
    PrimaryKeyConstraint("run_id", "key", name="pk_agentensor_calls"),
)

datasets = Table(
    "agentensor_datasets",
    metadata,
    *_required(Text, "dataset_id", "version"),
    Column("counts", JSON, nullable=False),
    Column("created_at", INSTANT, nullable=False),
    PrimaryKeyConstraint("dataset_id", "version", name="pk_agentensor_datasets"),
)

dataset_metadata = Table(
    "agentensor_dataset_metadata",
    metadata,
    *_required(Text, "dataset_id", "version", "metadata_version"),
    Column("metadata", JSON, nullable=False),
    Column("created_at", INSTANT, nullable=False),
    PrimaryKeyConstraint(
        "dataset_id", "version", "metadata_version", name="pk_agentensor_dataset_metadata"
    ),
    ForeignKeyConstraint(
        ["dataset_id", "version"],
        ["agentensor_datasets.dataset_id", "agentensor_datasets.version"],
        name="fk_agentensor_dataset_metadata_dataset",
        ondelete="CASCADE",
    ),
)

cases = Table(
    "agentensor_cases",
    metadata,
    *_required(Text, "dataset_id", "version"),
    Column("position", Integer, nullable=False),
    Column("case_id", Text, nullable=False),
    Column("split", Text),
    Column("content", JSON, nullable=False),
    PrimaryKeyConstraint("dataset_id", "version", "position", name="pk_agentensor_cases"),
    ForeignKeyConstraint(
        ["dataset_id", "version"],
        ["agentensor_datasets.dataset_id", "agentensor_datasets.version"],
        name="fk_agentensor_cases_dataset",
        ondelete="CASCADE",
    ),
)

media = Table(
    "agentensor_media",
    metadata,
    Column("sha256", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("created_at", INSTANT, nullable=False),
    PrimaryKeyConstraint("sha256", name="pk_agentensor_media"),
)

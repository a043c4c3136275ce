"""Records that the store takes and returns: plain values without a database behind them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, TypeAlias
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from orcheo_agentensor.errors import RunMismatch
from orcheo_agentensor.prompts import TextTensor, as_prompts, complete_config
from orcheo_agentensor.usage import NOTHING, Usage


class _Wildcard(Enum):
    ANY = "any"


ANY: Final = _Wildcard.ANY
"""As `expect=`: move an alias wherever it points now."""

Expected: TypeAlias = int | Literal[_Wildcard.ANY] | None
CANCELLED: Final = "cancelled"
"""The kind of call under which the ledger keeps the cost of cancelled work."""

RETRIED: Final = "retried"
"""The kind of call under which the ledger keeps the cost of failures that are tried again."""

PASSING: Final = "passing"
"""The key of a failure in the ledger that is not the case's doing, and may not come again: a run
that reuses it, or is asked to retry, tries again."""

RunMode: TypeAlias = Literal["run", "evaluate", "train"]
RunStatus: TypeAlias = Literal["running", "finished", "failed", "interrupted", "paused"]
AliasMoveKind: TypeAlias = Literal["move", "rollback", "auto"]


def utc_now() -> datetime:
    """The default clock of a store."""
    return datetime.now(UTC)


def text_for_number(label: str | None) -> str:
    """Why a text is a failure of an evaluator that gives numbers for other cases."""
    return f"gave the text {label!r} where it gives numbers for other cases"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class ConfigCheckpoint(_Record):
    """One immutable, versioned `RunnableConfig` with the metrics measured on it.

    Args:
        id: Unique in the store.
        workflow_id: The workflow.
        config_version: Counts up from 1 for each workflow.
        runnable_config: The prompts in `configurable.prompts`, and the settings that the job set.
        metrics: The evaluation summary on the validation cases.
        metadata: Why it was stored, at which step and epoch, by which optimizer, and at which
            thread and checkpoint of LangGraph (`langgraph`) where the training had a checkpointer.
        content_hash: SHA-256 of the config.
        parent_version: The version that its prompts were made from.
        run_id: The run that made it.
        dataset_version: What it was measured on.
        evaluator_set: What it was measured by.
        artifact_url: Free, for a link to something kept elsewhere.
        created_at: When, UTC.

    Example:
        >>> import asyncio
        >>> from orcheo_agentensor import RunConfig, Store
        >>> store = Store.from_url(None)
        >>> config = RunConfig.parse({"prompts": {"tone": "Kindly:"}}).to_json()
        >>> save = store.checkpoints.save
        >>> version = asyncio.run(save(workflow_id="support", runnable_config=config, metrics={}))
        >>> version.config_version, version.prompts["tone"].text
        (1, 'Kindly:')
    """

    id: str
    workflow_id: str
    config_version: int
    runnable_config: dict[str, Any]
    metrics: dict[str, Any]
    metadata: dict[str, Any]
    content_hash: str
    parent_version: int | None = None
    run_id: str | None = None
    dataset_version: str | None = None
    evaluator_set: str | None = None
    artifact_url: str | None = None
    created_at: datetime

    @property
    def prompts(self) -> dict[str, TextTensor]:
        """The prompts of the config, by name."""
        configurable = self.runnable_config.get("configurable") or {}
        return as_prompts(configurable.get("prompts") or self.runnable_config.get("prompts"))

    def to_runnable(self) -> dict[str, Any]:
        """The `RunnableConfig` of this version, complete: a graph that knows nothing of ours runs
        with it. `context` is in it where prompts bind there."""
        return complete_config(self.runnable_config, self.metadata.get("context_fields", ()))


class AliasMove(_Record):
    """One row of the append-only alias log: a move of an alias, with its actor, time and reason.

    A rollback of the first move leads to no version: `to_version` is None, and the alias is gone.
    """

    workflow_id: str
    alias: str
    from_version: int | None
    to_version: Annotated[int | None, BeforeValidator(lambda number: number or None)]
    actor: str
    reason: str
    kind: AliasMoveKind
    created_at: datetime


class RunRecord(_Record):
    """One run: its job, its status and its result."""

    run_id: str
    workflow_id: str
    mode: RunMode
    status: RunStatus = "running"
    job: dict[str, Any] = Field(default_factory=dict)
    job_hash: str
    config: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    dataset_id: str | None = None
    dataset_version: str | None = None
    dataset_metadata_version: str | None = None
    evaluator_set: str | None = None
    usage: dict[str, Any] = Field(default_factory=dict)
    result: dict[str, Any] | None = None
    error: str | None = None
    event_seq: int = 0
    thread_id: str | None = None
    refs: dict[str, Any] = Field(default_factory=dict)
    started_at: datetime = Field(default_factory=utc_now)
    ended_at: datetime | None = None

    def taken(self, differs: str | None = None) -> RunMismatch:
        """The error for another job under this run id; `differs` says what makes it another."""
        which = f", which differs in {differs}" if differs else ""
        return RunMismatch(
            f"run {self.run_id!r} was started on {self.started_at:%Y-%m-%d %H:%M} with another "
            f"job{which}: choose a new run id, or resume it with the job it was started with",
            field="run_id",
            value=self.run_id,
            rule="belongs to another job",
        )

    def in_manifest(self, kept: Mapping[str, Any]) -> dict[str, Any]:
        """The stored part of the run's manifest, with what this record holds."""
        return {
            **kept,
            "config": {
                **kept.get("config", {}),
                "resolved": self.config,
                "caller": self.refs.get("caller") or {},
            },
            "run_id": self.run_id,
            "workflow_id": self.workflow_id,
            "mode": self.mode,
            "started_at": self.started_at.isoformat(),
            "job_hash": self.job_hash,
            "evaluator_set": self.evaluator_set,
            "seed": self.seed,
            "drift": self.refs.get("drift", []),
            "rerun_of": self.refs.get("rerun_of"),
        }

    @property
    def dataset(self) -> dict[str, Any]:
        """The stored dataset that the run works on, as jobs name one."""
        return {
            "id": self.dataset_id,
            "version": self.dataset_version,
            "metadata_version": self.dataset_metadata_version,
        }


class DatasetRecord(_Record):
    """A stored dataset version, without its cases, with one version of its metadata.

    `created_at` is when the cases were first stored with this metadata.
    """

    dataset_id: str
    version: str
    metadata_version: str
    metadata: dict[str, Any]
    counts: dict[str, Any]
    created_at: datetime


class WorkflowRecord(_Record):
    """The owner of a workflow, its default config with version, and its feature flags."""

    workflow_id: str
    owner: str | None = None
    default_config: Annotated[dict[str, Any], BeforeValidator(lambda found: found or {})] = Field(
        default_factory=dict
    )
    default_version: int = 0
    feature_flags: dict[str, Any] = Field(default_factory=dict)
    created_at: datetime
    updated_at: datetime


class CandidateRecord(_Record):
    """A candidate of a training run; `position` counts the candidates as they were first saved."""

    run_id: str
    candidate_hash: str
    position: int
    prompts: dict[str, Any]
    parents: list[str]
    status: str
    info: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """The right to write to a run; `token` rises with every `acquire`.

    `result` is the result of a run that had ended when the lease was taken.
    """

    run_id: str
    owner: str
    token: int
    ttl: float
    event_seq: int = 0
    result: dict[str, Any] | None = None


@dataclass(kw_only=True, slots=True)
class RolloutRow:
    """One rollout as the ledger keeps it.

    `reused` marks a row found in the run named by `reuse=`. Putting such a row writes a copy that
    costs nothing; any other row counts its `usage`, with `attempts` as the number of rollouts.
    `empty_replies` and `cut_replies` count the replies of its models that were empty, or cut off by
    their length; an output without text counts as one that was empty.
    `position` is its place among the rollouts of its run, given by the ledger.
    """

    key: str
    case_id: str
    candidate_hash: str
    replicate: int = 0
    phase: str = "evaluation"
    output: Any = None
    tape: dict[str, Any] | None = None
    usage: Usage = NOTHING
    latency_ms: float = 0.0
    attempts: int = 1
    failure: dict[str, Any] | None = None
    reused: bool = False
    empty_replies: int = 0
    cut_replies: int = 0
    position: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class StoredOutput:
    """In place of an output that only the store has, with the rollout at `position`."""

    candidate_hash: str
    position: int


@dataclass(kw_only=True, slots=True)
class ScoreRow:
    """One score (or failure) of one evaluator on one rollout.

    `usage` is what the evaluator itself spent; with several metrics of one call it belongs on
    one row only. `reused` as in `RolloutRow`.
    """

    rollout_key: str
    evaluator_fingerprint: str
    name: str
    score: float | None = None
    passed: bool | None = None
    reason: str | None = None
    label: str | None = None
    failure: dict[str, Any] | None = None
    usage: Usage = NOTHING
    reused: bool = False


def trace_id_of(run_id: str, rollout_key: str, attempt: int) -> UUID:
    """The id of the root run that the traces of a rollout's attempt hang from.

    It follows from what is stored, so that a case leads to its trace and nothing is kept for it.
    """
    return UUID(int=int(rollout_key[:32], 16) ^ _salt(run_id, attempt))


@lru_cache(maxsize=64)
def _salt(run_id: str, attempt: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{run_id} {attempt}".encode()).digest()[:16])


@dataclass(kw_only=True, slots=True)
class CaseRow:
    """A stored rollout with its scores, for reports."""

    run_id: str
    rollout: RolloutRow
    scores: list[ScoreRow] = field(default_factory=list)

    @property
    def trace_id(self) -> str | None:
        """The id of the rollout's root run in traces; None where another run has executed it."""
        attempts = self.rollout.usage.rollouts
        return str(trace_id_of(self.run_id, self.rollout.key, attempts)) if attempts else None


@dataclass(kw_only=True, slots=True)
class Mark:
    """A stored rollout without its output: what it scored, and how many rollouts came before it.

    `scores` has for each evaluator its score, whether it passed, and whether it failed.
    """

    case_id: str
    candidate_hash: str
    phase: str
    replicate: int
    position: int
    latency_ms: float
    failed: bool
    scores: dict[str, tuple[float | None, bool | None, bool]] = field(default_factory=dict)

"""What a training run stores besides its ledger: candidates, and what each step changed."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Unpack

from sqlalchemy import (
    Case,
    ColumnElement,
    Connection,
    Select,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    select,
    tuple_,
    update,
)

from orcheo_agentensor.errors import BadInput, NotFound
from orcheo_agentensor.storage import lease as leases
from orcheo_agentensor.storage import rows
from orcheo_agentensor.storage.case_filters import CaseFilters, filtered, worst_first
from orcheo_agentensor.storage.engine import Repository, first, listed
from orcheo_agentensor.storage.lease import fence
from orcheo_agentensor.storage.records import (
    RETRIED,
    CandidateRecord,
    CaseRow,
    Lease,
    Mark,
    RunMode,
    RunRecord,
    RunStatus,
    StoredOutput,
    text_for_number,
)
from orcheo_agentensor.storage.stats import since_filter, stats_of
from orcheo_agentensor.storage.tables import (
    candidates,
    checkpoints,
    clean_text,
    dataset_metadata,
    optimizer_state,
    rollouts,
    runs,
    scores,
    text_in,
    workflows,
)
from orcheo_agentensor.usage import Usage

_CHANGE = insert(optimizer_state)
_EARLIER_CHANGE = delete(optimizer_state).where(
    optimizer_state.c.run_id == bindparam("run"), optimizer_state.c.step == bindparam("at")
)


class OptimizerStates(Repository):
    """The repository of candidates, and of what each step changed."""

    async def save_candidate(
        self,
        run_id: str,
        candidate_hash: str,
        *,
        prompts: dict[str, Any],
        parents: list[str],
        status: str,
        info: dict[str, Any] | None = None,
        lease: Lease | None = None,
    ) -> CandidateRecord:
        """Store a candidate, or the new status and info of a stored one."""

        def work(connection: Connection) -> CandidateRecord:
            fence(connection, lease)
            return self._put(connection, run_id, candidate_hash, prompts, parents, status, info)

        return await self._db.write(work, lock=f"run:{run_id}")

    def _put(
        self,
        connection: Connection,
        run_id: str,
        candidate_hash: str,
        prompts: dict[str, Any],
        parents: list[str],
        status: str,
        info: dict[str, Any] | None,
    ) -> CandidateRecord:
        table = candidates.c
        same = (table.run_id == run_id) & (table.candidate_hash == candidate_hash)
        if there := first(connection, CandidateRecord, select(candidates).where(same)):
            changes = {"status": status, "info": there.info if info is None else info}
            connection.execute(update(candidates).where(same).values(**changes))
            return there.model_copy(update=changes)
        last = connection.scalar(select(func.max(table.position)).where(table.run_id == run_id))
        record = CandidateRecord(
            run_id=run_id,
            candidate_hash=candidate_hash,
            position=0 if last is None else last + 1,
            prompts=prompts,
            parents=parents,
            status=status,
            info=info or {},
            created_at=self._clock(),
        )
        connection.execute(insert(candidates).values(**dict(record)))
        return record

    async def candidates(self, run_id: str, *, status: str | None = None) -> list[CandidateRecord]:
        """The candidates of a run in the order they were first saved."""
        query = (
            select(candidates).where(candidates.c.run_id == run_id).order_by(candidates.c.position)
        )
        if status is not None:
            query = query.where(candidates.c.status == status)
        return await self._all(CandidateRecord, query)

    async def save_change(
        self,
        run_id: str,
        step: int,
        change: dict[str, Any],
        *,
        made: Sequence[Mapping[str, Any]] = (),
        lease: Lease | None = None,
    ) -> None:
        """Store what `step` has changed in the optimizer's state; replaces its earlier change.

        With it the candidates that were `made`, each as `save_candidate` takes it.
        """
        at = {"run": run_id, "at": step}
        row = {"run_id": run_id, "step": step, "state": change, "created_at": self._clock()}

        def work(connection: Connection) -> None:
            fence(connection, lease)
            for one in made:
                self._put(connection, run_id, **one)
            connection.execute(_EARLIER_CHANGE, at)
            connection.execute(_CHANGE, row)

        await self._db.write(work, lock=f"run:{run_id}")

    async def restart(self, run_id: str, *, lease: Lease | None = None) -> None:
        """Forget what the steps of a run have changed."""

        def work(connection: Connection) -> None:
            fence(connection, lease)
            connection.execute(delete(optimizer_state).where(optimizer_state.c.run_id == run_id))

        await self._db.write(work, lock=f"run:{run_id}")

    async def changes(self, run_id: str) -> dict[int, dict[str, Any]]:
        """What each step of a run has changed in the optimizer's state, by step, in order."""
        table = optimizer_state.c
        query = select(table.step, table.state).where(table.run_id == run_id).order_by(table.step)
        return await self._db.read(
            lambda connection: {row.step: row.state for row in connection.execute(query)}
        )


_SHOWN = [runs.c[name] for name in RunRecord.model_fields if name != "status"]
_FIXED = {"run_id", "job_hash", "started_at"}
_CHANGEABLE = set(RunRecord.model_fields) - _FIXED


class Runs(Repository):
    """The repository of `RunRecord`s and their leases."""

    async def create(self, run: RunRecord, *, manifest: dict[str, Any] | None = None) -> RunRecord:
        """Store a new run, or return the stored one where this job was started before.

        `manifest` is kept with the run, once; see `manifest`.

        Raises `RunMismatch` where the run id belongs to another job.
        """

        def work(connection: Connection) -> RunRecord:
            if there := self._find(connection, run.run_id):
                _require_same(there, run)
                if manifest is not None:
                    unfinished = runs.c.manifest.is_(None) & (runs.c.status != "finished")
                    here = update(runs).where(runs.c.run_id == run.run_id, unfinished)
                    connection.execute(here.values(manifest=manifest))
                return there
            expires = leases.expires_when_free(self._clock())
            connection.execute(
                insert(runs).values(
                    **dict(run), manifest=manifest, lease_token=0, lease_expires=expires
                )
            )
            return run

        return await self._db.write(work, lock=f"run:{run.run_id}")

    async def require_free(self, run: RunRecord) -> None:
        """Raise `RunMismatch` where the id of `run`, not stored yet, belongs to another job."""
        if there := await self._db.read(lambda connection: self._find(connection, run.run_id)):
            _require_same(there, run)

    async def get(self, run_id: str) -> RunRecord:
        """The run with this id; `NotFound` lists the newest runs."""
        return await self._db.read(lambda connection: self._get(connection, run_id))

    async def manifest(self, run_id: str) -> dict[str, Any]:
        """What a run was made of, as JSON: what was kept when it started, with what its record,
        its dataset and its versions hold.

        `orcheo_agentensor.runs.manifest.Manifest` gives it types. Raises `NotFound` for a run that
        was recorded without one.
        """

        def work(connection: Connection) -> dict[str, Any]:
            run = self._get(connection, run_id)
            kept = connection.scalar(select(runs.c.manifest).where(runs.c.run_id == run_id))
            if kept is None:
                why = "it was recorded by an earlier release"
                if of := run.refs.get("rollout_of"):
                    why = f"it is a rollout of run {of!r}, whose manifest describes it"
                raise NotFound(f"run {run_id!r} has no manifest: {why}")
            if run.dataset_metadata_version is not None and kept.get("dataset"):
                table = dataset_metadata.c
                kept["dataset"]["metadata"] = connection.scalar(
                    select(table.metadata).where(
                        table.dataset_id == run.dataset_id,
                        table.version == run.dataset_version,
                        table.metadata_version == run.dataset_metadata_version,
                    )
                )
            stored = select(checkpoints).where(checkpoints.c.run_id == run_id)
            versions = connection.execute(stored.order_by(checkpoints.c.config_version)).mappings()
            kept["checkpoints"] = {
                "langgraph": run.refs.get("langgraph"),
                "versions": [
                    {
                        "config_version": row["config_version"],
                        "content_hash": row["content_hash"],
                        "reason": row["metadata"].get("reason"),
                        "step": row["metadata"].get("step"),
                        "langgraph": row["metadata"].get("langgraph"),
                    }
                    for row in versions
                ],
            }
            return run.in_manifest(kept)

        return await self._db.read(work)

    async def named_by(
        self, evaluator_set: str, *, hidden_from: str | None = None
    ) -> builtins.list[dict[str, Any]]:
        """The evaluators that an evaluator set names, from the newest run that had them.

        `hidden_from` as in `list`. Raises `NotFound` where no run with a manifest had it.
        """
        query = (
            select(runs.c.manifest)
            .where(runs.c.evaluator_set == evaluator_set, runs.c.manifest.is_not(None))
            .order_by(runs.c.started_at.desc())
            .limit(1)
        )
        if hidden_from is not None:
            query = query.where(~is_others(hidden_from))
        found = await self._db.read(lambda connection: connection.scalar(query))
        if found is None:
            raise NotFound(f"no run that is known had the evaluator set {evaluator_set!r}")
        evaluators: builtins.list[dict[str, Any]] = found["evaluators"]
        return evaluators

    async def list(
        self,
        *,
        workflow_id: str | None = None,
        mode: RunMode | None = None,
        status: RunStatus | None = None,
        hidden_from: str | None = None,
        before: tuple[datetime, str] | None = None,
        limit: int | None = 100,
        offset: int = 0,
    ) -> builtins.list[RunRecord]:
        """Runs, newest first; only those after `before` in that order, if given.

        `hidden_from` leaves out the runs that belong to another identity; see `is_others`.
        """
        query = (
            self._select()
            .order_by(runs.c.started_at.desc(), runs.c.run_id)
            .limit(limit)
            .offset(offset)
        )
        for column, wanted in (
            (runs.c.workflow_id, workflow_id),
            (runs.c.mode, mode),
            (self._status(), status),
        ):
            if wanted is not None:
                query = query.where(column == wanted)
        if hidden_from is not None:
            query = query.where(~is_others(hidden_from))
        if before is not None:
            at, run_id = before
            same = (runs.c.started_at == at) & (runs.c.run_id > run_id)
            query = query.where((runs.c.started_at < at) | same)
        return await self._all(RunRecord, query)

    async def stats(
        self,
        workflow_id: str | None = None,
        *,
        since: datetime | None = None,
        hidden_from: str | None = None,
    ) -> dict[str, Any]:
        """Figures over runs, as `storage.stats` describes them; of one workflow, and of runs that
        were started at `since` or later, where these are given. `hidden_from` as in `list`."""
        chosen = since_filter(since)
        if workflow_id is not None:
            chosen.append(runs.c.workflow_id == workflow_id)
        if hidden_from is not None:
            chosen.append(~is_others(hidden_from))
        return await self._db.read(lambda connection: stats_of(connection, chosen))

    async def update(
        self, run_id: str, /, *, lease: Lease | None = None, **fields: Any
    ) -> RunRecord:
        """Change fields of a run; with `lease`, only while that lease holds."""
        unknown = sorted(set(fields) - _CHANGEABLE)
        if unknown:
            raise BadInput(
                f"a run has no changeable field {listed(unknown)}; "
                f"these can change: {listed(sorted(_CHANGEABLE))}"
            )
        if isinstance(fields.get("error"), str):
            fields["error"] = clean_text(fields["error"])

        def work(connection: Connection) -> RunRecord:
            leases.fence(connection, lease)
            changed = RunRecord.model_validate({**dict(self._get(connection, run_id)), **fields})
            if fields:
                values = {name: getattr(changed, name) for name in fields}
                connection.execute(update(runs).where(runs.c.run_id == run_id).values(**values))
            return changed

        return await self._db.write(work, lock=f"run:{run_id}")

    async def acquire(
        self,
        run_id: str,
        *,
        owner: str | None = None,
        ttl: float = leases.DEFAULT_TTL,
        **fields: Any,
    ) -> Lease:
        """Take the lease of a run; `owner` defaults to this process.

        With it `fields` of the run are changed, unless it has ended.

        Raises `RunAlreadyActive` while another process holds it and may be alive.
        """
        return await self._db.write(
            lambda connection: leases.take(
                connection,
                run_id,
                owner=owner or leases.process_owner(),  # in the worker thread: it reads a file
                ttl=ttl,
                now=self._clock(),
                **fields,
            ),
            lock=f"run:{run_id}",
        )

    async def release(self, lease: Lease, *, event_seq: int = 0) -> None:
        """Give a lease back, noting the number of the last event; harmless where it is lost."""
        await self._db.write(
            lambda connection: leases.give_back(
                connection, lease, event_seq=event_seq, now=self._clock()
            ),
            lock=f"run:{lease.run_id}",
        )

    async def fail_texts(self, run_id: str, *, lease: Lease | None = None) -> None:
        """Make failures of the texts of evaluators that give numbers for other cases of a run."""
        given = select(scores.c.name).where(scores.c.run_id == run_id, scores.c.score.is_not(None))
        texts = select(scores).where(
            scores.c.run_id == run_id,
            scores.c.score.is_(None),
            scores.c.label.is_not(None),
            scores.c.failure.is_(None),
            scores.c.name.in_(given.distinct()),
        )

        def work(connection: Connection) -> None:
            fence(connection, lease)
            for row in connection.execute(texts).all():
                same = [column == getattr(row, column.name) for column in scores.primary_key]
                failure = {"kind": "wrong_shape", "reason": text_for_number(row.label)}
                connection.execute(update(scores).where(*same).values(failure=failure))

        await self._db.write(work, lock=f"run:{run_id}")

    async def retry_failed(self, run_id: str) -> int:
        """Open a run again for what failed in passing; returns how many rollouts and scores.

        What these have cost stays counted. A run without any stays as it is. Raises
        `RunAlreadyActive` while a process works on it.
        """

        def work(connection: Connection) -> int:
            now = self._clock()
            lease = leases.take(
                connection, run_id, owner=leases.process_owner(), ttl=leases.DEFAULT_TTL, now=now
            )
            found = rows.take_back_passing(connection, run_id, mark=f"{RETRIED}-{lease.token}")
            if found:
                refs = self._get(connection, run_id).refs
                refs = {**refs, RETRIED: refs.get(RETRIED, 0) + 1}
                again = {"status": "interrupted", "result": None, "error": None, "ended_at": None}
                connection.execute(
                    update(runs).where(runs.c.run_id == run_id).values(**again, refs=refs)
                )
            leases.give_back(connection, lease, event_seq=lease.event_seq, now=now)
            return found

        return await self._db.write(work, lock=f"run:{run_id}")

    async def take_back_passing(self, lease: Lease) -> int:
        """As `retry_failed`, of a run at work that is about to pause; returns how many rollouts are
        left."""

        def work(connection: Connection) -> int:
            leases.fence(connection, lease)
            mark = f"{RETRIED}-{lease.token}"
            rows.take_back_passing(connection, lease.run_id, mark=mark)
            left = select(func.count()).where(rollouts.c.run_id == lease.run_id)
            return connection.scalar(left) or 0

        return await self._db.write(work, lock=f"run:{lease.run_id}")

    async def usage(self, run_id: str) -> Usage:
        """What a run has spent so far, added up from its ledger."""
        return await self._db.read(lambda connection: rows.total_usage(connection, run_id))

    async def outputs(self, run_id: str, stored: Sequence[StoredOutput]) -> dict[StoredOutput, Any]:
        """The outputs that `stored` stand for."""
        return await self._db.read(lambda c: rows.outputs_of(c, run_id, stored))

    async def case_rows(
        self,
        run_id: str,
        *,
        after: tuple[str, int, str] | None = None,
        worst_by: Mapping[str, float] | None = None,
        limit: int | None = 100,
        offset: int = 0,
        **filters: Unpack[CaseFilters],
    ) -> builtins.list[CaseRow]:
        """Stored rollouts with their scores, by case id, or with the worst first.

        `filters` are those of `CaseFilters`. `worst_by` has the weights of the evaluators. `after`
        is the case id, replicate and key of the last row of the page before.
        """
        # The places first, in a query without outputs and tapes, which are long to sort.
        table = rollouts.c
        query = filtered(select(table.candidate_hash, table.position), run_id, filters)
        query = query.order_by(table.case_id, table.replicate, table.key)
        if worst_by is not None:
            query = worst_first(query, run_id, worst_by)
        if after is not None:
            query = query.where(tuple_(table.case_id, table.replicate, table.key) > after)
        query = query.limit(limit).offset(offset)

        def work(connection: Connection) -> builtins.list[CaseRow]:
            places = connection.execute(query).all()
            found = rows.rollouts_at(connection, run_id, [(h, p) for h, p in places])
            by_key = rows.scores_of(connection, found, run_id, name=filters.get("evaluator"))
            return [
                CaseRow(run_id=run_id, rollout=row, scores=by_key.get(row.key, [])) for row in found
            ]

        return await self._db.read(work)

    async def count_rows(self, run_id: str, **filters: Unpack[CaseFilters]) -> int:
        """How many stored rollouts `case_rows` would give without a limit."""
        query = filtered(select(func.count()).select_from(rollouts), run_id, filters)
        return await self._db.read(lambda connection: connection.scalar(query) or 0)

    async def score_names(self, run_id: str) -> builtins.list[str]:
        """The names of the scores that a run has, in order."""
        query = select(scores.c.name).where(scores.c.run_id == run_id).distinct()
        return sorted(await self._db.read(lambda connection: connection.scalars(query).all()))

    async def marks(self, run_id: str) -> builtins.list[Mark]:
        """What every stored rollout of a run has scored, in the order they were written."""
        chosen = ("position", "case_id", "candidate_hash", "phase", "replicate", "latency_ms")
        query = (
            select(*(rollouts.c[name] for name in chosen), rollouts.c.failure.is_not(None))
            .where(rollouts.c.run_id == run_id)
            .order_by(rollouts.c.position)
        )
        columns = (scores.c.position, scores.c.name, scores.c.score, scores.c.passed)
        scored = select(*columns, scores.c.failure.is_not(None)).where(scores.c.run_id == run_id)

        def work(connection: Connection) -> builtins.list[Mark]:
            found = {
                row[0]: Mark(
                    position=row[0],
                    case_id=row[1],
                    candidate_hash=row[2],
                    phase=row[3],
                    replicate=row[4],
                    latency_ms=row[5],
                    failed=row[6],
                )
                for row in connection.execute(query)
            }
            for position, name, score, passed, failed in connection.execute(scored):
                found[position].scores[name] = (score, passed, bool(failed))
            return [*found.values()]

        return await self._db.read(work)

    def _get(self, connection: Connection, run_id: str) -> RunRecord:
        if found := self._find(connection, run_id):
            return found
        newest = connection.scalars(
            select(runs.c.run_id).order_by(runs.c.started_at.desc()).limit(10)
        )
        raise NotFound(f"there is no run {run_id!r}; the newest runs: {listed([*newest])}")

    def _find(self, connection: Connection, run_id: str) -> RunRecord | None:
        return first(connection, RunRecord, self._select().where(runs.c.run_id == run_id))

    def _select(self) -> Select[Any]:
        return select(*_SHOWN, self._status().label("status"))

    def _status(self) -> Case[Any]:
        return status_at(self._clock())


def status_at(now: datetime) -> Case[Any]:
    """The status; a run that is `running` without a lease was interrupted."""
    left = func.coalesce(runs.c.lease_expires, 0.0) < now.timestamp()
    gone = (runs.c.status == "running") & (runs.c.mode != "run") & left
    return case((gone, "interrupted"), else_=runs.c.status)


def is_others(identity: str) -> ColumnElement[bool]:
    """Whether a run belongs to another identity: to the one that submitted it, or, where none
    is known, to the owner of its workflow."""
    submitted = text_in(runs.c.refs, "identity")
    of_workflow = exists().where(
        workflows.c.workflow_id == runs.c.workflow_id,
        workflows.c.owner.is_not(None),
        workflows.c.owner != identity,
    )
    return (submitted.is_not(None) & (submitted != identity)) | (submitted.is_(None) & of_workflow)


def _require_same(there: RunRecord, run: RunRecord) -> None:
    if there.job_hash != run.job_hash:
        raise there.taken()

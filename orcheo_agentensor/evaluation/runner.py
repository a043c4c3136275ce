"""Running the cases of a run: each call is made once, in its time, within budget, and recorded."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
import uuid
from collections import deque
from collections.abc import (
    Callable,
    Coroutine,
    Iterable,
    Sequence,
)
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from orcheo_agentensor.config.model import named_callbacks
from orcheo_agentensor.datasets import Case, StreamedCases
from orcheo_agentensor.errors import (
    LOCKED_OUT,
    REFUSED,
    BadInput,
    BudgetExhausted,
    PromptNotFound,
    RunPaused,
    TargetRefused,
    TemplateError,
    describe,
    status_of,
)
from orcheo_agentensor.evaluation.child import WorkerDied, as_sent, in_child
from orcheo_agentensor.evaluation.limits import (
    Breaker,
    LeftBehind,
    OutOfTime,
    Share,
    Slots,
    process_slots,
)
from orcheo_agentensor.evaluation.paid_calls import (
    CANDIDATE,
    PHASE,
    Attempt,
    Meter,
    PaidCalls,
    labelled,
    traced,
)
from orcheo_agentensor.evaluation.results import (
    CaseListener,
    CaseResult,
    as_recorded,
    case_result,
    context_of,
    is_bare_score,
    leave_output,
    merged,
    outcome_of,
    score_rows,
    storable,
    with_media,
    without_texts,
)
from orcheo_agentensor.evaluators import BoundEvaluator
from orcheo_agentensor.evaluators.binding import Scoring
from orcheo_agentensor.evaluators.contained import containing
from orcheo_agentensor.evaluators.context import EvaluationResult, EvaluatorContext, Outcome
from orcheo_agentensor.evaluators.returns import failure
from orcheo_agentensor.evaluators.threads import run_in_thread
from orcheo_agentensor.json_values import canonical_json, content_hash, private_copy
from orcheo_agentensor.media import with_references
from orcheo_agentensor.prompts import Candidate, with_prompts
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.runs.active import ActiveRun, Draining
from orcheo_agentensor.runs.caller import OF_JOBS, handlers, is_heard
from orcheo_agentensor.seeds import CASE_ID, REPLICATE, RUN_ID, SEED, UNHEARD
from orcheo_agentensor.storage import RolloutRow
from orcheo_agentensor.storage.records import PASSING, trace_id_of
from orcheo_agentensor.storage.tables import clean_text
from orcheo_agentensor.tape import prompt_reads, prompts_in, reads_only, record_tape
from orcheo_agentensor.targets import ConnectedTarget
from orcheo_agentensor.targets.output import (
    OutputTooLarge,
    is_empty_output,
    is_large,
    is_plain,
    to_capped_output,
    to_json_output,
)
from orcheo_agentensor.usage import NOTHING, ONE_ROLLOUT, Usage, UsageRecorder

if TYPE_CHECKING:
    from orcheo_agentensor.storage.ledger import Commit


T = TypeVar("T")

FOR_EVERY_CASE = (PromptNotFound, TemplateError, TargetRefused, RunPaused)
"""What is the job's trouble and not the case's: every other case would fail in the same way."""

MOST_LOOKS = 100  # rollouts of an evaluation that are taped to see which prompts are read

MOST_OUTPUTS = 4 * 1024 * 1024  # bytes of outputs that an evaluation keeps in memory

YIELD_EVERY = 500  # cases replayed in one go, before others get a turn


def shared_thread(thread_id: str) -> str:
    """A sentence on a thread that cases share."""
    return (
        f"the target ran a graph on the thread {thread_id!r}, which it names itself: what the "
        "graph's checkpointer, store and node cache keep of one case is found by others, and the "
        "scores are not those of cases alone; leave the thread_id out, or hand on the config that "
        "the target is given"
    )


class Runner:
    """Executes rollouts for one run and scores them.

    Every rollout and every score is handed to the ledger as it returns. Over all concurrent calls
    of `run`, at most `limits.concurrency` cases run at once, and at most twice as many are in
    flight: begun, and not all of their rows committed.

    With `settling`, a text is a failure once its evaluator has given a number; a training, which
    may not depend on the order of cases, settles whole batches.
    """

    def __init__(
        self,
        run: ActiveRun[Any],
        *,
        meter: Meter | None = None,
        taped: bool = False,
        settling: bool = False,
    ) -> None:
        self._numeric: set[str] | None = set() if settling else None
        self.target = run.target
        self.evaluators = run.evaluators
        self.fingerprints = [evaluator.fingerprint for evaluator in run.evaluators]
        self.weights = run.weights
        self.meter = meter
        self.replicates = run.job.replicates
        self.ledger = run.ledger
        self.media = run.store.media
        self.has_media = bool(run.dataset.media)
        self.concurrency = run.job.limits.concurrency
        self.calls = PaidCalls(run.ledger, run.job.limits)
        self.breaker = Breaker(self.concurrency)
        self.batches: set[_Batch] = set()
        self._replayed: dict[str, CaseResult] = {}
        self.flying: dict[str, tuple[_Batch, int]] = {}
        self.suspects, self.spans = run.ledger.suspects, run.ledger.spans
        self.killers = run.ledger.killers
        self.sole: str | None = None
        self.alone = asyncio.Lock()
        self._isolate = run.job.limits.isolate
        self.large: set[str] = set()
        self._most_bytes = run.job.limits.max_output_bytes
        run.ledger.note = self._note
        self.running = Slots(self.concurrency)
        self.in_flight = Slots(2 * self.concurrency)
        self._takes_objects = not (
            hasattr(run.target, "servers") or getattr(run.target, "is_remote", False)
        )
        isolation = getattr(getattr(run.target, "inner", run.target), "isolation", None)
        self._keeps = isolation is not None and isolation.keeps
        self._threads: dict[str, str] | None = (
            {} if self._keeps or (isolation is not None and isolation.has_saver) else None
        )
        self.shared_threads: set[str] = set()
        self._events = run.events
        self._elsewhere = run.target if isinstance(run.target, ConnectedTarget) else None
        self._config = run.around.beneath(run.config).model_copy(update={"callbacks": ()})
        self._around = run.around
        self._handlers = handlers(
            named_callbacks(run.config.callbacks), run.callbacks, run.around.callbacks
        )
        self._run_id, self._seed = run.record.run_id, run.job.seed
        self._config_hash = content_hash(
            {key: value for key, value in run.config_json.items() if key != "run_id"}
        )
        if run.around.fingerprint is not None:
            self._config_hash = content_hash([self._config_hash, run.around.fingerprint])
        self._seconds = run.job.limits.case_timeout
        self._slots = process_slots(run.settings.max_concurrency)
        self._share = Share()
        self._steps = any(
            evaluator.adapter.taped for evaluator in (*run.evaluators, *run.summary_evaluators)
        )
        self.taped = taped or self._steps
        self._unread: set[str] = set()
        if (
            not self.taped
            and self._elsewhere is None
            and not getattr(run.target, "is_remote", False)
        ):
            self._unread = set(run.prompts)
        self._looks, self.draining = MOST_LOOKS, run.draining
        self._alike: tuple[Outcome, ...] = ()
        self._nonce, self._executions = uuid.uuid4().hex[:12], itertools.count()
        self.calls_config = self._config_of_calls()
        self.instant = all(evaluator.adapter.inline is not None for evaluator in run.evaluators)

    async def run(
        self,
        cases: Sequence[Case],
        candidate: Candidate,
        *,
        phase: str,
        on_case: CaseListener | None = None,
        meter: Meter | None = None,
        replicates: Sequence[int] | None = None,
    ) -> list[CaseResult]:
        """Score `cases` under `candidate`; results come back in the order of `cases`.

        `phase` names the purpose in the ledger; `on_case` hears of each case as it finishes;
        `meter` is asked in place of the runner's own. Each case is run once for each index in
        `replicates`, as many as the job says where left out, and its replicates are merged.
        Raises `BudgetExhausted` or `Draining` after the cases already begun are finished.
        """
        await self.ledger.load(candidate.hash)
        batch = _Batch(
            runner=self,
            cases=cases,
            candidate=candidate,
            phase=phase,
            meter=meter or self.meter,
            on_case=on_case,
            replicates=range(self.replicates) if replicates is None else replicates,
        )
        return await batch.run(self._keys(candidate))

    async def unrecorded(self, cases: Sequence[Case], candidate: Candidate) -> list[str]:
        """The keys of the rollouts of these cases that the ledger lacks."""
        await self.ledger.load(candidate.hash)
        key_of, recorded = self._keys(candidate), self.ledger.rollouts
        keys = [key_of(case, n) for case in cases for n in range(self.replicates)]
        return [key for key in keys if key not in recorded]

    def replayed(self, case: Case, key: str) -> CaseResult | None:
        """The result of a case of which every row is committed in this run; None for others."""
        known = self._replayed.get(key)
        if known is not None and known.case is case:
            return known
        row = self.ledger.rollouts.get(key)
        if row is None or row.reused or self.calls.is_claimed(key):
            return None
        outcomes: list[Outcome] = []
        usage = row.usage
        if row.failure is None:
            for evaluator in self.evaluators:
                rows = self.ledger.scores.get((key, evaluator.fingerprint))
                if rows is None or rows[0].reused:
                    return None
                outcomes += map(outcome_of, rows)
                if self._numeric is not None:
                    self._numeric.update(row.name for row in rows if row.score is not None)
                usage = usage + Usage.total(score.usage for score in rows)
        found = case_result(case, row, outcomes, usage, replayed=True)
        if self.taped and self._numeric is None:  # a training, which comes back to it
            self._replayed[key] = found
        return found

    async def rollout(self, key: str, case: Case, replicate: int, batch: _Batch) -> RolloutRow:
        """Run the target on a case, as often as it takes. Raises `BudgetExhausted`, `Draining`."""
        begun, executions = False, 0

        async def attempt(recorder: UsageRecorder) -> Attempt:
            nonlocal begun, executions
            if not self._slots.take(self._share):
                await self._slots.acquire(self._share)
            try:
                if not begun and self.draining():
                    raise Draining
                again = executions > 0
                if batch.meter is not None:
                    await self._reserve_stored(batch.meter)
                    batch.meter.reserve_rollout(again=again)
                begun, recorder.total = True, ONE_ROLLOUT
                recorder.ignore_chain = self._threads is None
                executions += 1
                config = batch.config
                if "callbacks" in config:
                    config = {**config, "run_id": trace_id_of(self._run_id, key, executions)}
                apart = self._isolate or self.sole in self.killers
                run = self._execute_apart if apart else self._execute
                found = await run(key, case, replicate, config, recorder)
                if found.error is not None and status_of(found.error) in REFUSED:
                    executions -= 1
                    recorder.total = replace(recorder.total, rollouts=0)
                    if batch.meter is not None:
                        batch.meter.return_rollout(again=again)
                return found
            finally:
                self._slots.release(self._share)

        last, usage = await self.calls.make(
            attempt, key, meter=batch.meter, elsewhere=self._elsewhere
        )
        if last.large:
            self.large.add(key)
        row = RolloutRow(key=key, case_id=case.id, candidate_hash=batch.candidate.hash)
        # Each after the other: arguments by name cost a class four times as much.
        row.replicate, row.phase = replicate, batch.phase
        row.output, row.tape, row.latency_ms = last.value, last.tape, last.latency_ms
        row.usage, row.attempts = usage, usage.rollouts
        row.failure = None if last.error is None else self._failure(last)
        row.empty_replies, row.cut_replies = last.empty_replies, last.cut_replies
        return row

    async def _reserve_stored(self, meter: Meter) -> None:
        """Wait until it is stored that one more rollout may have begun: see `_note`."""
        while meter.begun >= self.ledger.noted.get("rollouts", 0):
            await self.ledger.note_down()

    def _note(self) -> dict[str, Any]:
        """What the next process of this run has to know if this one dies.

        The cases that are in flight or may begin before the next commit (no more begin than may be
        in flight) are noted as `spans` of the batch of an evaluation, which is the same one when it
        is resumed, and else by `keys`; so are those that an earlier process has left. `alone` are
        those that had nothing beside them. `rollouts` may have begun in all: what is spent by then,
        and a block of as many as run at once.
        """
        keys, spans = {*self.suspects}, {**self.spans}
        for batch in self.batches:
            numbers = [number for of, number in self.flying.values() if of is batch]
            if self.meter is not None:
                soon = itertools.islice(batch.pending, 2 * self.concurrency)
                keys.update(batch.labels([*numbers, *soon]))
                continue
            if batch.pending:
                last = min(2 * self.concurrency, len(batch.pending)) - 1
                numbers += [batch.pending[0], batch.pending[last]]
            if numbers:
                low, high = spans.get(batch.label, (min(numbers), 0))
                spans[batch.label] = [min(low, *numbers), max(high, *numbers)]
        note: dict[str, Any] = {"keys": sorted(keys)} if keys else {}
        if spans:
            note["spans"] = spans
        if alone := {*self.killers, *([] if self.sole is None else [self.sole])}:
            note["alone"] = sorted(alone)
        if self.meter is not None and self.batches:
            note["rollouts"] = self.meter.begun + self.concurrency
        return note

    async def _execute_apart(
        self,
        key: str,
        case: Case,
        replicate: int,
        config: dict[str, Any],
        recorder: UsageRecorder,
    ) -> Attempt:
        """Run the target once in a process of its own: where the job says so, and on a case that
        had nothing beside it when a process of the run died."""

        async def work() -> tuple[Attempt, Usage]:
            self.calls.begin_again()
            found = await self._execute(key, case, replicate, config, recorder)
            if found.error is not None:
                found.error = as_sent(found.error)
            return found, recorder.total

        started = time.perf_counter()
        try:
            found, total = await in_child(work, seconds=self._seconds)
        except (WorkerDied, OutOfTime) as error:
            return Attempt(
                error=error,
                latency_ms=(time.perf_counter() - started) * 1000.0,  # and of starting its process
                transient=isinstance(error, OutOfTime),
            )
        recorder.total = total
        if not self.taped and found.tape is not None:
            self._looked(found)
        return found

    async def _execute(
        self,
        key: str,
        case: Case,
        replicate: int,
        shared: dict[str, Any],
        recorder: UsageRecorder,
    ) -> Attempt:
        """Run the target once, on a copy of the inputs that it may change.

        Its config is `shared` by the batch, with labels that lead from a trace to the case, and a
        thread of its own: on a shared one it would go on from another case or attempt.
        """
        thread_id = f"{key}-{self._nonce}-{next(self._executions)}"
        held = case.__dict__  # a field by its name takes three times as long
        case_id, inputs = held["id"], held["inputs"]
        own: dict[str, Any] = {CASE_ID: case_id, REPLICATE: replicate}
        configurable = {**shared["configurable"], "thread_id": thread_id}
        config = {**shared, "configurable": configurable}
        if (labels := configurable.get(UNHEARD)) is not None:
            configurable[UNHEARD] = {**labels, **own}
            # LangGraph puts it there in any case, and takes longer where there is no metadata.
            config["metadata"] = {**shared.get("metadata", {}), "thread_id": thread_id}
        else:
            config["metadata"] = {**shared["metadata"], **own}
            config["tags"] = [*shared["tags"], f"{CASE_ID}:{case_id}", f"{REPLICATE}:{replicate}"]
        if self.has_media:
            inputs = await self.media.restored(inputs)
        if held["forms"] and self._takes_objects:
            inputs = case.model_copy(update={"inputs": inputs}).given()
        else:
            inputs = private_copy(inputs)
        call = self.target.run(inputs, config, rollout_id=key)  # type: ignore[arg-type]
        if self.taped or self._unread:
            with record_tape(
                self.target.edges, prompts=prompts_in(config), steps=self._steps
            ) as recorded:
                found = await self.calls.attempted(call, recorder)
            found.tape = recorded.to_json()  # a failure, too, teaches those who had a part in it
            if not self.taped:
                self._looked(found)
        else:
            found = await self.calls.attempted(call, recorder)
        value = found.value
        if found.error is None:
            if is_plain(value):
                found.value = value.copy() if type(value) is dict else value
            else:
                await self._convert(found)
        elif isinstance(found.error, FOR_EVERY_CASE):
            raise found.error
        if self._threads is not None:
            self._look_at_threads(recorder.threads - {thread_id}, key)
        found.empty_replies, found.cut_replies = recorder.empty, recorder.cut
        if not found.empty_replies and found.error is None:
            found.empty_replies = int(is_empty_output(found.value))
        return found

    async def _convert(self, found: Attempt) -> None:
        """Make JSON of what the target gave; what is none, or is too large, is an error."""
        try:
            if is_large(found.value):
                found.large = True
                found.value = await run_in_thread(to_capped_output, found.value, self._most_bytes)
            else:
                found.value = to_json_output(found.value)
        except BadInput as error:
            found.value, found.error = None, error
        except (Exception, SystemExit) as error:  # noqa: BLE001 - of methods of the output
            found.value, found.error = None, BadInput(f"output: {describe(error)}")

    def _looked(self, found: Attempt) -> None:
        """Learn which prompts a rollout of an evaluation read; once all are, no more are taped."""
        assert found.tape is not None
        found.tape = reads_only(found.tape)
        read = prompt_reads(self._unread, [found.tape])
        self._looks -= 1
        self._unread = {name for name in read if not read[name]} if self._looks else set()

    def _look_at_threads(self, threads: set[str], key: str) -> None:
        """Tell of a thread that the target has named itself: several cases ran on it, or its graph
        has a store or node cache, of which LangGraph then takes the graph's own."""
        assert self._threads is not None
        for thread_id in threads - self.shared_threads:
            other = self._threads.setdefault(thread_id, key) != key
            if other or (self._keeps and not self.shared_threads):
                self.shared_threads.add(thread_id)
                self._events.emit("warning", message=shared_thread(thread_id))

    def _failure(self, attempt: Attempt) -> dict[str, str]:
        error = attempt.error
        assert error is not None
        if isinstance(error, OutOfTime):
            kind = "abandoned" if isinstance(error, LeftBehind) else "timeout"
            reason = str(error)
        elif isinstance(error, BadInput):
            kind = "not_json" if "output" in error.message else "exception"
            kind = "too_large" if isinstance(error, OutputTooLarge) else kind
            reason = error.message
        else:
            kind = "process_died" if isinstance(error, WorkerDied) else "exception"
            reason = str(error) if isinstance(error, WorkerDied) else describe(error)
        told = {"kind": kind, "reason": reason}
        if attempt.transient or kind == "abandoned" or status_of(error) in LOCKED_OUT:
            told[PASSING] = "yes"
            if (status := status_of(error)) is not None:
                told["status"] = str(status)
        return storable(told)

    async def kept(self, output: Any) -> Any:
        """A large output as it is stored: without its secrets, its media stored apart."""
        media: list[bytes] = []

        def work() -> Any:
            return redact(with_references(output, media.append))

        kept = await run_in_thread(work)
        for medium in media:
            await self.media.put(medium)
        return kept

    async def score(
        self,
        evaluator: BoundEvaluator,
        key: str,
        context: EvaluatorContext,
        meter: Meter | None,
        commits: list[Commit],
    ) -> tuple[Sequence[Outcome], Usage, bool]:
        """What an evaluator says about a rollout, what that cost, and whether it was called.

        Rows that are put into the ledger add to `commits`.
        """
        if (
            evaluator.adapter.inline is not None
            or (key, evaluator.fingerprint) in self.ledger.scores
        ):
            return self.score_inline(evaluator, key, context, commits)

        async def attempt(recorder: UsageRecorder) -> Scoring:
            if self.sole in self.killers:
                return await self._score_apart(evaluator, context, recorder)
            return await evaluator.attempt(context, timeout=self._seconds, recorder=recorder)

        made, usage = await self.calls.make(attempt, key, meter=meter)
        outcomes = sorted(made.outcomes, key=lambda outcome: clean_text(outcome.name))
        if self._numeric is not None:
            self._numeric.update(
                one.name
                for one in outcomes
                if isinstance(one, EvaluationResult) and one.score is not None
            )
            outcomes = without_texts(outcomes, self._numeric)
        rows = score_rows(key, evaluator.fingerprint, outcomes, usage)
        for row in rows if made.passing else ():
            row.failure = row.failure and {**row.failure, PASSING: "yes"}
        put = self.ledger.put_scores
        commits.append(put(key, evaluator.fingerprint, rows, keep=self.taped))
        reason = (rows[0].failure or {}).get("reason")
        status = None if made.transient else LOCKED_OUT[0]
        self.told(f"evaluator {evaluator.name!r}", reason, status, passing=made.passing)
        return as_recorded(outcomes, rows), usage, True

    async def _score_apart(
        self, evaluator: BoundEvaluator, context: EvaluatorContext, recorder: UsageRecorder
    ) -> Scoring:
        """As `BoundEvaluator.attempt`, in a process of its own: it, or the target before it, has
        taken a process of the run down with this case."""

        async def work() -> tuple[Scoring, Usage]:
            found = await evaluator.attempt(context, timeout=self._seconds, recorder=recorder)
            return found, recorder.total

        try:
            found, recorder.total = await in_child(work, seconds=self._seconds)
        except WorkerDied as error:
            return Scoring([failure(evaluator.name, "process_died", str(error))])
        except OutOfTime as error:
            late = failure(evaluator.name, "timeout", str(error))
            return Scoring([late], transient=True, passing=True)
        return found

    def score_inline(
        self,
        evaluator: BoundEvaluator,
        key: str,
        context: EvaluatorContext,
        commits: list[Commit],
    ) -> tuple[Sequence[Outcome], Usage, bool]:
        """As `score`, where scores are recorded, or the evaluator need not be awaited."""
        fingerprint = evaluator.fingerprint
        rows = self.ledger.scores.get((key, fingerprint))
        if rows is not None:
            if rows[0].reused:
                commits.append(self.ledger.put_scores(key, fingerprint, rows))
            spent = Usage.total(row.usage for row in rows)
            return [outcome_of(row) for row in rows], spent, False
        assert evaluator.adapter.inline is not None
        try:
            outcome = evaluator.adapter.inline(context)
        except Exception as error:  # noqa: BLE001 - a failure is a value
            outcome = evaluator.broken(error)
        if not self.taped and is_bare_score(outcome):
            put = self.ledger.put_score(
                key, fingerprint, name=outcome.name, score=outcome.score, passed=outcome.passed
            )
            commits.append(put)
            if not self._alike or self._alike[0] is not outcome:
                self._alike = (outcome,)  # one for all cases that an evaluator gives the same
            return self._alike, NOTHING, True
        rows = score_rows(key, fingerprint, (outcome,), NOTHING)
        commits.append(self.ledger.put_scores(key, fingerprint, rows, keep=self.taped))
        return as_recorded((outcome,), rows), NOTHING, True

    def told(self, who: str, reason: str | None, status: Any, *, passing: bool) -> None:
        """Hear how a call of the target or an evaluator has ended; raises `RunPaused` where one
        after the other fails by the same outage or refusal."""
        kind = (reason or "").partition(":")[0] if passing else None
        locked_out = status is not None and int(status) in LOCKED_OUT
        self.breaker.ended(who, kind, reason or "", locked_out=locked_out)

    def labels(self, candidate: Candidate, phase: str) -> dict[str, Any]:
        """What the traces of all calls for `candidate` in this phase are labelled with."""
        labels = {RUN_ID: self._run_id, CANDIDATE: candidate.hash, PHASE: phase}
        return {**labels, SEED: self._seed}

    def _keys(self, candidate: Candidate) -> Callable[[Case, int], str]:
        """The content keys of rollouts within their run; what they share is hashed once."""
        shared = hashlib.sha256(
            canonical_json([self.target.fingerprint, self._config_hash, candidate.hash]).encode()
        )

        def key_of(case: Case, replicate: int) -> str:
            digest = shared.copy()
            digest.update(case.content_hash.encode())
            if replicate:
                digest.update(f" replicate {replicate}".encode())
            return digest.hexdigest()

        return key_of

    def config_of(self, candidate: Candidate, phase: str) -> dict[str, Any]:
        config: dict[str, Any] = dict(self._around.completed(self._config.to_runnable()))
        config.pop("run_id", None)  # one id cannot name many rollouts
        configurable = config.get("configurable") or {}
        if candidate.prompts:
            placed = with_prompts(configurable, candidate.prompts)
            theirs = configurable.get("prompts") or {}
            configurable = {**placed, "prompts": {**theirs, **placed["prompts"]}}
        config["configurable"] = configurable
        labels = self.labels(candidate, phase)
        if is_heard(self._handlers):
            config["callbacks"] = list(self._handlers)
        elif not getattr(self.target, "needs_labels", True):
            config["configurable"] = {**configurable, UNHEARD: labels}
            return config
        return labelled(config, labels)

    def _config_of_calls(self) -> dict[str, Any]:
        """What judges, the proposer and the critic run with: the target's config, as far as it does
        not say how the target itself runs."""
        config: dict[str, Any] = dict(self._around.completed(self._config.to_runnable()))
        found = {key: config.get(key) or {} for key in ("metadata", "configurable")}
        for key in OF_JOBS:
            found["configurable"].pop(key, None)
        return {"tags": config.get("tags") or [], "callbacks": list(self._handlers), **found}


@dataclass(eq=False)
class _Batch:
    """One call of `Runner.run`: cases under one candidate, with their results as they come in."""

    runner: Runner
    cases: Sequence[Case]
    candidate: Candidate
    phase: str
    meter: Meter | None
    on_case: CaseListener | None
    replicates: Sequence[int]

    def __post_init__(self) -> None:
        self.pending: deque[int] = deque()  # index x number of replicates + place of replicate
        self._workers = 0
        self._starting = self._waiting = False  # whether a worker starts, and whether one waits
        self._committing: dict[Commit, list[tuple[int, int, str, CaseResult]]] = {}
        self._results: list[CaseResult | None] = [None] * len(self.cases)
        self._parts: dict[int, dict[int, CaseResult]] = {}
        self._stopped: list[Exception] = []

    @cached_property
    def config(self) -> dict[str, Any]:
        """What the rollouts of all cases run with; of a batch that is replayed nobody asks."""
        return self.runner.config_of(self.candidate, self.phase)

    async def run(self, key_of: Callable[[Case, int], str]) -> list[CaseResult]:
        """Replay what is recorded, and run the rest."""
        runner, self._key_of = self.runner, key_of
        recorded = runner.ledger.rollouts
        for number in range(len(self.cases) * len(self.replicates)):
            index, replicate, key = self._numbered(number) if recorded else (0, 0, "")
            replayed = runner.replayed(self.cases[index], key) if key in recorded else None
            if replayed is None:
                self.pending.append(number)
            else:
                self._add(index, replicate, replayed)
            if number % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
        runner.batches.add(self)
        try:
            if self.pending:
                await runner.ledger.flush()  # of what may begin now, for whoever finds us dead
                await self._run_suspects()
            if self.pending and not self._stopped:
                with containing():
                    async with asyncio.TaskGroup() as group:
                        self._start_worker(group)
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            runner.batches.discard(self)
            for commit in [*self._committing]:  # nobody waits any more
                self._let_go(commit)
        if self._stopped:
            raise self._stopped[0]
        return [result for result in self._results if result is not None]

    def _numbered(self, number: int) -> tuple[int, int, str]:
        """The index of a case, its replicate and the key of the rollout."""
        index, place = divmod(number, len(self.replicates))
        replicate = self.replicates[place]
        return index, replicate, self._key_of(self.cases[index], replicate)

    async def _run_suspects(self) -> None:
        """Run first, one at a time, what may have been in flight when a process of the run died.

        The one that takes the process down again is then known, and does no more harm.
        """
        runner = self.runner
        low, high = runner.spans.pop(self.label, (0, -1)) if runner.spans else (0, -1)
        pending = [*self.pending] if runner.suspects or high >= low else []
        suspected = [
            (number, label)
            for number, label in zip(pending, self.labels(pending), strict=True)
            if low <= number <= high or label in runner.suspects
        ]
        runner.suspects.update(label for _, label in suspected)
        for number, label in suspected:
            index, replicate, key = self._numbered(number)
            async with runner.alone:
                while runner.flying:  # noqa: ASYNC110 - what others have begun before
                    await asyncio.sleep(0.01)
                self.pending.remove(number)
                runner.flying[key], runner.sole = (self, number), label
                try:
                    await runner.ledger.flush()
                    await runner.calls.claim(key)
                    try:
                        result, commit = await self._case(key, self.cases[index], replicate)
                        if commit is not None:
                            await commit
                    finally:
                        runner.calls.release(key)
                except (BudgetExhausted, Draining, RunPaused) as stop:
                    self._stopped.append(stop)
                    return
                finally:
                    runner.sole = None
                    runner.flying.pop(key, None)
            for known in (runner.suspects, runner.killers):
                known.discard(label)
            self._add(index, replicate, result)

    @cached_property
    def label(self) -> str:
        """What the batch of an evaluation is noted by."""
        return f"{self.candidate.hash[:12]}/{self.phase}/{len(self.cases)}"

    def labels(self, numbers: Iterable[int]) -> list[str]:
        """What cases are noted by, one by one; costs less than their keys."""
        cases, replicates, known = self.cases, self.replicates, self.candidate.hash[:12]
        times = len(replicates)
        return [
            f"{known}/{replicates[number % times]}/{cases[number // times].id[:100]}"
            for number in numbers
        ]

    def _start_worker(self, group: asyncio.TaskGroup) -> None:
        self._starting = True
        self._workers += 1
        group.create_task(self._work(group))

    async def _work(self, group: asyncio.TaskGroup) -> None:
        """Run cases one after the other; before each a further worker is started, so that there
        are as many as find something to do. Where cases take no time that is one or two."""
        runner, places = self.runner, self.runner.in_flight
        self._starting = False
        while self.pending and not self._stopped and (places.free or not self._waiting):
            if not places.take():
                self._waiting = True
                runner.ledger.urge()
                await places.acquire()
                self._waiting = False
                if not self.pending:
                    places.release()
                    break
            if runner.suspects and runner.alone.locked():
                async with runner.alone:  # nothing begins beside a suspect
                    pass
                if not self.pending:
                    places.release()
                    break
            number = self.pending.popleft()
            index, replicate, key = self._numbered(number)
            runner.flying[key] = self, number
            if self.pending and not self._starting and self._workers < runner.concurrency:
                self._start_worker(group)
            commit: Commit | None = None
            if not runner.running.take():
                await runner.running.acquire()
            try:
                if not runner.calls.take(key):
                    await runner.calls.claim(key)  # where two want it at once the second replays
                try:
                    result, commit = await self._case(key, self.cases[index], replicate)
                finally:
                    if commit is None:
                        runner.calls.release(key)
            except (BudgetExhausted, Draining, RunPaused) as stop:
                self._stopped.append(stop)
                break
            finally:
                runner.running.release()
                if commit is None:
                    places.release()
                    runner.flying.pop(key, None)
            if commit is None:
                self._add(index, replicate, result)
                continue
            if commit not in self._committing:
                self._committing[commit] = []
                group.create_task(self._settle(commit))
            self._committing[commit].append((index, replicate, key, result))
            if places.free == runner.concurrency:  # half are taken
                runner.ledger.urge()
                await asyncio.sleep(0)  # let the ledger begin to write
        self._workers -= 1
        if not self._workers:
            runner.ledger.urge()

    async def _settle(self, commit: Commit) -> None:
        """Take in the results of cases whose rows are in `commit`, once it is done."""
        await commit.in_passing()
        results = self._let_go(commit)
        ledger, rows = self.runner.ledger, self.runner.ledger.rollouts
        if not self.runner.taped:  # an evaluation does not come back to a case
            if ledger.output_bytes > MOST_OUTPUTS:
                for _, _, key, result in results:
                    leave_output(result, rows[key])
            ledger.forget([key for _, _, key, _ in results], self.runner.fingerprints)
        for index, replicate, _, result in results:
            self._add(index, replicate, result)

    def _let_go(self, commit: Commit) -> list[tuple[int, int, str, CaseResult]]:
        """The cases that wait for `commit` make room for others."""
        results, flying = self._committing.pop(commit), self.runner.flying
        release = self.runner.calls.release
        for _, _, key, _ in results:
            flying.pop(key, None)
            release(key)
        self.runner.in_flight.release(count=len(results))
        return results

    async def _case(self, key: str, case: Case, replicate: int) -> tuple[CaseResult, Commit | None]:
        """Run and score what the ledger lacks; returns the commit of the last of its rows."""
        runner = self.runner
        row = runner.ledger.rollouts.get(key)
        live, said = row is None, None if row is None else row.output
        commits: list[Commit] = []
        if row is None:
            row = await runner.rollout(key, case, replicate, self)
            said = row.output
            if key in runner.large:
                runner.large.discard(key)
                kept = await runner.kept(said)
            else:
                kept = redact(said)
            row = replace(row, output=kept) if kept is not said else row
            commits.append(runner.ledger.put_rollout(row, checked=True))
            if runner.sole is not None:  # its evaluators may take the process down
                await commits[-1]
            told = row.failure
            if told is not None or runner.breaker.tripping:
                told = told or {}
                runner.told(
                    "target", told.get("reason"), told.get("status"), passing=PASSING in told
                )
        elif row.reused:
            commits.append(runner.ledger.put_rollout(replace(row, phase=self.phase)))
        outcomes: Sequence[Outcome] = ()
        usage = row.usage
        if row.failure is None:
            context = context_of(case, row, taped=runner.taped)
            if said is not row.output:  # what is kept lacks the secrets that evaluators see
                context = replace(context, output=said)
            if runner.has_media or not live:
                context = await with_media(runner.media, context)
            scored = []
            if runner.instant:  # without a task for each
                for evaluator in runner.evaluators:
                    scored.append(runner.score_inline(evaluator, key, context, commits))
            else:
                labels = runner.labels(self.candidate, self.phase)
                labels |= {CASE_ID: case.id, REPLICATE: replicate}
                with traced(labels, config=runner.calls_config):
                    scored = await _all(
                        [
                            runner.score(e, key, context, self.meter, commits)
                            for e in runner.evaluators
                        ]
                    )
            for found, cost, fresh in scored:
                outcomes = [*outcomes, *found] if outcomes else found
                usage = usage if cost is NOTHING else usage + cost
                live = live or fresh
        result = case_result(case, row, outcomes, usage, replayed=not live)
        return result, commits[-1] if commits else None  # they commit in order

    def _add(self, index: int, replicate: int, result: CaseResult) -> None:
        """Take in one replicate of the case at `index`."""
        if len(self.replicates) > 1:
            parts = self._parts.setdefault(index, {})
            parts[replicate] = result
            if len(parts) < len(self.replicates):
                return
            result = merged([parts[n] for n in self.replicates], self.runner.weights)
        if isinstance(self.cases, StreamedCases):  # which take too much memory to be held
            result = replace(result, case=self.cases.later(index))
        self._results[index] = result
        if self.on_case is not None:
            self.on_case(result)


async def _all(scoring: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; where one is refused, once the others have ended."""
    if len(scoring) == 1:
        return [await scoring[0]]  # without a task for it
    found = await asyncio.gather(*scoring, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if not isinstance(one, BaseException)]

"""Runs cases through a target and its evaluators: bounded, recorded, never twice."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from orcheo_agentensor.config import LiveCallbacks, RunConfig, with_prompts
from orcheo_agentensor.datasets import Case
from orcheo_agentensor.errors import BudgetExhausted
from orcheo_agentensor.evaluation.candidate import Candidate
from orcheo_agentensor.evaluation.concurrency import Share
from orcheo_agentensor.evaluation.executor import Draining, Executor, Pass
from orcheo_agentensor.evaluation.job import Limits
from orcheo_agentensor.evaluation.meter import Meter, Unmetered
from orcheo_agentensor.evaluation.replicates import CaseListener, Gathered
from orcheo_agentensor.evaluation.results import CaseResult
from orcheo_agentensor.evaluation.rows import (
    case_result,
    context_of,
    outcome_of,
    score_rows,
)
from orcheo_agentensor.evaluators import BoundEvaluator
from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.evaluators.result import Outcome
from orcheo_agentensor.json_values import canonical_json, content_hash
from orcheo_agentensor.targets import Target
from orcheo_agentensor.usage import NOTHING, Usage

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Ledger


T = TypeVar("T")

YIELD_EVERY = 500  # cases replayed in one go, before others get a turn


class Runner:
    """Executes rollouts for one run and scores them.

    Every rollout and every score is handed to the ledger as it returns, and a case counts as in
    flight until both are committed; at most `limits.concurrency` cases are in flight over all
    concurrent calls of `run`.
    """

    def __init__(
        self,
        *,
        target: Target,
        evaluators: Sequence[BoundEvaluator],
        ledger: Ledger,
        limits: Limits,
        config: RunConfig,
        process_slots: Share,
        callbacks: LiveCallbacks = (),
        meter: Meter | None = None,
        replicates: int = 1,
        taped: bool = False,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self.target = target
        self.evaluators = tuple(evaluators)
        self.weights = {evaluator.name: evaluator.weight for evaluator in evaluators}
        self.meter: Meter = meter or Unmetered()
        self.replicates = replicates
        self._ledger = ledger
        self._limits = limits
        self._config = config
        self._config_hash = content_hash(
            {k: v for k, v in config.to_json().items() if k not in ("prompts", "run_id")}
        )
        self._callbacks = callbacks
        self._in_flight = asyncio.Semaphore(limits.concurrency)
        self._executor = Executor(
            target=target,
            ledger=ledger,
            limits=limits,
            slots=process_slots,
            taped=taped,
            draining=draining,
        )
        self._running: dict[str, asyncio.Event] = {}

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
        await self._ledger.load(candidate.hash)
        shared = Pass(
            candidate=candidate,
            config=self._runnable_config(candidate),
            phase=phase,
            meter=meter or self.meter,
        )
        wanted = range(self.replicates) if replicates is None else replicates
        gathered = Gathered(len(cases), tuple(wanted), self.weights, on_case)
        key_of = self._keys(candidate)
        missing: list[tuple[int, int, str]] = []
        for index, case in enumerate(cases):
            for replicate in wanted:
                key = key_of(case, replicate)
                replayed = self._replay(key)
                if replayed is None:
                    missing.append((index, replicate, key))
                else:
                    gathered.add(index, replicate, replayed)
            if index % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
        pending = iter(missing)
        stopped: list[Exception] = []

        async def work() -> None:
            for index, replicate, key in pending:
                try:
                    result = await self._case(key, cases[index], replicate, shared)
                except (BudgetExhausted, Draining) as stop:
                    stopped.append(stop)
                else:
                    gathered.add(index, replicate, result)
                if stopped:
                    return

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._limits.concurrency, len(missing))):
                    group.create_task(work())
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        if stopped:
            raise stopped[0]
        return gathered.results()

    async def unrecorded(
        self,
        cases: Sequence[Case],
        candidate: Candidate,
        *,
        replicates: Sequence[int] | None = None,
    ) -> int:
        """How many of these rollouts the ledger lacks."""
        await self._ledger.load(candidate.hash)
        wanted = range(self.replicates) if replicates is None else replicates
        key_of = self._keys(candidate)
        return sum(self._ledger.rollout(key_of(case, n)) is None for case in cases for n in wanted)

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

    def _runnable_config(self, candidate: Candidate) -> dict[str, Any]:
        config: dict[str, Any] = dict(self._config.to_runnable(callbacks=self._callbacks))
        config.pop("run_id", None)  # one id cannot name many rollouts
        if candidate.prompts:
            config["configurable"] = with_prompts(
                config.get("configurable") or {}, candidate.prompts
            )
        return config

    def _replay(self, key: str) -> CaseResult | None:
        """The result of a case of which every row is committed in this run; None for others."""
        row = self._ledger.rollout(key)
        if row is None or row.reused or key in self._running:
            return None
        outcomes: list[Outcome] = []
        usage = row.usage
        if row.failure is None:
            for evaluator in self.evaluators:
                rows = self._ledger.score(key, evaluator.fingerprint)
                if rows is None or rows[0].reused:
                    return None
                outcomes += map(outcome_of, rows)
                usage = sum((score.usage for score in rows), usage)
        return case_result(row, outcomes, usage, replayed=True)

    async def _case(self, key: str, case: Case, replicate: int, shared: Pass) -> CaseResult:
        async with self._in_flight:
            while key in self._running:  # two callers want it at once: the second replays
                await self._running[key].wait()
            done = self._running[key] = asyncio.Event()
            try:
                return await self._recorded(key, case, replicate, shared)
            finally:
                del self._running[key]
                done.set()

    async def _recorded(self, key: str, case: Case, replicate: int, shared: Pass) -> CaseResult:
        """Run and score what the ledger lacks; returns when every row is committed."""
        row = self._ledger.rollout(key)
        live = row is None
        committed: list[asyncio.Future[None]] = []
        if row is None:
            row = await self._executor.rollout(key, case, replicate, shared)
            committed.append(self._ledger.put_rollout(row))
        elif row.reused:
            committed.append(self._ledger.put_rollout(replace(row, phase=shared.phase)))
        outcomes: list[Outcome] = []
        usage = row.usage
        if row.failure is None:
            context = context_of(case, row)
            scoring = [
                self._score(evaluator, key, context, shared.meter, committed)
                for evaluator in self.evaluators
            ]
            # A gather makes a task each, which a single instant evaluator need not pay for.
            scored = [await scoring[0]] if len(scoring) == 1 else await _all(scoring)
            for found, cost, fresh in scored:
                outcomes += found
                usage = usage + cost
                live = live or fresh
        if committed:
            await committed[-1]  # groups commit in order, so all others are committed too
        return case_result(row, outcomes, usage, replayed=not live)

    async def _score(
        self,
        evaluator: BoundEvaluator,
        key: str,
        context: EvaluatorContext,
        meter: Meter,
        committed: list[asyncio.Future[None]],
    ) -> tuple[Sequence[Outcome], Usage, bool]:
        """The outcomes, what they cost, and whether the evaluator was called for them."""
        rows = self._ledger.score(key, evaluator.fingerprint)
        if rows is None:
            outcomes, usage = await self._executor.outcomes(evaluator, key, context, meter)
            rows = score_rows(key, evaluator.fingerprint, outcomes, usage)
            committed.append(self._ledger.put_scores(key, evaluator.fingerprint, rows))
            return [outcome_of(row) for row in rows], usage, True
        spent = sum((row.usage for row in rows), NOTHING)
        if rows[0].reused:
            committed.append(self._ledger.put_scores(key, evaluator.fingerprint, rows))
        return [outcome_of(row) for row in rows], spent, False


async def _all(scoring: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; where one is refused, once the others have ended."""
    found = await asyncio.gather(*scoring, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if not isinstance(one, BaseException)]

"""Runs cases through a target and its evaluators: bounded, recorded, never twice."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import tenacity

from orcheo_agentensor.config import LiveCallbacks, RunConfig, with_prompts
from orcheo_agentensor.datasets import Case
from orcheo_agentensor.errors import BudgetExhausted
from orcheo_agentensor.evaluation.attempt import Attempt, execute
from orcheo_agentensor.evaluation.concurrency import Share
from orcheo_agentensor.evaluation.deadlines import TimeLimits
from orcheo_agentensor.evaluation.job import Limits
from orcheo_agentensor.evaluation.results import CaseResult
from orcheo_agentensor.evaluation.rows import (
    case_result,
    context_of,
    outcome_of,
    score_rows,
    storable,
)
from orcheo_agentensor.evaluators import BoundEvaluator
from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.evaluators.result import Outcome
from orcheo_agentensor.json_values import canonical_json, content_hash
from orcheo_agentensor.storage import RolloutRow
from orcheo_agentensor.targets import Target
from orcheo_agentensor.tensor import TextTensor
from orcheo_agentensor.usage import NOTHING, Usage

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Ledger


class Meter(Protocol):
    """What the runner asks before it spends; see `training.budget`."""

    def reserve_rollout(self) -> None:
        """Reserve one execution of the target; raises `BudgetExhausted`."""

    def spent(self, usage: Usage) -> None:
        """Settle what an execution or a scoring really took."""


class Unmetered:
    """No budget: an evaluation runs what it was asked to run."""

    def reserve_rollout(self) -> None:
        """Always granted."""

    def spent(self, usage: Usage) -> None:
        """Nothing to settle."""


YIELD_EVERY = 500  # cases replayed in one go, before others get a turn
FIRST_BACKOFF = 0.2  # seconds before the second attempt; doubles, with jitter, from there


class Draining(Exception):
    """A graceful stop was asked for; no further case is begun."""


@dataclass(frozen=True)
class Candidate:
    """A complete prompt set and its hash over names and texts, and places where they bind."""

    prompts: Mapping[str, TextTensor]
    hash: str

    @classmethod
    def of(cls, prompts: Mapping[str, TextTensor]) -> Candidate:
        """The candidate of these prompts."""
        return cls(
            prompts=dict(prompts),
            hash=content_hash(
                {
                    name: tensor.text if tensor.bind is None else [tensor.text, tensor.bind]
                    for name, tensor in prompts.items()
                }
            ),
        )


CaseListener = Callable[[CaseResult], None]


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
        taped: bool = False,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self.target = target
        self.evaluators = tuple(evaluators)
        self.weights = {evaluator.name: evaluator.weight for evaluator in evaluators}
        self.meter: Meter = meter or Unmetered()
        self._ledger = ledger
        self._limits = limits
        self._config = config
        self._config_hash = content_hash(
            {k: v for k, v in config.to_json().items() if k not in ("prompts", "run_id")}
        )
        self._callbacks = callbacks
        self._process_slots = process_slots
        self._in_flight = asyncio.Semaphore(limits.concurrency)
        self._time_limits = TimeLimits(limits.case_timeout)
        self._taped = taped
        self._draining = draining
        self._running: dict[str, asyncio.Event] = {}

    async def run(
        self,
        cases: Sequence[Case],
        candidate: Candidate,
        *,
        phase: str,
        on_case: CaseListener | None = None,
        meter: Meter | None = None,
    ) -> list[CaseResult]:
        """Score `cases` under `candidate`; results come back in the order of `cases`.

        `phase` names the purpose in the ledger; `on_case` hears of each case as it finishes.
        Raises `BudgetExhausted` or `Draining` after the cases already begun are finished.
        """
        await self._ledger.load(candidate.hash)
        config = self._runnable_config(candidate)
        key_of = self._keys(candidate)
        results: dict[int, CaseResult] = {}
        missing: list[tuple[int, str, Case]] = []
        for index, case in enumerate(cases):
            key = key_of(case)
            replayed = self._replay(key)
            if replayed is None:
                missing.append((index, key, case))
            else:
                results[index] = replayed
                if on_case is not None:
                    on_case(replayed)
            if index % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
        pending = iter(missing)
        stopped: list[Exception] = []

        async def work() -> None:
            for index, key, case in pending:
                try:
                    result = await self._case(
                        key, case, candidate, config, phase, meter or self.meter
                    )
                except (BudgetExhausted, Draining) as stop:
                    stopped.append(stop)
                if stopped:
                    return
                results[index] = result
                if on_case is not None:
                    on_case(result)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._limits.concurrency, len(missing))):
                    group.create_task(work())
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        if stopped:
            raise stopped[0]
        return [results[index] for index in range(len(cases))]

    async def unrecorded(self, cases: Sequence[Case], candidate: Candidate) -> int:
        """How many of these rollouts the ledger lacks."""
        await self._ledger.load(candidate.hash)
        key_of = self._keys(candidate)
        return sum(self._ledger.rollout(key_of(case)) is None for case in cases)

    def _keys(self, candidate: Candidate) -> Callable[[Case], str]:
        """The content keys of rollouts within their run; what they share is hashed once."""
        shared = hashlib.sha256(
            canonical_json([self.target.fingerprint, self._config_hash, candidate.hash]).encode()
        )

        def key_of(case: Case) -> str:
            digest = shared.copy()
            digest.update(case.content_hash.encode())
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

    async def _case(
        self,
        key: str,
        case: Case,
        candidate: Candidate,
        config: dict[str, Any],
        phase: str,
        meter: Meter,
    ) -> CaseResult:
        async with self._in_flight:
            while key in self._running:  # two callers want it at once: the second replays
                await self._running[key].wait()
            done = self._running[key] = asyncio.Event()
            try:
                return await self._recorded(key, case, candidate, config, phase, meter)
            finally:
                del self._running[key]
                done.set()

    async def _recorded(
        self,
        key: str,
        case: Case,
        candidate: Candidate,
        config: dict[str, Any],
        phase: str,
        meter: Meter,
    ) -> CaseResult:
        """Run and score what the ledger lacks; returns when every row is committed."""
        row = self._ledger.rollout(key)
        live = row is None
        committed: list[asyncio.Future[None]] = []
        if row is None:
            row = await self._rollout(key, case, candidate, config, phase, meter)
            committed.append(self._ledger.put_rollout(row))
        elif row.reused:
            committed.append(self._ledger.put_rollout(replace(row, phase=phase)))
        outcomes: list[Outcome] = []
        usage = row.usage
        if row.failure is None:
            context = context_of(case, row)
            scoring = [
                self._score(evaluator, key, context, committed) for evaluator in self.evaluators
            ]
            # A gather makes a task each, which a single instant evaluator need not pay for.
            scored = [await scoring[0]] if len(scoring) == 1 else await asyncio.gather(*scoring)
            for found, cost, fresh in scored:
                outcomes += found
                usage = usage + cost
                live = live or fresh
        if committed:
            await committed[-1]  # groups commit in order, so all others are committed too
        return case_result(row, outcomes, usage, replayed=not live)

    async def _rollout(
        self,
        key: str,
        case: Case,
        candidate: Candidate,
        config: dict[str, Any],
        phase: str,
        meter: Meter,
    ) -> RolloutRow:
        made = [await self._attempt(key, case.inputs, config, meter, first=True)]
        if made[0].transient and self._limits.retries:

            async def again() -> Attempt:
                try:
                    made.append(await self._attempt(key, case.inputs, config, meter))
                except BudgetExhausted:  # what the attempts so far came to is still recorded
                    return replace(made[-1], transient=False)
                return made[-1]

            await asyncio.sleep(FIRST_BACKOFF)
            await tenacity.AsyncRetrying(
                stop=tenacity.stop_after_attempt(self._limits.retries),
                wait=tenacity.wait_random_exponential(multiplier=2 * FIRST_BACKOFF, max=20.0),
                retry=tenacity.retry_if_result(lambda attempt: attempt.transient),
                retry_error_callback=lambda _state: None,
            )(again)
        attempt = made[-1]
        usage = sum((one.usage for one in made), NOTHING)
        self.meter.spent(usage)
        return RolloutRow(
            key=key,
            case_id=case.id,
            candidate_hash=candidate.hash,
            phase=phase,
            output=attempt.output,
            tape=attempt.tape,
            usage=usage,
            latency_ms=attempt.latency_ms,
            attempts=len(made),
            failure=None if attempt.failure is None else storable(attempt.failure),
        )

    async def _attempt(
        self, key: str, inputs: Any, config: dict[str, Any], meter: Meter, *, first: bool = False
    ) -> Attempt:
        async with self._process_slots:
            if first and self._draining():
                raise Draining
            meter.reserve_rollout()
            return await execute(
                self.target,
                inputs,
                config,
                rollout_id=key,
                limits=self._time_limits,
                taped=self._taped,
            )

    async def _score(
        self,
        evaluator: BoundEvaluator,
        key: str,
        context: EvaluatorContext,
        committed: list[asyncio.Future[None]],
    ) -> tuple[Sequence[Outcome], Usage, bool]:
        """The outcomes, what they cost, and whether the evaluator was called for them."""
        rows = self._ledger.score(key, evaluator.fingerprint)
        if rows is None:
            outcomes, usage = await evaluator.score(context, timeout=self._limits.case_timeout)
            self.meter.spent(usage)
            rows = score_rows(key, evaluator.fingerprint, outcomes, usage)
            committed.append(self._ledger.put_scores(key, evaluator.fingerprint, rows))
            return [outcome_of(row) for row in rows], usage, True
        spent = sum((row.usage for row in rows), NOTHING)
        if rows[0].reused:
            committed.append(self._ledger.put_scores(key, evaluator.fingerprint, rows))
        return [outcome_of(row) for row in rows], spent, False


__all__ = ["NOTHING", "Candidate", "Draining", "Meter", "Runner", "Unmetered"]

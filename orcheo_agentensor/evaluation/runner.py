"""Time limits for very many short things: as `asyncio.timeout`, but with one timer for all."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import tenacity

from orcheo_agentensor.config.model import with_prompts
from orcheo_agentensor.datasets import Case
from orcheo_agentensor.errors import (
    AgentensorError,
    BadInput,
    BudgetExhausted,
    PromptNotFound,
    TargetRefused,
    TargetUnavailable,
    TemplateError,
    is_transient,
    status_of,
)
from orcheo_agentensor.evaluation.results import (
    CaseListener,
    CaseResult,
    Gathered,
    case_result,
    context_of,
    outcome_of,
    score_rows,
    storable,
)
from orcheo_agentensor.evaluators import BoundEvaluator
from orcheo_agentensor.evaluators.binding import Scoring
from orcheo_agentensor.evaluators.context import EvaluatorContext, Outcome
from orcheo_agentensor.json_values import canonical_json, content_hash, private_copy
from orcheo_agentensor.prompts import Candidate
from orcheo_agentensor.runs.job import Limits
from orcheo_agentensor.runs.manager import ActiveRun, Draining
from orcheo_agentensor.storage import RolloutRow
from orcheo_agentensor.storage.records import CANCELLED
from orcheo_agentensor.tape import prompts_in, record_tape
from orcheo_agentensor.targets import ConnectedTarget, Target
from orcheo_agentensor.targets.output import to_json_output
from orcheo_agentensor.usage import NOTHING, ONE_ROLLOUT, CallGate, Usage, UsageRecorder

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Ledger


class TimeLimits:
    """Limits of one length. They begin in order, so they end in order, and one timer serves all.

    `asyncio.timeout` puts a timer on the loop's heap for each, which for a case that takes no time
    is a good part of its cost.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._running: dict[TimeLimit, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> TimeLimit:
        """A limit for what the current task does in its `with` block."""
        return TimeLimit(self)

    def add(self, limit: TimeLimit) -> None:
        """Watch over `limit` until `remove`."""
        self._running[limit] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(limit.ends, self._expire)

    def remove(self, limit: TimeLimit) -> None:
        """`limit` is over."""
        self._running.pop(limit, None)

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        for limit in [*self._running]:
            if limit.ends > loop.time():
                self._timer = loop.call_at(limit.ends, self._expire)
                return
            self.remove(limit)
            limit.expire()


class TimeLimit:
    """Cancels what takes too long; outside the `with` block that is a `TimeoutError`."""

    __slots__ = ("_before", "_limits", "_task", "ends", "expired")

    def __init__(self, limits: TimeLimits) -> None:
        self._limits = limits
        self.expired = False

    def __enter__(self) -> TimeLimit:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._before = task, task.cancelling()
        self.ends = asyncio.get_running_loop().time() + self._limits.seconds
        self._limits.add(self)
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._limits.remove(self)
        if not self.expired:
            return
        others = self._task.uncancel() > self._before  # somebody else cancels the task, too
        if not others and isinstance(error, asyncio.CancelledError):
            raise TimeoutError from error

    def expire(self) -> None:
        """The time is up."""
        self.expired = True
        self._task.cancel()


# A cap per process has to be process-wide state; it is kept per event loop, because a future
# belongs to one. A slot that falls free goes to the run that holds the fewest of those that wait,
# so a run with a few cases at once is not starved by one with many.


_slots: WeakKeyDictionary[asyncio.AbstractEventLoop, Slots] = WeakKeyDictionary()


class Slots:
    """At most `limit` holders at once."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: dict[Share, None] = {}  # in order of their last turn

    def share(self) -> Share:
        """A new run's part."""
        return Share(self)

    async def acquire(self, share: Share) -> None:
        """Take a slot for `share`, when its turn comes."""
        if self._free:  # then nobody waits
            self._free -= 1
            share.held += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        share.turns.append(turn)
        self._waiting.setdefault(share)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it had just come
                self.release(share)
            raise

    def release(self, share: Share) -> None:
        """Give a slot back, to whoever has the fewest."""
        share.held -= 1
        self._free += 1
        while self._free and self._waiting:
            poorest = min(self._waiting, key=lambda waiting: waiting.held)
            turn = poorest.turns.popleft()
            del self._waiting[poorest]
            if poorest.turns:
                self._waiting[poorest] = None
            if not turn.done():
                self._free -= 1
                poorest.held += 1
                turn.set_result(None)


class Share:
    """One run's part of the slots: `async with share` holds one of them."""

    def __init__(self, slots: Slots) -> None:
        self.held = 0
        self.turns: deque[asyncio.Future[None]] = deque()
        self._slots = slots

    async def __aenter__(self) -> None:
        await self._slots.acquire(self)

    async def __aexit__(self, *_: object) -> None:
        self._slots.release(self)


def process_slots(limit: int) -> Slots:
    """The running loop's slots; the first caller's `limit` decides how many there are."""
    loop = asyncio.get_running_loop()
    found = _slots.get(loop)
    if found is None:
        found = _slots[loop] = Slots(limit)
    return found


class Meter(Protocol):
    """What the runner asks before it spends; see `training.budget`."""

    @property
    def gate(self) -> CallGate | None:
        """What is asked before each model call; None where nobody needs to be."""

    def reserve_rollout(self) -> None:
        """Reserve one execution of the target; raises `BudgetExhausted`."""

    def spent(self, usage: Usage, *, refused: bool = False) -> None:
        """An execution or a scoring is over, and came to this; `refused` where it was refused a
        call."""


class Unmetered:
    """No budget: an evaluation runs what it was asked to run."""

    gate: CallGate | None = None

    def reserve_rollout(self) -> None:
        """Always granted."""

    def spent(self, usage: Usage, *, refused: bool = False) -> None:
        """Nothing to settle."""


FIRST_BACKOFF = 0.2  # seconds before the second attempt; doubles, with jitter, from there


class Attempted(Protocol):
    """What an attempt came to."""

    @property
    def transient(self) -> bool:
        """Whether another attempt is worth its price."""


Paid = TypeVar("Paid", bound=Attempted)


async def retried(attempt: Callable[[], Awaitable[Paid]], *, retries: int) -> Paid:
    """What the last of at most `1 + retries` attempts came to.

    An attempt that the budget refuses leaves it at the one before; raises `BudgetExhausted` only
    where the first is refused.
    """
    last = await attempt()
    if not (last.transient and retries):
        return last

    async def again() -> bool:
        nonlocal last
        try:
            last = await attempt()
        except BudgetExhausted:
            return False
        return last.transient

    def asked() -> float:
        """The seconds that a server asks to wait for."""
        return float(getattr(last, "retry_after", 0.0))

    own = tenacity.wait_random_exponential(multiplier=2 * FIRST_BACKOFF, max=20.0)
    await asyncio.sleep(max(FIRST_BACKOFF, asked()))
    await tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(retries),
        wait=lambda state: max(own(state), asked()),
        retry=tenacity.retry_if_result(bool),
        retry_error_callback=lambda _state: None,
    )(again)
    return last


MOST_RETRY_AFTER = 60.0  # seconds; whoever asks for longer is asked again before


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution: its output or failure. A `transient` failure is worth another attempt, in
    `retry_after` seconds where a server has said so; `lost` says that the connection was lost."""

    output: Any
    tape: dict[str, Any] | None
    failure: dict[str, Any] | None
    transient: bool
    latency_ms: float
    retry_after: float = 0.0
    lost: bool = False


async def execute(
    target: Target,
    inputs: Any,
    config: dict[str, Any],
    *,
    rollout_id: str,
    limits: TimeLimits,
    taped: bool,
    recorder: UsageRecorder,
) -> Attempt:
    """Run `target` once, on a copy of `inputs` that it may change; whatever goes wrong in it comes
    back as the attempt's failure.

    `recorder` knows afterwards, whatever happens, what its model calls took. Raises what is the
    job's trouble and not the case's, because every other case would fail in the same way:
    `PromptNotFound`, `TemplateError`, `TargetRefused`, `TargetUnavailable`. Raises
    `BudgetExhausted` where a model call was refused, even if the target went on without it.
    """
    inputs = private_copy(inputs)
    output, tape, failure, transient = None, None, None, False
    after, lost = 0.0, False
    with recorder:
        started = time.perf_counter()
        try:
            with limits.begin() as limit:
                if taped:
                    with record_tape(target.edges, prompts=prompts_in(config)) as recorded:
                        try:
                            raw = await target.run(inputs, config, rollout_id=rollout_id)  # type: ignore[arg-type]
                        finally:  # a failure teaches those who had a part in it
                            tape = recorded.to_json()
                else:
                    raw = await target.run(inputs, config, rollout_id=rollout_id)  # type: ignore[arg-type]
            latency = time.perf_counter() - started
            output = to_json_output(raw)
        except TimeoutError as error:
            latency = time.perf_counter() - started
            transient = True
            late = limit.expired
            reason = f"no answer within {limits.seconds:g} s" if late else _reason(error)
            failure = {"kind": "timeout" if late else "exception", "reason": reason}
        except asyncio.CancelledError as error:
            latency = time.perf_counter() - started
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            failure = {"kind": "exception", "reason": _reason(error)}  # the target's own doing
        except (PromptNotFound, TemplateError, TargetRefused, TargetUnavailable):
            raise
        except BadInput as error:
            latency = time.perf_counter() - started
            kind = "not_json" if "output" in error.message else "exception"
            failure = {"kind": kind, "reason": error.message}
        except Exception as error:  # noqa: BLE001 - any trouble of the target is its failure
            latency = time.perf_counter() - started
            transient = is_transient(error)
            lost = transient and status_of(error) is None
            after = retry_after(error)
            failure = {"kind": "exception", "reason": _reason(error)}
    if recorder.refused is not None:
        raise recorder.refused
    return Attempt(
        output=output,
        tape=tape,
        failure=failure,
        transient=transient,
        latency_ms=latency * 1000.0,
        retry_after=after,
        lost=lost,
    )


def retry_after(error: BaseException) -> float:
    """The seconds that a server asks to wait for: `Retry-After`, in seconds or as a date.

    At most `MOST_RETRY_AFTER`; 0.0 where it asks for nothing.
    """
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    asked = str(headers.get("retry-after") or "").strip()
    if not asked:
        return 0.0
    try:
        seconds = float(asked)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(asked).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(seconds, 0.0), MOST_RETRY_AFTER) if math.isfinite(seconds) else 0.0


def _reason(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


BROKEN_OFF = "broken_off"
"""The kind of call under which the ledger keeps what work has cost that could not go on."""

OUTAGES = 3  # of a remote server that one case may meet before it is to blame itself


@dataclass(frozen=True, slots=True)
class Pass:
    """What all rollouts of one call of `run` have in common."""

    candidate: Candidate
    config: dict[str, Any]
    phase: str
    meter: Meter


class Executor:
    """Calls the target and the evaluators of one run, within its limits and its budget.

    What broke off or was cancelled has no row; what it took is recorded all the same.
    """

    def __init__(
        self,
        *,
        target: Target,
        ledger: Ledger,
        limits: Limits,
        slots: Share,
        taped: bool,
        draining: Callable[[], bool],
    ) -> None:
        self.target = target
        self._elsewhere = target if isinstance(target, ConnectedTarget) else None
        self._ledger = ledger
        self._limits = limits
        self._time_limits = TimeLimits(limits.case_timeout)
        self._slots = slots
        self._taped = taped
        self._draining = draining

    async def rollout(self, key: str, case: Case, replicate: int, shared: Pass) -> RolloutRow:
        """Run the target on a case, as often as it takes. Raises `BudgetExhausted`, `Draining`."""
        meter, made = shared.meter, [0]
        spent = NOTHING

        async def attempt() -> Attempt:
            nonlocal spent
            recorder = UsageRecorder(meter.gate)
            async with self._slots:
                if not made[0] and self._draining():
                    raise Draining
                meter.reserve_rollout()
                made[0] += 1
                try:
                    return await execute(
                        self.target,
                        case.inputs,
                        shared.config,
                        rollout_id=key,
                        limits=self._time_limits,
                        taped=self._taped,
                        recorder=recorder,
                    )
                finally:
                    usage = recorder.total + ONE_ROLLOUT
                    spent = spent + usage
                    meter.spent(usage, refused=recorder.refused is not None)

        try:
            last = await retried(attempt, retries=self._limits.retries)
            if last.transient and self._elsewhere is not None:
                last = await _outlasting(self._elsewhere, attempt, last)
        except BaseException as error:
            self._note_lost(key, spent, error)
            raise
        return RolloutRow(
            key=key,
            case_id=case.id,
            candidate_hash=shared.candidate.hash,
            replicate=replicate,
            phase=shared.phase,
            output=last.output,
            tape=last.tape,
            usage=spent,
            latency_ms=last.latency_ms,
            attempts=made[0],
            failure=None if last.failure is None else storable(last.failure),
        )

    async def outcomes(
        self, evaluator: BoundEvaluator, key: str, context: EvaluatorContext, meter: Meter
    ) -> tuple[Sequence[Outcome], Usage]:
        """What an evaluator says about a rollout, and what that cost."""
        limit, retries = self._limits.case_timeout, self._limits.retries
        if evaluator.inline:
            found = await evaluator.attempt(context, timeout=limit, recorder=None)
            return found.outcomes, NOTHING
        spent = NOTHING

        async def attempt() -> Scoring:
            nonlocal spent
            recorder = UsageRecorder(meter.gate)
            try:
                return await evaluator.attempt(context, timeout=limit, recorder=recorder)
            finally:
                spent = spent + recorder.total
                meter.spent(recorder.total)

        try:
            last = await retried(attempt, retries=retries)
        except BaseException as error:
            self._note_lost(key, spent, error)
            raise
        return last.outcomes, spent

    def _note_lost(self, key: str, spent: Usage, error: BaseException) -> None:
        """What broke off has no row of its own; what it took is recorded all the same."""
        if spent != NOTHING:
            kind = BROKEN_OFF if isinstance(error, Exception) else CANCELLED
            with contextlib.suppress(AgentensorError):  # a ledger that is gone tells the others
                self._ledger.put_call(f"{key}:{uuid.uuid4().hex}", kind, {}, spent)


async def _outlasting(
    target: ConnectedTarget, attempt: Callable[[], Awaitable[Attempt]], last: Attempt
) -> Attempt:
    """What further attempts come to, where `target` was away during the `last` one."""
    for _ in range(OUTAGES):
        if not last.transient or not await target.came_back(lost=last.lost):
            break
        try:
            last = await attempt()
        except BudgetExhausted:  # what the attempts so far came to is still recorded
            break
    return last


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
        run: ActiveRun[Any],
        *,
        meter: Meter | None = None,
        taped: bool = False,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self.target = run.target
        self.evaluators = run.evaluators
        self.weights = run.weights
        self.meter: Meter = meter or Unmetered()
        self.replicates = run.job.replicates
        self._ledger = run.ledger
        self._limits = run.job.limits
        self._config = run.config
        self._config_hash = content_hash(
            {k: v for k, v in run.config.to_json().items() if k not in ("prompts", "run_id")}
        )
        self._callbacks = run.callbacks
        self._in_flight = asyncio.Semaphore(self._limits.concurrency)
        self._executor = Executor(
            target=run.target,
            ledger=run.ledger,
            limits=self._limits,
            slots=process_slots(run.settings.max_concurrency).share(),
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

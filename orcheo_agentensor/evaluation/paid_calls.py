"""Calls that cost: within budget and time, repeated where that helps, labelled, and recorded."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
import uuid
from collections.abc import (
    Awaitable,
    Callable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from orcheo_agentensor.errors import (
    AgentensorError,
    BudgetExhausted,
    RunFailed,
    RunPaused,
    causes,
    client_retries,
    describe,
    is_transient,
    status_of,
)
from orcheo_agentensor.evaluation.limits import (
    LeftBehind,
    OutOfTime,
    TimeLimits,
)
from orcheo_agentensor.evaluators.contained import Contained
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.runs.job import Limits
from orcheo_agentensor.seeds import CASE_ID, REPLICATE, RUN_ID, SEED
from orcheo_agentensor.storage.records import CANCELLED
from orcheo_agentensor.targets import ConnectedTarget
from orcheo_agentensor.upstream import var_child_runnable_config
from orcheo_agentensor.usage import NOTHING, CallGate, Usage, UsageRecorder

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from orcheo_agentensor.storage import Ledger


CANDIDATE = "agentensor_candidate"
PHASE = "agentensor_phase"
LABELS = (RUN_ID, CASE_ID, CANDIDATE, PHASE, REPLICATE, SEED)
"""The keys of metadata that lead from a call to its case."""


def labelled(config: Mapping[str, Any], labels: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with `labels` in its metadata, and as "key:value" among its tags."""
    metadata = {**(config.get("metadata") or {}), **labels}
    tags = [*(config.get("tags") or ()), *[f"{key}:{value}" for key, value in labels.items()]]
    return {**config, "metadata": metadata, "tags": tags}


@contextlib.contextmanager
def traced(labels: Mapping[str, Any], *, config: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Label the traces of the LangChain calls inside: of judges, proposers and critics.

    They run with `config`, or the one around where it is left out. With `config` each block has a
    thread of its own, for what is a graph with a checkpointer.
    """
    if config is not None:
        own = {**config["configurable"], "thread_id": uuid.uuid4().hex}
        config = {**config, "configurable": own}
    config = labelled(var_child_runnable_config.get() or {} if config is None else config, labels)
    token = var_child_runnable_config.set(cast("RunnableConfig", config))
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


class Meter(CallGate, Protocol):
    """What is asked before a call is made, and told what it came to; see `training.budget`."""

    @property
    def begun(self) -> int:
        """Executions of the target that have begun, in all processes of the run."""

    def reserve_rollout(self, *, again: bool = False) -> None:
        """Reserve one execution of the target, the first for its case or one `again` after a
        passing trouble; raises `BudgetExhausted`."""

    def return_rollout(self, *, again: bool = False) -> None:
        """Give a reserved execution back, because a server refused it."""

    def spent(self, usage: Usage, *, refused: bool = False, asked: bool = False) -> None:
        """An attempt is over, and came to this; `refused` where a model call of it was refused,
        `asked` where it asked a proposer or a critic."""


class AskMeter(Meter, Protocol):
    """What is asked before a proposer or critic is asked as well."""

    def require_call(self) -> None:
        """Raise `BudgetExhausted` where nothing is left for them."""


@dataclass(slots=True)
class Attempt:
    """What one attempt at a call came to: a `value`, or the `error` that it ended with.

    `transient` says that another attempt is worth its price, in `retry_after` seconds where a
    server has said so, `lost` that the connection was lost, and `retried` how often a client has
    tried again by itself.
    """

    value: Any = None
    error: BaseException | None = None
    latency_ms: float = 0.0
    transient: bool = False
    retry_after: float = 0.0
    lost: bool = False
    retried: int = 0
    tape: dict[str, Any] | None = None
    empty_replies: int = 0
    cut_replies: int = 0
    large: bool = False


MOST_RETRY_AFTER = 60.0  # seconds; for a server that asks for longer the run is paused


def retry_after(error: BaseException) -> float:
    """The seconds that a server asks to wait for: `Retry-After`, in seconds or as a date.

    0.0 where it asks for nothing.
    """
    found = (getattr(getattr(one, "response", None), "headers", None) for one in causes(error))
    headers: Any = next(filter(None, found), {})
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
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


class Attempted(Protocol):
    """What an attempt came to, as far as another one depends on it."""

    transient: bool
    retried: int


T = TypeVar("T")
MadeT = TypeVar("MadeT", bound=Attempted)

BROKEN_OFF = "broken_off"
"""The kind of call under which the ledger keeps what work has cost that could not go on."""

FIRST_BACKOFF = 0.2  # seconds before the second attempt; doubles, with jitter, from there
LONGEST_BACKOFF = 20.0
OUTAGES = 3  # of a remote server that one case may meet before it is to blame itself


class PaidCalls:
    """Makes the calls of one run that cost something: to its target, judges, proposer and critic.

    Each is metered, tried again after a passing trouble, and recorded; where it breaks off or is
    cancelled it has no row of its own, and what it took is recorded all the same.
    """

    def __init__(self, ledger: Ledger, limits: Limits) -> None:
        self._ledger = ledger
        self._retries = limits.retries
        self._time_limits = TimeLimits(limits.case_timeout)
        self._claimed: dict[str, asyncio.Event | None] = {}

    def begin_again(self) -> None:
        """Count time on a loop of another process."""
        self._time_limits = TimeLimits(self._time_limits.seconds)

    def is_claimed(self, key: str) -> bool:
        """Whether the call under `key` is being made."""
        return key in self._claimed

    def take(self, key: str) -> bool:
        """As `claim`, where nobody makes the call under `key`; False where somebody does."""
        if key in self._claimed:
            return False
        self._claimed[key] = None
        return True

    async def claim(self, key: str) -> None:
        """Wait until nobody makes the call under `key`, and keep others waiting until `release`."""
        while key in self._claimed:
            waiting = self._claimed[key] = self._claimed[key] or asyncio.Event()
            await waiting.wait()
        self._claimed[key] = None

    def release(self, key: str) -> None:
        """Let go of a claimed key."""
        waiting = self._claimed.pop(key)
        if waiting is not None:
            waiting.set()

    async def attempted(self, call: Awaitable[Any], recorder: UsageRecorder) -> Attempt:
        """Make a call within its time; whatever goes wrong in it comes back as the attempt's error.

        `recorder` knows afterwards, whatever happens, what its model calls took. Raises
        `BudgetExhausted` where a model call was refused, even if the call went on without it.
        """
        task, limits = asyncio.current_task(), self._time_limits
        assert task is not None
        with recorder:
            started = time.perf_counter()
            contained = Contained(call)
            try:
                limits.begin(task)
                try:
                    value = await contained
                except BaseException as error:
                    limits.end(task, error)
                    raise
                limits.end(task)
                found = Attempt(value, latency_ms=(time.perf_counter() - started) * 1000.0)
            except (Exception, asyncio.CancelledError) as error:
                latency_ms = (time.perf_counter() - started) * 1000.0
                if isinstance(error, asyncio.CancelledError) and task.cancelling():
                    raise
                timeout = any(isinstance(cause, TimeoutError) for cause in causes(error))
                transient = timeout or is_transient(error)
                if contained.abandoned:
                    error = LeftBehind(
                        f"{error}, and it ignored its cancellation: it was left behind"
                    )
                    transient = False  # another attempt would be left behind as well
                found = Attempt(
                    error=error,  # a cancellation that nobody asked for is the call's own doing
                    latency_ms=latency_ms,
                    transient=transient,
                    retry_after=retry_after(error),
                    lost=transient and not timeout and status_of(error) is None,
                    retried=client_retries(error),
                )
        if recorder.refused is not None:
            raise recorder.refused
        return found

    async def make(
        self,
        attempt: Callable[[UsageRecorder], Awaitable[MadeT]],
        key: str,
        *,
        meter: Meter | None,
        elsewhere: ConnectedTarget | None = None,
        asked: bool = False,
        broken: str = BROKEN_OFF,
    ) -> tuple[MadeT, Usage]:
        """What the last of at most `1 + retries` attempts came to, and what all of them took.

        What a client has tried again by itself counts as attempts. Further ones are made where the
        server of a target `elsewhere` was away. An attempt that
        the budget refuses leaves it at the one before; raises `BudgetExhausted` only where the
        first is refused. `broken` is the kind under which the ledger keeps what was broken off.
        """
        spent, last, attempts = NOTHING, None, 0
        try:
            while last is None or await self._again(last, attempts, elsewhere):
                recorder = UsageRecorder(meter)
                try:
                    last = await attempt(recorder)
                except BudgetExhausted:
                    if last is None:
                        raise
                    break  # what the attempts so far came to is still recorded
                finally:
                    attempts += 1
                    spent = recorder.total if spent is NOTHING else spent + recorder.total
                    if meter is not None:
                        refused = recorder.refused is not None
                        meter.spent(recorder.total, refused=refused, asked=asked)
                if not last.transient:
                    break
                attempts += last.retried
        except BaseException as error:
            self._note(key, broken if isinstance(error, Exception) else CANCELLED, spent)
            raise
        return last, spent

    async def _again(
        self, last: Attempted, attempts: int, elsewhere: ConnectedTarget | None
    ) -> bool:
        """Whether another attempt is made after a passing trouble, once it is time for it."""
        wait = getattr(last, "retry_after", 0.0)
        if wait > MOST_RETRY_AFTER and attempts <= self._retries:
            raise RunPaused(
                f"the run was paused: a server asks to be left alone for {wait:.0f} s (Retry-After)"
            )
        if attempts <= self._retries:
            longest = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** (attempts - 1))
            pause = FIRST_BACKOFF if attempts == 1 else random.uniform(0.0, longest)
            await asyncio.sleep(max(pause, wait))
            return True
        if elsewhere is None or attempts > self._retries + OUTAGES:
            return False
        return await elsewhere.came_back(lost=getattr(last, "lost", False))

    def _note(self, key: str, kind: str, spent: Usage) -> None:
        """Record what a call without an answer has cost."""
        if spent != NOTHING:
            with contextlib.suppress(AgentensorError):  # a ledger that is gone tells the others
                self._ledger.put_call(f"{key}:{uuid.uuid4().hex}", kind, {"failed": True}, spent)

    async def answer(
        self,
        key: str,
        kind: str,
        ask: Callable[[], Awaitable[dict[str, Any]]],
        *,
        meter: AskMeter,
        who: str,
    ) -> dict[str, Any]:
        """The answer of a proposer or critic that is recorded under `key`, or a fresh one, which
        is committed before it is used.

        Raises `BudgetExhausted` where the budget refuses it, and `RunFailed` where `who` breaks.
        """

        async def made() -> tuple[Mapping[str, Any], Usage]:
            async def attempt(recorder: UsageRecorder) -> Attempt:
                meter.require_call()
                return await self.attempted(ask(), recorder)

            found, usage = await self.make(attempt, key, meter=meter, asked=True, broken=kind)
            if found.error is not None:
                self._note(key, kind, usage)
                if isinstance(found.error, BudgetExhausted):
                    raise found.error
                raise RunFailed(_trouble(who, found.error)) from found.error
            return found.value, usage

        return await self._once(key, kind, made)

    async def part(
        self,
        key: str,
        kind: str,
        ask: Callable[[], Awaitable[Mapping[str, Any]]],
        *,
        meter: AskMeter,
    ) -> Mapping[str, Any]:
        """As `answer`, for one of the calls that an answer is made of.

        What breaks it is raised as it is: whoever makes the whole answer sees to that, and to
        another attempt.
        """

        async def made() -> tuple[Mapping[str, Any], Usage]:
            meter.require_call()
            recorder = UsageRecorder(meter)
            try:
                with recorder:
                    given = await ask()
            except BaseException as error:
                self._note(key, kind if isinstance(error, Exception) else CANCELLED, recorder.total)
                raise
            finally:
                meter.spent(recorder.total, refused=recorder.refused is not None, asked=True)
            return given, recorder.total

        return await self._once(key, kind, made)

    async def _once(
        self, key: str, kind: str, made: Callable[[], Awaitable[tuple[Mapping[str, Any], Usage]]]
    ) -> dict[str, Any]:
        """The answer recorded under `key`, or the one made now, committed before it is used."""
        await self.claim(key)
        try:
            known = await self._ledger.call(key)
            if known is not None:
                return known
            value, usage = await made()
            answer: dict[str, Any] = redact(dict(value), names=False)
            await self._ledger.put_call(key, kind, answer, usage)
            return answer
        finally:
            self.release(key)


def _trouble(who: str, error: BaseException) -> str:
    if isinstance(error, OutOfTime):
        return f"the {who} gave {error}; resume the run to ask again"
    if isinstance(error, asyncio.CancelledError):
        return f"the {who} was cancelled; mend it and resume the run"
    return f"the {who} failed: {describe(error)}; mend it and resume the run"

"""How long a call may take, and how many may run at once in a run and in the process."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections import deque
from contextvars import Context
from typing import Any
from weakref import WeakKeyDictionary

from orcheo_agentensor.errors import RunPaused


class OutOfTime(TimeoutError):
    """The call took longer than its time limit."""


class LeftBehind(OutOfTime):
    """The call took longer than its time limit, and went on although it was cancelled."""


MOST_LOCKED_OUT = 3
"""Refusals in a row (a wrong key, an unknown model) after which a run is paused."""
MOST_FAILURES = 10
"""Other failures in passing in a row, of one kind, after which a run is paused, or as many as it
makes calls at once where that is more."""


class Breaker:
    """Pauses a run whose calls fail one after the other in the same way, whoever is called.

    A failure is one that all attempts have ended with. Raises `RunPaused`.
    """

    def __init__(self, concurrency: int) -> None:
        self._locked_out = min(MOST_LOCKED_OUT, concurrency + 1)
        self._most = max(MOST_FAILURES, concurrency)
        self._failed: dict[str, tuple[str, int]] = {}

    @property
    def tripping(self) -> bool:
        """Whether anybody's last call has failed."""
        return bool(self._failed)

    def ended(self, who: str, kind: str | None, reason: str = "", *, locked_out: bool) -> None:
        """A call of `who` has ended, with a failure of this `kind` if one is given."""
        if kind is None:
            if self._failed:
                self._failed.pop(who, None)
            return
        last, times = self._failed.get(who, (kind, 0))
        times = times + 1 if last == kind else 1
        self._failed[who] = kind, times
        if times >= (self._locked_out if locked_out else self._most):
            what = reason.partition("\n")[0]
            raise RunPaused(
                f"the run was paused: {times} calls of the {who} in a row failed with {what}"
            )


class TimeLimits:
    """Time limits of one length: from `begin` to `end`, what a task does is cancelled when its time
    is up, and `end` makes an `OutOfTime` of that.

    Limits of one length begin in order, so they end in order, and one timer serves all.
    `asyncio.timeout` puts a timer on the loop's heap for each, which for a case that takes no time
    is a good part of its cost.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._running: dict[asyncio.Task[Any], tuple[float, int]] = {}
        self._expired: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, task: asyncio.Task[Any]) -> None:
        """Begin to count the time of `task`, which is the current one."""
        ends = time.monotonic() + self.seconds
        self._running[task] = ends, task.cancelling()
        if self._timer is None:
            self._start_timer(task, self.seconds)

    def end(self, task: asyncio.Task[Any], error: BaseException | None = None) -> None:
        """Stop counting; raises `OutOfTime` where the `error` that it ended with comes of that."""
        _ends, cancelling = self._running.pop(task)
        if not self._expired or task not in self._expired:
            return
        self._expired.remove(task)
        others = task.uncancel() > cancelling  # the task is cancelled from outside, too
        if not others and isinstance(error, asyncio.CancelledError):
            raise OutOfTime(f"no answer within {self.seconds:g} s") from error

    def _expire(self) -> None:
        self._timer = None
        for task, (ends, _) in self._running.items():
            if task in self._expired:
                continue
            if (left := ends - time.monotonic()) > 0:
                self._start_timer(task, left)
                return
            self._expired.add(task)
            task.cancel()

    def _start_timer(self, task: asyncio.Task[Any], seconds: float) -> None:
        # In an empty context: the timer outlives the run, and would keep all that ours leads to.
        loop = task.get_loop()
        self._timer = loop.call_later(seconds, self._expire, context=Context())


class Slots:
    """At most `limit` holders at once; `free` slots are left.

    A slot that falls free goes to the waiting share that holds the fewest, so that a run with a few
    cases at once is not starved by one with many.
    """

    def __init__(self, limit: int) -> None:
        self.free = limit
        self._waiting: dict[Share, None] = {}  # in order of their last turn
        self._own = Share()

    def take(self, share: Share | None = None) -> bool:
        """Take a slot for `share` if one is free; then nobody waits."""
        if not self.free:
            return False
        self.free -= 1
        (share or self._own).held += 1
        return True

    async def acquire(self, share: Share | None = None) -> None:
        """Take a slot for `share`, when its turn comes."""
        share = share or self._own
        if self.take(share):
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

    def release(self, share: Share | None = None, *, count: int = 1) -> None:
        """Release `count` slots, each to the waiting share that holds the fewest."""
        (share or self._own).held -= count
        self.free += count
        while self._waiting and self.free:
            poorest = min(self._waiting, key=lambda waiting: waiting.held)
            turn = poorest.turns.popleft()
            del self._waiting[poorest]
            if poorest.turns:
                self._waiting[poorest] = None
            if not turn.done():
                self.free -= 1
                poorest.held += 1
                turn.set_result(None)


class Share:
    """One run's part of slots that several runs take."""

    def __init__(self) -> None:
        self.held = 0
        self.turns: deque[asyncio.Future[None]] = deque()


THREADS_PER_ROLLOUT = 8
"""Most threads that a rollout may block at once; a pool makes them only as they are needed."""

_slots: WeakKeyDictionary[asyncio.AbstractEventLoop, Slots] = WeakKeyDictionary()


def process_slots(limit: int) -> Slots:
    """The slots of the running loop, to which their futures belong; the `limit` of its first run
    decides how many there are.

    That many rollouts may block a thread each, and more where a step waits for its own steps, as a
    sync `@entrypoint` does for its tasks. LangGraph takes these threads from the loop's default
    executor; one that has fewer is replaced.
    """
    loop = asyncio.get_running_loop()
    found = _slots.get(loop)
    if found is None:
        found = _slots[loop] = Slots(limit)
        threads = limit * THREADS_PER_ROLLOUT
        there = getattr(loop, "_default_executor", None)  # nothing public tells
        if getattr(there, "_max_workers", 0) < threads:
            name = "agentensor-rollout"
            # Looked up now: TruLens puts a class of its own there, and the loop takes no other.
            executor = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix=name)
            loop.set_default_executor(executor)
    return found

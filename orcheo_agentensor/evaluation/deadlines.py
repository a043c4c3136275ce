"""Time limits for very many short things: as `asyncio.timeout`, but with one timer for all."""

from __future__ import annotations

import asyncio
from types import TracebackType


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

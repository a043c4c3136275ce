"""Users' code, kept from taking the run along: code that exits, and code that ignores its end."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import CoroutineType
from typing import Any, Generic, TypeVar

from orcheo_agentensor.errors import ExitAttempted

T = TypeVar("T")

GRACE = 5.0
"""Seconds that cancelled code has to end, before it is left behind."""

_left_behind: list[Any] = []
"""Calls that were left behind. They are kept: collected, they would be told to end once more, and
say aloud that they do not."""

_inside: ContextVar[bool] = ContextVar("agentensor_contained", default=False)


def left_behind() -> int:
    """How many calls this process has left behind: they may still run."""
    return len(_left_behind)


class Contained(Generic[T]):
    """A call of users' code, to be awaited once.

    What would end the process (`SystemExit`, `KeyboardInterrupt`, any other `BaseException`) is
    raised as an `ExitAttempted`. A call that goes on `GRACE` seconds after it was cancelled is left
    behind, and counts as cancelled; `abandoned` then says so. The tasks that the call makes are
    contained as well: one that raises `SystemExit` would end the whole loop. So is what it runs in
    the threads of an executor: a `GeneratorExit` out of one would close every coroutine that waits
    for it, the run's own included.
    """

    def __init__(self, call: Awaitable[T], factory: _Factory | None = None) -> None:
        self.abandoned = False
        self._call = call
        self._factory = factory
        self._timer: asyncio.TimerHandle | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        token = None if _inside.get() else _inside.set(True)
        call: Any = self._call
        steps = call if type(call) is CoroutineType else call.__await__()
        error: BaseException | None = None
        loop = asyncio.get_running_loop()
        factory = self._factory
        if factory is not None and factory.calls:  # it stands in the loop
            factory.calls += 1
        else:
            factory = _guard(loop)
        try:
            while True:
                try:
                    waited = steps.send(None) if error is None else steps.throw(error)
                except StopIteration as done:
                    return done.value  # type: ignore[no-any-return]
                except (Exception, asyncio.CancelledError):
                    raise
                except BaseException as exit:
                    raise ExitAttempted(f"{type(exit).__name__} was raised") from exit
                error = None
                try:
                    yield waited
                except GeneratorExit:
                    steps.close()
                    raise
                except asyncio.CancelledError as cancelled:
                    if self.abandoned:
                        self._leave(steps)
                        raise
                    if self._timer is None:
                        task = asyncio.current_task()
                        self._timer = loop.call_later(GRACE, self._give_up, task)
                    error = cancelled
                except BaseException as thrown:  # noqa: BLE001 - it is for the call
                    error = thrown
        finally:
            if self._timer is not None:
                self._timer.cancel()
            factory.calls -= 1
            if not factory.calls:
                _unguard(loop, factory)
            if token is not None:
                _inside.reset(token)

    def _give_up(self, task: asyncio.Task[Any] | None) -> None:
        if task is not None and not task.cancelling():
            self._timer = None  # a time limit of the call's own, which has gone on after it
            return
        self.abandoned = True
        if task is not None:
            task.cancel()

    def _leave(self, steps: Any) -> None:
        """Never go on with the call."""
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()  # our own; whoever cancelled it before counts theirs
        _left_behind.append((self._call, steps))


class _Factory:
    """Makes the tasks of a loop, and hands work to its executors: those of contained calls are
    contained as well. It stands in the loop while there are such calls."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.before: Any = loop.get_task_factory()
        self.calls = 0
        self._run_in_executor = loop.run_in_executor

    def __call__(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        make = self.before or _task
        if not (_inside.get() and (type(coro) is CoroutineType or asyncio.iscoroutine(coro))):
            return make(loop, coro, **options)
        # Of a native coroutine: calls of a server within itself wait for ever on tasks of others.
        task = make(loop, _contained(Contained(coro, self)), **options)
        if type(coro) is CoroutineType:
            task.add_done_callback(partial(_close_unbegun, coro))
        return task

    def run_in_executor(
        self, executor: Any, function: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """As the loop's own."""
        if _inside.get():
            return self._run_in_executor(executor, _returned, function, *args)
        return self._run_in_executor(executor, function, *args)


def _task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    return asyncio.Task(coro, loop=loop, **options)


async def _contained(call: Contained[T]) -> T:
    return await call


def _close_unbegun(call: CoroutineType[Any, Any, Any], _: asyncio.Future[Any]) -> None:
    """Close a call whose task was cancelled before it began: nobody will await it any more.

    Not when it is collected: what is collected in a cycle is so in any order, so that Python could
    say of the call that it was never awaited.
    """
    if inspect.getcoroutinestate(call) == inspect.CORO_CREATED:
        call.close()


def _returned(function: Callable[..., T], *args: Any) -> T:
    """The result of `function`, or an error that a future can hold."""
    try:
        return function(*args)
    except (StopIteration, GeneratorExit) as exit:
        raise ExitAttempted(f"{type(exit).__name__} was raised") from exit


@contextmanager
def containing() -> Iterator[None]:
    """One factory for all contained calls inside; by itself each call puts one in place."""
    loop = asyncio.get_running_loop()
    factory = _guard(loop)
    try:
        yield
    finally:
        factory.calls -= 1
        if not factory.calls:
            _unguard(loop, factory)


def _guard(loop: asyncio.AbstractEventLoop) -> _Factory:
    """Contain the tasks of one more call."""
    there = loop.get_task_factory()
    factory = there if isinstance(there, _Factory) else _Factory(loop)
    if factory is not there:
        loop.set_task_factory(factory)
        vars(loop)["run_in_executor"] = factory.run_in_executor
    factory.calls += 1
    return factory


def _unguard(loop: asyncio.AbstractEventLoop, factory: _Factory) -> None:
    """Take away a factory that has no calls left."""
    if loop.get_task_factory() is factory:
        loop.set_task_factory(factory.before)
        vars(loop).pop("run_in_executor", None)

"""Blocking functions for async callers, and coroutines for sync callers."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_IDLE_SECONDS = 10.0


async def run_in_thread(function: Callable[..., T], *args: Any) -> T:
    """Await `function(*args)` in a daemon thread, with the caller's context variables.

    Unlike `asyncio.to_thread` there is no pool to fill up, and a call that never returns does not
    keep `asyncio.run` or the interpreter from ending: cancelling the await abandons its thread.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[T | None, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def deliver(value: T | None, error: BaseException | None) -> None:
        if not done.done():
            done.set_result((value, error))

    def work() -> Callable[[], None]:
        value, error = None, None
        try:
            value = context.run(function, *args)
        except BaseException as raised:  # noqa: BLE001 - re-raised by the awaiting side
            error = raised
        return lambda: _tell(loop, deliver, value, error)

    try:
        worker = _idle.pop()
    except IndexError:
        worker = _Worker()
        worker.start()
    worker.jobs.put(work)
    value, error = await done
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from sync code; inside a running loop, in a thread of its own.

    The loop stays for the next call: the client of a chat model keeps its connections open, and
    they belong to the loop they were opened in. In another one each fails once, with "Event loop
    is closed".
    """
    try:
        asyncio.get_running_loop()
        running = True
    except RuntimeError:
        running = False
    if not running:  # here, so that an error of the work is not shown as following from that one
        return _run_here(work)
    try:
        pool = _pools.pop()
    except IndexError:
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="agentensor-loop")
    found = pool.submit(contextvars.copy_context().run, _run_here, work)
    try:
        return found.result()
    finally:
        wait([found])  # it works on where the caller was interrupted
        _pools.append(pool)


def _run_here(work: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, in this thread's own loop, which stays open."""
    runner: asyncio.Runner | None = getattr(_own, "runner", None)
    if runner is None:
        runner = _own.runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        _runners.append(runner)
    try:
        return runner.run(work, context=contextvars.copy_context())
    finally:
        loop = runner.get_loop()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))


_own = threading.local()
_pools: deque[ThreadPoolExecutor] = deque()
_runners: list[asyncio.Runner] = []


@atexit.register
def _close_loops() -> None:
    for runner in _runners:
        runner.close()


def _forget_loops() -> None:
    """After a fork: the loops, and the threads of those in threads, are the parent's."""
    _own.__dict__.clear()
    _pools.clear()
    _runners.clear()


os.register_at_fork(after_in_child=_forget_loops)


class _Worker(threading.Thread):
    """Runs one job at a time; waits a while for the next, then ends."""

    def __init__(self) -> None:
        super().__init__(name="agentensor-evaluator", daemon=True)
        self.jobs: SimpleQueue[Callable[[], Callable[[], None]]] = SimpleQueue()

    def run(self) -> None:
        while True:
            try:
                job = self.jobs.get(timeout=_IDLE_SECONDS)
            except Empty:
                with suppress(ValueError):
                    _idle.remove(self)
                    return
                continue  # taken just now: its job is on the way
            tell = job()
            _idle.append(self)
            tell()
            del job, tell  # nothing of the last call lives on while waiting


_idle: deque[_Worker] = deque()
os.register_at_fork(after_in_child=_idle.clear)


def _tell(loop: asyncio.AbstractEventLoop, deliver: Callable[..., None], *result: Any) -> None:
    with suppress(RuntimeError):  # the loop may be closed by now
        loop.call_soon_threadsafe(deliver, *result)

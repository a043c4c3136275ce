"""Work in a process of its own: it may exit, crash or hang without taking the run along."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

from orcheo_agentensor.errors import RunFailed, describe
from orcheo_agentensor.evaluation.limits import OutOfTime
from orcheo_agentensor.evaluators.threads import run_in_thread

T = TypeVar("T")

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_TO_SETTLE = 1.0
"""Seconds for a process to tell of a time limit of its own, before it is killed."""


class WorkerDied(RuntimeError):
    """The process that did the work died before it had a result."""


async def in_child(work: Callable[[], Coroutine[Any, Any, T]], *, seconds: float) -> T:
    """The result of `work`, run in a copy of this process.

    Whatever it changes is lost but what it returns, which is pickled. Raises what `work` raises,
    `WorkerDied` where the process dies, and `OutOfTime` where it takes too long and is killed.
    """
    if not hasattr(os, "fork"):
        raise WorkerDied("it takes its process down, and this system cannot give it another one")
    reader, writer = os.pipe()
    context = contextvars.copy_context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        pid = os.fork()
    if pid == 0:
        _be_child(work, context, reader, writer)
    os.close(writer)
    reading = asyncio.ensure_future(run_in_thread(_read_all, reader))
    late = False
    try:
        done, _ = await asyncio.wait([reading], timeout=seconds + _TO_SETTLE)
        late = not done
    finally:
        if not reading.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        data, status = await asyncio.shield(_ended(reading, pid))
    if late:
        raise OutOfTime(f"no answer within {seconds:g} s")
    if not data:
        raise WorkerDied(f"it took its process down, which {_told(status)}")
    value, error = pickle.loads(data)  # noqa: S301 - of a copy of this process
    if error is not None:
        raise error
    return value  # type: ignore[no-any-return]


async def _ended(reading: asyncio.Future[bytes], pid: int) -> tuple[bytes, int]:
    data = await reading
    _, status = await run_in_thread(os.waitpid, pid, 0)
    return data, os.waitstatus_to_exitcode(status)


def _read_all(reader: int) -> bytes:
    with os.fdopen(reader, "rb") as pipe:
        return pipe.read()


def _told(status: int) -> str:
    if status >= 0:
        return f"exited with {status}"
    try:
        return f"died of {signal.Signals(-status).name}"
    except ValueError:
        return f"died of signal {-status}"


def as_sent(error: BaseException) -> BaseException:
    """`error`, or one with its words where it cannot be sent to another process."""
    try:
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - of this process
        return error if describe(again) == describe(error) else RunFailed(describe(error))
    except Exception:  # noqa: BLE001 - whatever its own methods raise
        return RunFailed(describe(error))


def _be_child(
    work: Callable[[], Coroutine[Any, Any, Any]],
    context: contextvars.Context,
    reader: int,
    writer: int,
) -> NoReturn:
    """Work, tell the result, and end without a trace of the process this is a copy of."""
    try:
        os.close(reader)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to its parent as well
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        told: list[bytes] = []

        def run() -> None:
            value, error = None, None
            try:
                value = context.run(asyncio.run, work())
            except Exception as raised:  # noqa: BLE001 - raised where the result is awaited
                error = as_sent(raised)
            told.append(pickle.dumps((value, error)))

        worker = threading.Thread(target=run)  # this thread's loop is the parent's
        worker.start()
        worker.join()
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(told[0])
        os._exit(0)
    finally:
        os._exit(1)

"""Leases: one process works on a run at a time.

A lease is a fencing token in the run's row. A process that lost its lease learns it from its next
write, which checks the token in its own transaction.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, bindparam, case, select, update

from orcheo_agentensor.errors import LeaseLost, NotFound, RunAlreadyActive, StoreError
from orcheo_agentensor.storage.records import Lease
from orcheo_agentensor.storage.tables import runs

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

DEFAULT_TTL = 15.0
"""Seconds after its last renewal at which the lease of a process on another machine ends."""
MOST_SILENT = 900.0
"""Seconds after the end of its lease for which a live process of this machine keeps its run."""
BETWEEN_LEASES = 5.0
"""Seconds for which a run between two leases is `running`: its graph goes from node to node."""

UNCOMMITTED_EVENTS = 1_000
"""Event numbers skipped when a lease is taken over: more than are sent between two commits."""


def process_owner() -> str:
    """The name of this process as the owner of leases: `host:pid:nonce`."""
    return _owner(os.getpid())


@lru_cache(maxsize=1)
def _owner(pid: int) -> str:
    found = _process(pid)
    began = "" if found is None else found.began
    return f"{_host()}:{pid}:{began}-{uuid.uuid4().hex[:12]}"


@lru_cache(maxsize=1)
def _host() -> str:
    """The host and its process-id namespace: a process id is valid only there."""
    name = socket.gethostname()
    try:
        namespace = Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    except OSError:
        return name
    return f"{name}/{namespace}"


class _Process(NamedTuple):
    state: str
    began: str


def _process(pid: int) -> _Process | None:
    """A process of this host as the kernel shows it; None where it does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return _Process(state=stat[0], began=stat[19])


def _local_pid(owner: str) -> int | None:
    host, _, rest = owner.rpartition(":")[0].rpartition(":")
    return int(rest) if host == _host() and rest.isdecimal() else None


def _began(owner: str) -> str:
    """When the process of `owner` began, in the kernel's ticks; "" where it is not known."""
    return owner.rpartition(":")[2].rpartition("-")[0]


def is_gone(owner: str) -> bool:
    """Whether `owner` is surely dead: a process of this host that no longer runs."""
    pid = _local_pid(owner)
    if pid is None:
        return False
    if pid == os.getpid():
        return owner != process_owner()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    found = _process(pid)
    if found is None:
        return False
    # A zombie does no work, and a process id is given again.
    return found.state in ("Z", "X") or _began(owner) not in ("", found.began)


def is_at_work(owner: str) -> bool:
    """Whether `owner` surely lives: another process of this host that is not stopped."""
    pid = _local_pid(owner)
    if pid is None or pid == os.getpid():
        return False
    found = _process(pid)
    return found is not None and found.state not in "ZXTt" and _began(owner) == found.began


_HELD = (
    runs.c.lease_owner,
    runs.c.lease_token,
    runs.c.lease_expires,
    runs.c.event_seq,
    runs.c.status,
    runs.c.result,
)


def take(
    connection: Connection, run_id: str, *, owner: str, ttl: float, now: datetime, **fields: Any
) -> Lease:
    """Take the lease of a run inside a write transaction, or raise `RunAlreadyActive`.

    `fields` of the run are changed with it, unless the run has ended.
    """
    row = connection.execute(
        select(*_HELD).where(runs.c.run_id == run_id).with_for_update()
    ).first()
    if row is None:
        raise NotFound(f"there is no run {run_id!r}")
    left = (row.lease_expires or 0.0) - now.timestamp()
    held = row.lease_owner is not None and not is_gone(row.lease_owner)
    if held and -MOST_SILENT < left <= 0 and is_at_work(row.lease_owner):
        raise RunAlreadyActive(
            f"run {run_id!r} is being worked on by {row.lease_owner}, which lives, but has been "
            "too busy to renew its lease",
            owner=row.lease_owner,
            expires=now.timestamp(),
        )
    if held and left > 0:
        raise RunAlreadyActive(
            f"run {run_id!r} is being worked on by {row.lease_owner}; "
            f"its lease ends in {left:.0f} s unless renewed",
            owner=row.lease_owner,
            expires=row.lease_expires,
        )
    token = row.lease_token + 1
    result = row.result if row.status == "finished" else None
    mine = {"lease_owner": owner, "lease_token": token, "lease_expires": now.timestamp() + ttl}
    connection.execute(
        update(runs)
        .where(runs.c.run_id == run_id)
        .values(**mine, **(fields if result is None else {}))
    )
    # A process that was killed may have sent events whose numbers were not committed yet.
    sent = row.event_seq if row.lease_owner is None else row.event_seq + UNCOMMITTED_EVENTS
    return Lease(run_id=run_id, owner=owner, token=token, ttl=ttl, event_seq=sent, result=result)


def expires_when_free(now: datetime) -> float:
    """The `lease_expires` of a run without a lease, which any process may take at once."""
    return now.timestamp() + BETWEEN_LEASES


def give_back(connection: Connection, lease: Lease, *, event_seq: int, now: datetime) -> None:
    """End a lease and note the last event; nothing happens where it is lost already."""
    seq = runs.c.event_seq
    connection.execute(
        update(runs)
        .where(runs.c.run_id == lease.run_id, runs.c.lease_token == lease.token)
        .values(
            lease_owner=None,
            lease_expires=expires_when_free(now),
            event_seq=case((seq < event_seq, event_seq), else_=seq),
        )
    )


_STILL_HELD = (
    select(runs.c.run_id)
    .where(
        runs.c.run_id == bindparam("run"),
        runs.c.lease_token == bindparam("token"),
        runs.c.lease_owner.is_not(None),
    )
    .with_for_update()
)


def fence(connection: Connection, lease: Lease | None) -> None:
    """Raise `LeaseLost` unless `lease` still holds; locks the run's row for this transaction."""
    if lease is None:
        return
    if connection.scalar(_STILL_HELD, {"run": lease.run_id, "token": lease.token}) is None:
        raise lost(lease)


def lost(lease: Lease) -> LeaseLost:
    """The error for a lease that no longer holds."""
    return LeaseLost(
        f"run {lease.run_id!r} was taken over by another process, or its lease was given back; "
        "this process has stopped writing"
    )


_LOOK_EVERY = 0.5
_BLOCKED = 1.0
"""Seconds without an answer after which an event loop counts as blocked."""

OnBlocked = Callable[[list[FrameType]], Callable[[float], None]]
"""Given the frames that block a loop, innermost first, in the thread of the heartbeat; what it
returns is told the seconds, on the loop."""


class Heartbeat(threading.Thread):
    """Renews a lease from a thread of its own, also while the event loop is blocked.

    `renew` is called where nothing has called `renewed` for a third of `ttl`; a lost lease goes to
    `failed`, on the loop, and ends the thread. A loop is `blocked` until it is to be told of that.
    """

    def __init__(
        self,
        *,
        loop: AbstractEventLoop,
        ttl: float,
        renew: Callable[[], None],
        failed: Callable[[BaseException], None],
        on_blocked: OnBlocked | None,
    ) -> None:
        super().__init__(name="agentensor-heartbeat", daemon=True)
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._every = ttl / 3
        self._renew = renew
        self._failed = failed
        self._on_blocked = on_blocked
        self._stopped = threading.Event()
        self.blocked = False
        self._renewed_at = time.monotonic()

    def renewed(self) -> None:
        """Note that the lease was renewed with a group of rows."""
        self._renewed_at = time.monotonic()

    def stop(self) -> None:
        """End soon; does not wait."""
        self._stopped.set()

    def run(self) -> None:
        """Beat until `stop`, or until the loop is closed."""
        with suppress(RuntimeError):  # the loop, or the store, was closed
            while not self._stopped.wait(min(_LOOK_EVERY, self._every)):
                self._look()
                self._beat()

    def _beat(self) -> None:
        if time.monotonic() - self._renewed_at < self._every or self._stopped.is_set():
            return
        try:
            self._renew()
            self.renewed()
        except LeaseLost as error:
            self._stopped.set()
            self._loop.call_soon_threadsafe(self._failed, error)
        except StoreError:  # the next group of rows meets it as well
            return

    def _look(self) -> None:
        """See whether the loop answers; where it does not, remember what it is busy with."""
        answered = threading.Event()
        asked = time.monotonic()
        self._loop.call_soon_threadsafe(answered.set)
        if self._on_blocked is None or answered.wait(_BLOCKED):
            return
        frames: list[FrameType] = []
        at = sys._current_frames().get(self._loop_thread)
        while at is not None:
            frames.append(at)
            at = at.f_back
        self.blocked = True
        try:
            told = self._on_blocked(frames)
            del frames, at
            while not answered.wait(min(_LOOK_EVERY, self._every)):
                if self._stopped.is_set():
                    return
                self._beat()
            self._loop.call_soon_threadsafe(told, time.monotonic() - asked)
        finally:
            self.blocked = False

"""Leases: one process works on a run at a time.

A lease is a fencing token in the run's row. A process that lost its lease learns it from its next
write, which checks the token in its own transaction.
"""

from __future__ import annotations

import os
import socket
import uuid
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, case, select, update

from orcheo_agentensor.errors import LeaseLost, NotFound, RunAlreadyActive
from orcheo_agentensor.storage.records import Lease
from orcheo_agentensor.storage.tables import runs

DEFAULT_TTL = 15.0
"""Seconds after its last renewal at which the lease of a process on another machine ends."""
BETWEEN_LEASES = 5.0
"""Seconds for which a run between two leases is `running`: its graph goes from node to node."""

UNCOMMITTED_EVENTS = 1_000
"""Event numbers skipped when a lease is taken over: more than are sent between two commits."""


def process_owner() -> str:
    """The name of this process as the owner of leases: `host:pid:nonce`."""
    return _owner(os.getpid())


@lru_cache(maxsize=1)
def _owner(pid: int) -> str:
    return f"{_host()}:{pid}:{uuid.uuid4().hex[:12]}"


@lru_cache(maxsize=1)
def _host() -> str:
    """The host and its process-id namespace: a process id is valid only there."""
    name = socket.gethostname()
    try:
        namespace = Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    except OSError:
        return name
    return f"{name}/{namespace}"


def is_gone(owner: str) -> bool:
    """Whether `owner` is surely dead: a process of this host that no longer runs."""
    host, _, rest = owner.rpartition(":")[0].rpartition(":")
    mine = process_owner()
    if host != _host() or not rest.isdecimal():
        return False
    pid = int(rest)
    if pid == os.getpid():
        return owner != mine
    return not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")  # a zombie does no work


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
    if row.lease_owner is not None and left > 0 and not is_gone(row.lease_owner):
        raise RunAlreadyActive(
            f"run {run_id!r} is being worked on by {row.lease_owner}; "
            f"its lease ends in {left:.0f} s unless renewed",
            owner=row.lease_owner,
            expires=row.lease_expires,
        )
    token = row.lease_token + 1
    result = row.result if row.status == "finished" else None
    held = {"lease_owner": owner, "lease_token": token, "lease_expires": now.timestamp() + ttl}
    connection.execute(
        update(runs)
        .where(runs.c.run_id == run_id)
        .values(**held, **(fields if result is None else {}))
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


def fence(connection: Connection, lease: Lease | None) -> None:
    """Raise `LeaseLost` unless `lease` still holds; locks the run's row for this transaction."""
    if lease is None:
        return
    held = connection.scalar(
        select(runs.c.run_id)
        .where(
            runs.c.run_id == lease.run_id,
            runs.c.lease_token == lease.token,
            runs.c.lease_owner.is_not(None),
        )
        .with_for_update()
    )
    if held is None:
        raise lost(lease)


def lost(lease: Lease) -> LeaseLost:
    """The error for a lease that no longer holds."""
    return LeaseLost(
        f"run {lease.run_id!r} was taken over by another process, or its lease was given back; "
        "this process has stopped writing"
    )

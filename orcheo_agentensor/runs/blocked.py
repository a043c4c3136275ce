"""Which case blocks the event loop, and where."""

from __future__ import annotations

import contextlib
import sysconfig
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from orcheo_agentensor.errors import AgentensorError
from orcheo_agentensor.events import EventSink
from orcheo_agentensor.seeds import CASE_ID, labels_of
from orcheo_agentensor.usage import NOTHING

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Ledger

BLOCKED = "loop_blocked"
"""The kind of call under which the ledger keeps that a case has blocked the loop."""

_NOT_THE_USERS = (
    *(str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "purelib")),
    str(Path(__file__).resolve().parents[1]),
)


def recorded_blocks(
    ledger: Callable[[], Ledger], events: EventSink
) -> Callable[[list[FrameType]], Callable[[float], None]]:
    """What a ledger calls where the loop does not answer: it records the case, and warns."""

    def look(frames: list[FrameType]) -> Callable[[float], None]:
        found = {"case_id": _case_of(frames), "where": _place_of(frames)}

        def told(seconds: float) -> None:
            entry = {**found, "seconds": round(seconds, 1)}
            events.emit("warning", message=block_warning(entry))
            with contextlib.suppress(AgentensorError):  # it has ended meanwhile
                ledger().put_call(f"{BLOCKED}:{uuid.uuid4().hex}", BLOCKED, entry, NOTHING)

        return told

    return look


def block_warning(entry: Mapping[str, Any]) -> str:
    """A sentence on one block."""
    who = "the event loop" if entry["case_id"] is None else f"case {entry['case_id']!r}"
    what = "was blocked" if entry["case_id"] is None else "blocked the event loop"
    return (
        f"{who} {what} for {entry['seconds']:g} s at {entry['where']}: all other cases waited, and "
        "their latency is too long; await there, or make the function a sync one, which gets a "
        "thread of its own"
    )


def _case_of(frames: list[FrameType]) -> str | None:
    """The case that is run on this stack, by the config or the context that its code was given."""
    for frame in frames:
        known = frame.f_locals
        config = known.get("config")
        if isinstance(config, Mapping) and isinstance(config.get("metadata"), Mapping):
            found = labels_of(config).get(CASE_ID)
            if found is not None:
                return str(found)
        for name in ("context", "ctx"):
            found = getattr(known.get(name), "case_id", None)
            if isinstance(found, str):
                return found
    return None


def _place_of(frames: list[FrameType]) -> str:
    """The innermost line of the user's own code."""
    own = (
        frame
        for frame in frames
        if not str(Path(frame.f_code.co_filename).resolve()).startswith(_NOT_THE_USERS)
    )
    frame = next(own, frames[0])
    return f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})"

"""Progress events: numbered, in order, and unable to slow a run down.

An event is a plain JSON dict `{seq, run_id, type, …}`. The graph nodes hand events to LangGraph's
stream writer (`stream_mode="custom"`), which queues without waiting, so a slow reader delays
nobody but itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

EventType: TypeAlias = Literal[
    "run_started",
    "case_finished",
    "evaluation_progress",
    "evaluation_summary",
    "step_started",
    "proposal_rejected",
    "candidate_accepted",
    "training_progress",
    "checkpoint_saved",
    "holdout_summary",
    "decision",
    "run_finished",
    "run_failed",
]
EVENT_TYPES: tuple[str, ...] = get_args(EventType)

Event: TypeAlias = dict[str, Any]
EventWriter: TypeAlias = Callable[[Event], None]


class EventSink:
    """Numbers the events of one run and hands them on.

    `start` is the number of the last event an earlier process of the same run has sent, so that
    numbers keep rising over a resume.
    """

    def __init__(self, run_id: str, write: EventWriter, *, start: int = 0) -> None:
        self.run_id = run_id
        self.seq = start
        self._write = write

    def emit(self, type: EventType, **payload: Any) -> None:
        """Send one event; `payload` must be JSON and small."""
        self.seq += 1
        self._write({"seq": self.seq, "run_id": self.run_id, "type": type, **payload})


def discard(_event: Event) -> None:
    """The writer for callers who do not listen."""

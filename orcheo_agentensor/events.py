"""Progress events: numbered, in order, and unable to slow a run down.

An event is a plain JSON dict `{seq, run_id, type, …}`. The graph nodes hand events to LangGraph's
stream writer (`stream_mode="custom"`), which queues without waiting, so a slow reader delays
nobody but itself. A caller in this process can listen directly instead (`listening`), which spares
an event the way through the stream.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, Literal, TypeAlias, get_args

EventType: TypeAlias = Literal[
    "run_started",
    "forked",
    "replayed",
    "warning",
    "fold_started",
    "fold_finished",
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


_log = logging.getLogger(__name__)
_log.addHandler(logging.NullHandler())  # heard by those who have asked for logs, and nobody else

_LEVELS = {
    "case_finished": logging.DEBUG,  # a warning where it has failed
    "step_started": logging.DEBUG,
    "warning": logging.WARNING,
    "run_failed": logging.ERROR,
}
"""The levels of events in the log; of all others `INFO`."""

_listener: ContextVar[EventWriter | None] = ContextVar("agentensor_listener", default=None)


@contextmanager
def listening(hear: EventWriter) -> Iterator[None]:
    """Let `hear` hear of every event of the runs that work inside the block; who listens around it
    still does."""
    outer = _listener.get()

    def both(event: Event) -> None:
        hear(event)
        if outer is not None:
            outer(event)

    token = _listener.set(hear if outer is None else both)
    try:
        yield
    finally:
        _listener.reset(token)


class EventSink:
    """Numbers the events of one run and hands them on.

    `start` is the number of the last event an earlier process of the same run has sent, so that
    numbers keep rising over a resume. LangGraph's writers look for the config around them: they are
    called in the context of the node at work, not in that of a judge's call.
    """

    def __init__(self, run_id: str, write: EventWriter, *, start: int = 0) -> None:
        self.run_id = run_id
        self.seq = start
        self.write_to(write)

    def write_to(self, write: EventWriter) -> None:
        """Hand events on from here: from the node around us, and to who listens to it."""
        self._write = write
        self._hear = _listener.get()
        self._context = copy_context()

    def emit(self, type: EventType, **payload: Any) -> None:
        """Send one event; `payload` must be JSON and small."""
        self.send(type, payload)

    def send(self, type: EventType, payload: dict[str, Any]) -> None:
        """As `emit`, of a payload at hand."""
        self.seq += 1
        event = {"seq": self.seq, "run_id": self.run_id, "type": type, **payload}
        level = _LEVELS.get(type, logging.INFO)
        if type == "case_finished" and not payload["ok"]:
            level = logging.WARNING
        if _log.isEnabledFor(level):
            _tell(level, event, payload)
        self._context.run(self._write, event)
        if self._hear is not None:
            self._context.run(self._hear, event)


def _tell(level: int, event: Event, payload: Mapping[str, Any]) -> None:
    """Log an event."""
    about = {"run_id": event["run_id"], "case_id": payload.get("case_id"), "event": event["type"]}
    said = {key: value for key, value in payload.items() if key != "case_id"}
    _log.log(level, "%s", _sentence(event), extra={**about, "data": said})


def _sentence(event: Event) -> str:
    kind = event["type"].replace("_", " ")
    if event["type"] == "case_finished":
        failed = [event.get("target_failure"), *event.get("evaluator_failures", {}).values()]
        why = "; ".join(one["reason"] for one in failed if one)
        return f"case {event['case_id']!r} {f'failed: {why}' if why else 'finished'}"
    said = [f"{key} {event[key]}" for key in ("step", "version", "done", "total") if key in event]
    said += [str(event[key]) for key in ("message", "error", "status") if event.get(key)]
    return f"{kind}: {', '.join(said)}" if said else kind


def discard(_event: Event) -> None:
    """The writer for callers who do not listen."""

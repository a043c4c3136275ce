"""Logs for machines: a JSON object a line, without secrets, with the ids of run and case."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from orcheo_agentensor.display import escaped
from orcheo_agentensor.redaction import redact

_OURS = logging.getLogger("orcheo_agentensor")


class JsonFormatter(logging.Formatter):
    """Formats a log record as one line of JSON.

    `time` (UTC), `level`, `logger` and `message` are always there; `run_id` and `case_id` where the
    record names them (`extra={"run_id": …}`) or comes from within a rollout; `event` and `data`
    where it tells of an event; `error` where it has an exception. Secrets are replaced.

    Example:
        >>> import logging
        >>> from orcheo_agentensor.logs import JsonFormatter
        >>> record = logging.makeLogRecord({"name": "shop", "msg": "password=hunter22 is wrong"})
        >>> JsonFormatter().format(record).partition('"logger"')[2]
        ': "shop", "message": "password=[redacted] is wrong"}'
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        found: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        told: dict[str, Any] = {}
        if isinstance(record.msg, Mapping):  # of structlog, which a LangGraph server logs by
            found["message"] = str(record.msg.get("event", ""))
            told = {"data": {k: v for k, v in record.msg.items() if k not in _SAID}}
        else:
            found["message"] = _message(record)
        ids = _ids_around()
        for name in ("run_id", "case_id", "event", "data"):
            value = getattr(record, name, None) or told.get(name) or ids.get(name)
            if value:
                found[name] = value
        if record.exc_info and record.exc_info[1] is not None:
            found["error"] = "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        elif isinstance(record.exc_text, str):
            found["error"] = record.exc_text
        try:  # texts of objects first, which may hold secrets as well
            plain = json.loads(json.dumps(found, default=str, allow_nan=False))
        except (TypeError, ValueError, RecursionError):  # keys that are no texts, no finite numbers
            plain = {key: str(value) for key, value in found.items()}
        return escaped(json.dumps(redact(plain), ensure_ascii=False))


_SAID = frozenset({"event", "timestamp", "level", "logger", "exc_info", "stack_info"})
"""What structlog notes and our own fields say already."""


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - arguments that do not fit must not cost the line
        return f"{record.msg} {record.args!r}"


def _ids_around() -> dict[str, Any]:
    """The ids of the run and the case that we are in, by the config around."""
    if "orcheo_agentensor.runs.active" not in sys.modules:  # then nothing runs yet
        return {}
    from orcheo_agentensor.seeds import CASE_ID, RUN_ID, labels_of
    from orcheo_agentensor.upstream import var_child_runnable_config

    labels = labels_of(var_child_runnable_config.get() or {})
    return {"run_id": labels.get(RUN_ID), "case_id": labels.get(CASE_ID)}


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to stderr, wherever that leads by then."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def configure_logging(format: Literal["text", "json"], *, level: str = "info") -> None:
    """Write this process's log in JSON, or leave it as it is.

    Handlers that the process has for its log, such as a server's, get the format; where it has
    none, one writes to stderr. `level` is that of this package.
    """
    root = logging.getLogger()
    ours = [handler for handler in root.handlers if isinstance(handler, _Handler)]
    if format != "json":
        for one in ours:
            root.removeHandler(one)
            logging.captureWarnings(False)
            _OURS.setLevel(logging.NOTSET)
        return
    known = [handler for handler in root.handlers if type(handler) is logging.StreamHandler]
    if not ours and not known:
        root.addHandler(_Handler())
    for handler in root.handlers:
        if isinstance(handler, _Handler) or handler in known:
            handler.setFormatter(JsonFormatter())
    logging.captureWarnings(True)
    _OURS.setLevel(level.upper())


def logs_json() -> bool:
    """Whether the log of this process is in JSON."""
    handlers = logging.getLogger().handlers
    return any(isinstance(handler.formatter, JsonFormatter) for handler in handlers)

"""Answers of ours: typed errors, the same everywhere."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from orcheo_agentensor.errors import (
    AgentensorError,
    AliasConflict,
    BadInput,
    Forbidden,
    LeaseLost,
    NotFound,
    RunAlreadyActive,
    StoreError,
    problems_of,
)
from orcheo_agentensor.server.middleware import BodyTooLarge, WrongMediaType

NO_STORE = {"cache-control": "no-store"}


class PreconditionFailed(AgentensorError):
    """What is stored has changed since it was read: HTTP 412."""


class RejectedVersion(AgentensorError):
    """The training run of this version has rejected it: HTTP 409."""


_STATUS: tuple[tuple[type[AgentensorError], int], ...] = (
    (WrongMediaType, 415),
    (BodyTooLarge, 413),
    (BadInput, 422),
    (NotFound, 404),
    (Forbidden, 403),
    (PreconditionFailed, 412),
    (AliasConflict, 409),
    (RejectedVersion, 409),
    (RunAlreadyActive, 409),
    (LeaseLost, 409),
    (StoreError, 503),
)


def status_of(error: AgentensorError) -> int:
    """The HTTP status that says what `error` says."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def error_document(error: AgentensorError) -> dict[str, Any]:
    """`{"error": {"type", "message", "problems": [{"field", "value", "rule"}]}}`."""
    problems = problems_of(error) if isinstance(error, BadInput) else []
    return {"error": {"type": type(error).__name__, "message": error.message, "problems": problems}}


def error_response(error: AgentensorError) -> JSONResponse:
    """`error` as a response."""
    return JSONResponse(error_document(error), status_code=status_of(error), headers=NO_STORE)

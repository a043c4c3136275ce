"""JSON in and errors out: what the routes and the check of run requests have in common."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, TypeAlias

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive

from orcheo_agentensor.config.model import MAX_PROBLEMS
from orcheo_agentensor.display import escaped
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
from orcheo_agentensor.server.fairness import TooManyRequests

PREFIX = "/agentensor/v1"
NO_STORE = {"cache-control": "no-store"}


class MalformedBody(BadInput):
    """The body is no JSON: HTTP 422, as the server itself answers."""


class WrongMediaType(BadInput):
    """The body is something other than JSON in UTF-8: HTTP 415."""


class BodyTooLarge(BadInput):
    """The body is larger than the operator allows: HTTP 413."""


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
    (TooManyRequests, 429),
    (StoreError, 503),
)


class ErrorBody(JSONResponse):
    """JSON in which what steers a terminal or misleads a reader is escaped: an error quotes what it
    was sent."""

    def render(self, content: Any) -> bytes:
        """As Starlette's own."""
        return escaped(json.dumps(content, ensure_ascii=False, separators=(",", ":"))).encode()


def error_response(error: AgentensorError) -> JSONResponse:
    """`error` as `{"error": {"type", "message", "problems": [{"field", "value", "rule"}]}}`."""
    problems = problems_of(error) if isinstance(error, BadInput) else []
    told = {"type": type(error).__name__, "message": error.message, "problems": problems}
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    headers = dict(NO_STORE)
    if isinstance(error, TooManyRequests):
        headers["retry-after"] = str(error.retry_after)
    return ErrorBody({"error": told}, status_code=status, headers=headers)


TextProblems: TypeAlias = list[tuple[str, Any, str]]
"""Problems with the text of a JSON value: (field, value, rule) each."""

_SMALL = 64 * 1024
"""Up to here a body is parsed on the event loop; a larger one in a thread."""


async def read_body(request: Request, *, limit: int) -> bytes:
    """The body; raises `BodyTooLarge`, and Starlette's `ClientDisconnect`."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limit:
            raise BodyTooLarge(
                field="body",
                value=f"more than {limit:,} bytes",
                rule=f"must not be larger than {limit:,} bytes",
            )
    return bytes(content)


def replay(content: bytes, receive: Receive) -> Receive:
    """A `receive` that gives `content` as the body, and then whatever follows."""
    waiting = [content]

    async def replayed() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replayed


async def parse_body(content: bytes) -> tuple[Any, TextProblems]:
    """A JSON value, and the problems with its text; raises `MalformedBody`."""
    return await asyncio.to_thread(_parse, content) if len(content) > _SMALL else _parse(content)


async def dump_body(value: Any, *, size: int) -> bytes:
    """`value` as JSON, in a thread where it came in about `size` bytes that are many."""

    def dumped() -> bytes:
        # Other than ASCII is escaped, so that any text goes through.
        return json.dumps(value, separators=(",", ":")).encode()

    return await asyncio.to_thread(dumped) if size > _SMALL else dumped()


def require_json(headers: Headers) -> None:
    """Raise `WrongMediaType` unless the headers say JSON, or nothing."""
    kind, _, parameters = headers.get("content-type", "application/json").partition(";")
    kind = kind.strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        raise WrongMediaType(
            field="content-type", value=kind, rule="must be application/json for a run request"
        )
    charset = parameters.lower().replace(" ", "").replace('"', "").partition("charset=")[2]
    if charset and charset.split(";")[0] not in ("utf-8", "utf8", "us-ascii"):
        raise WrongMediaType(field="content-type", value=charset, rule="must be UTF-8")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise WrongMediaType(
            field="content-encoding",
            value=headers["content-encoding"],
            rule="is not taken: send the body as it is",
        )


def _parse(content: bytes) -> tuple[Any, TextProblems]:
    problems: TextProblems = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            for key, value in pairs:
                if key in seen and len(problems) < MAX_PROBLEMS:
                    problems.append((f"body.….{key}", value, "is a key that is given twice"))
                seen.add(key)
        return found

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value) and len(problems) < MAX_PROBLEMS:
            problems.append(("body", text, "is not a finite number"))
        return value

    try:
        text = content.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=unique, parse_constant=number, parse_float=number
        )
    except UnicodeDecodeError as error:
        raise MalformedBody(
            f"the body is not UTF-8: byte {error.start}", field="body", rule="must be UTF-8"
        ) from None
    except RecursionError:
        raise MalformedBody(
            "the body is nested too deep to be read", field="body", rule="is nested too deep"
        ) from None
    except json.JSONDecodeError as error:
        raise MalformedBody(
            f"the body is not JSON: {error}", field="body", value=text[:80], rule="must be JSON"
        ) from None
    except ValueError as error:  # an integer of more digits than Python converts
        raise MalformedBody(f"the body is not JSON: {error}", field="body") from None
    return value, problems

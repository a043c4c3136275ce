"""Bodies of requests: read whole, parsed strictly, and put back byte for byte."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from orcheo_agentensor.errors import BadInput

_SMALL = 64 * 1024
"""Up to here a body is parsed on the event loop; a larger one in a thread."""


class MalformedBody(BadInput):
    """The body is no JSON: HTTP 422, as the server itself answers."""


class WrongMediaType(BadInput):
    """The body is something other than JSON in UTF-8: HTTP 415."""


class BodyTooLarge(BadInput):
    """The body is larger than the operator allows: HTTP 413."""


@dataclass
class Parsed:
    """A JSON value and what is odd about its text: (field, value, rule)."""

    value: Any
    problems: list[tuple[str, Any, str]] = field(default_factory=list)


@dataclass
class Body:
    """A request's body as it came; `whole` says whether all of it was read."""

    content: bytes
    whole: bool
    receive: Receive

    def replay(self, content: bytes | None = None) -> Receive:
        """A `receive` that gives `content`, by default what came, and then whatever follows."""
        sent = False

        async def receive() -> Message:
            nonlocal sent
            if sent:
                return await self.receive()
            sent = True
            body = self.content if content is None else content
            return {"type": "http.request", "body": body, "more_body": not self.whole}

        return receive


async def read_body(receive: Receive, *, limit: int) -> Body | None:
    """The body, or its first part where it is larger than `limit`; None if the client has left."""
    parts = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts += message.get("body", b"")
        whole = not message.get("more_body", False)
        if whole or len(parts) > limit:
            return Body(content=bytes(parts), whole=whole, receive=receive)


async def parse_body(content: bytes) -> Parsed:
    """JSON as strict as a config needs it; raises `MalformedBody`."""
    if len(content) > _SMALL:
        return await asyncio.to_thread(_parse, content)
    return _parse(content)


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


def dump_body(value: Any) -> bytes:
    """The text of a JSON value; other than ASCII is escaped, so that any text goes through."""
    return json.dumps(value, separators=(",", ":")).encode()


def _parse(content: bytes) -> Parsed:
    problems: list[tuple[str, Any, str]] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            for key, value in pairs:
                if key in seen:
                    problems.append((f"body.….{key}", value, "is a key that is given twice"))
                seen.add(key)
        return found

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
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
    return Parsed(value=value, problems=problems)


def text_of(value: Mapping[str, Any], key: str) -> str | None:
    """The text under `key`, if it is one."""
    found = value.get(key)
    return found if isinstance(found, str) and found else None

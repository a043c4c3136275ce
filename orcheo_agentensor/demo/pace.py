"""How fast a configured model is: asked and timed before the demo begins, which is sized by it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from orcheo_agentensor.demo.workflow import ADDRESSES, own_server
from orcheo_agentensor.entrypoints import chat_model
from orcheo_agentensor.errors import BadInput, RunFailed
from orcheo_agentensor.optimizers.proposer import LLMProposer

AT_ONCE = 8
"""Cases at once with a service that says nothing of itself,"""
AT_ONCE_OF_ONES_OWN = 2
"""and with a server of one's own that does not."""
_ASKED = 5.0
_FIRST = 600.0
_SLOW = 10  # a case may take so many times what the first ones took


@dataclass(frozen=True, kw_only=True)
class ServerSays:
    """What a server tells of itself: tokens of one request with its reply, and requests at once."""

    window: int | None = None
    slots: int | None = None


async def ask_server(address: str) -> ServerSays:
    """What the server at `address` tells: llama.cpp by `/props`, vLLM by its list of models.

    Raises `BadInput` where nothing answers there.
    """
    root = address.removesuffix("/v1")
    async with httpx.AsyncClient(timeout=_ASKED) as client:
        try:
            props, models = [
                _json(await client.get(url)) for url in (f"{root}/props", f"{address}/models")
            ]
        except httpx.HTTPError as error:
            told = f"{type(error).__name__} {error}".strip()
            rule = f"must be the address of a server that answers, such as {root}/v1 ({told})"
            raise BadInput(field=ADDRESSES[0], value=address, rule=rule) from error
    listed = models.get("data")
    first = listed[0] if isinstance(listed, list) and listed else {}
    settings = props.get("default_generation_settings")
    windows = (
        settings.get("n_ctx") if isinstance(settings, dict) else None,
        first.get("max_model_len") if isinstance(first, dict) else None,
    )
    window = next((one for one in windows if isinstance(one, int)), None)
    slots = props.get("total_slots")
    return ServerSays(window=window, slots=slots if isinstance(slots, int) else None)


def _json(reply: httpx.Response) -> dict[str, Any]:
    """The object in a reply; an empty one where the server has nothing at that address."""
    if not reply.is_success or "json" not in reply.headers.get("content-type", ""):
        return {}
    found = reply.json()
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What was found: `at_once` cases side by side took `seconds`."""

    server: str | None
    says: ServerSays
    at_once: int
    seconds: float

    @property
    def a_rollout(self) -> float:
        """Seconds from one finished case to the next."""
        return self.seconds / self.at_once

    @property
    def case_timeout(self) -> float:
        """Seconds that a case may take."""
        return max(120.0, _SLOW * self.seconds)

    def sentence(self) -> str:
        """Of the server and of the first cases."""
        told = [
            f"{count} {what}"
            for count, what in (
                (self.says.window, "tokens of one request with its reply"),
                (self.says.slots, "requests at once"),
            )
            if count is not None
        ]
        by = (
            f"Server: {self.server}{': ' if told else ''}{', '.join(told)}. " if self.server else ""
        )
        first = "1 case" if self.at_once == 1 else f"{self.at_once} cases at once"
        return f"{by if self.server else ''}{first} took {self.seconds:.1f} s."


async def measure_pace(
    model: str, graph: Any, cases: Sequence[Any], prompts: dict[str, str]
) -> Pace:
    """Ask the server of `model`, and time as many of the `cases` as it answers at once.

    Raises `BadInput` where the server does not answer, or its window holds less than a request for
    new texts of the `prompts` with one case; `RunFailed` where the first cases do not end in time.
    """
    server = own_server(model)
    says = ServerSays() if server is None else await ask_server(server)
    if says.window is not None:
        profile = {"max_input_tokens": says.window}
        chat = await asyncio.to_thread(chat_model, model, profile=profile)
        LLMProposer(chat).require_room(prompts)
    at_once = says.slots or (AT_ONCE if server is None else AT_ONCE_OF_ONES_OWN)
    first = cases[:at_once]
    started = time.monotonic()
    try:
        async with asyncio.timeout(_FIRST):
            await asyncio.gather(*(graph.ainvoke(case.inputs) for case in first))
    except TimeoutError as error:
        raise RunFailed(
            f"{model} did not finish the first {len(first)} cases within {_FIRST:.0f} s: too slow "
            "for the demo"
        ) from error
    return Pace(
        server=server,
        says=says,
        at_once=len(first),
        seconds=max(0.01, time.monotonic() - started),
    )

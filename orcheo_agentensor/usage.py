"""What rollouts and model calls cost: counts, tokens and money, counted while they happen."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tracers.context import register_configure_hook

from orcheo_agentensor.errors import AgentensorError, BudgetExhausted
from orcheo_agentensor.upstream import close_waiting_callbacks, silence_refusals


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Counts of model calls and their tokens; `cost` in US dollars, None where no price is known.

    `rollouts` counts executions of the target (every attempt of a retried one).
    """

    rollouts: int = 0
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = 0.0

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        if other is NOTHING:
            return self
        if self is NOTHING:
            return other
        known = self.cost is not None and other.cost is not None
        return Usage(
            rollouts=self.rollouts + other.rollouts,
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=(self.cost or 0.0) + (other.cost or 0.0) if known else None,
        )

    def to_json(self) -> dict[str, Any]:
        """As stored in the ledger and printed in results."""
        return {
            "rollouts": self.rollouts,
            "calls": self.calls,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "tokens": self.tokens,
            "cost": self.cost,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Usage:
        """The inverse of `to_json`; unknown and derived keys are ignored."""
        return cls(
            rollouts=int(data.get("rollouts", 0)),
            calls=int(data.get("calls", 0)),
            input_tokens=int(data.get("input_tokens", 0)),
            output_tokens=int(data.get("output_tokens", 0)),
            cost=data.get("cost", 0.0),
        )


NOTHING = Usage()
ONE_ROLLOUT = Usage(rollouts=1)
ONE_CALL = Usage(calls=1)


# `record_usage()` sees every LangChain chat-model call made inside it, in any task or thread
# started from there, whether or not the code under it passes its config on.


MESSAGE_TOKENS = 16  # what a chat format puts around a message; 3 to 7 in those published
LENGTH_CAPS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


class CallGate(Protocol):
    """What is asked before each model call; see `training.budget`."""

    def call_started(self, most: Callable[[], Usage]) -> Usage:
        """Reserve a call that takes `most` at most; returns what was reserved.

        Raises `BudgetExhausted`.
        """

    def call_ended(self, reserved: Usage, used: Usage) -> None:
        """Put what a call really used in place of what was reserved for it."""


@lru_cache(maxsize=4096)
def price(model: str, input_tokens: int, output_tokens: int) -> float | None:
    """Price of one call in US dollars by genai-prices; None for a model it does not know."""
    from genai_prices import Usage as Tokens
    from genai_prices import calc_price

    try:
        found = calc_price(
            Tokens(input_tokens=input_tokens, output_tokens=output_tokens), model_ref=model
        )
    except LookupError:
        return None
    return float(found.total_price)


class UsageRecorder(BaseCallbackHandler):
    """Adds up the model calls made in its `with` block. Thread-safe; ask for `total` after it.

    A call that the block left behind unfinished counts as a call, and as having used what was
    reserved for it. With a `gate` each call is reserved first; once one was `refused`, so is every
    further one, and so are calls that come after the block.
    """

    # Runs in the caller's own thread of control: a count must be complete when the call returns.
    run_inline = True
    raise_error = True  # or a refused call would be made all the same

    def __init__(self, gate: CallGate | None = None) -> None:
        self.total = NOTHING
        self.refused: AgentensorError | None = None
        self._gate = gate
        self._calls: dict[UUID, Usage] = {}  # begun and not ended, with what is reserved for each
        self._lock = threading.Lock()
        self._closed = False
        self._token: Token[UsageRecorder | None] | None = None

    def __enter__(self) -> UsageRecorder:
        self._token = _recorder.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        _recorder.reset(self._token)
        with self._lock:
            self._closed = True
            left, self._calls = self._calls, {}
        for reserved in left.values():
            self._settle(reserved, reserved)

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[Any]],
        *,
        run_id: UUID,
        metadata: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Reserve a call of a chat model."""
        self._start(run_id, [m for several in messages for m in several], kwargs, metadata)

    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        metadata: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Reserve a call of a model that completes text."""
        self._start(run_id, prompts, kwargs, metadata)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Count one finished call."""
        first = response.generations[0][0] if response.generations else None
        message = first.message if isinstance(first, ChatGeneration) else None
        tokens = message.usage_metadata if isinstance(message, AIMessage) else None
        into = tokens["input_tokens"] if tokens else 0
        out = tokens["output_tokens"] if tokens else 0
        self._end(
            run_id,
            Usage(calls=1, input_tokens=into, output_tokens=out, cost=_cost(message, into, out)),
        )

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A call that failed was a call all the same."""
        self._end(run_id, ONE_CALL)

    def add(self, usage: Usage) -> None:
        """Count calls that nobody asked for before they were made."""
        self._settle(NOTHING, usage)

    def _start(
        self,
        run_id: UUID,
        messages: Sequence[Any],
        kwargs: Mapping[str, Any],
        metadata: Mapping[str, Any] | None,
    ) -> None:
        gate = self._gate
        reserved = ONE_CALL
        if gate is not None:
            if self.refused is not None:
                raise _refusing(self.refused)
            if self._closed:
                raise _refusing(BudgetExhausted(_ENDED))
            params = kwargs.get("invocation_params") or {}
            try:
                reserved = gate.call_started(lambda: bound(messages, params, metadata or {}))
            except AgentensorError as refused:
                self.refused = refused
                raise _refusing(refused) from None
        with self._lock:
            if not self._closed:
                self._calls[run_id] = reserved
                return
        if gate is not None:  # it has ended just now
            gate.call_ended(reserved, NOTHING)
            raise _refusing(BudgetExhausted(_ENDED))

    def _end(self, run_id: UUID, used: Usage) -> None:
        with self._lock:
            reserved = self._calls.pop(run_id, None)
        if reserved is not None:
            self._settle(reserved, used)

    def _settle(self, reserved: Usage, used: Usage) -> None:
        with self._lock:
            self.total = self.total + used
        if self._gate is not None:
            self._gate.call_ended(reserved, used)


def _cost(message: Any, into: int, out: int) -> float | None:
    metadata = getattr(message, "response_metadata", None) or {}
    if metadata.get("simulated"):
        return 0.0
    model = metadata.get("model_name") or metadata.get("model")
    return price(str(model), into, out) if model else None


def bound(messages: Sequence[Any], params: Mapping[str, Any], metadata: Mapping[str, Any]) -> Usage:
    """The most that a call of these messages can use.

    No token is shorter than a byte, so the input has at most as many tokens as bytes in UTF-8. The
    output is bounded by the call's own cap; without one, or without a known price, nothing is
    reserved for that.
    """
    into = sum(len(_text(message).encode("utf-8", "replace")) for message in messages)
    into += MESSAGE_TOKENS * (len(messages) + 1)
    for key in ("tools", "functions", "response_format"):
        if params.get(key):
            into += len(json.dumps(params[key], default=str).encode())
    caps = [params.get(cap) for cap in LENGTH_CAPS] + [metadata.get("ls_max_tokens")]
    out = next((cap for cap in caps if isinstance(cap, int) and cap > 0), 0)
    model = params.get("model") or params.get("model_name") or metadata.get("ls_model_name")
    cost = price(str(model), into, out) if model else None
    return Usage(calls=1, input_tokens=into, output_tokens=out, cost=cost or 0.0)


def _text(message: Any) -> str:
    if isinstance(message, str):
        return message
    content = message.content
    text = content if isinstance(content, str) else json.dumps(content, default=str)
    calls = getattr(message, "tool_calls", None)
    return text + json.dumps(calls, default=str) if calls else text


_ENDED = "what made this model call has ended, and was paid for"


def _refusing(error: AgentensorError) -> AgentensorError:
    """`error`, about to be raised from a callback."""
    close_waiting_callbacks()
    return error


silence_refusals(UsageRecorder)
_recorder: ContextVar[UsageRecorder | None] = ContextVar("agentensor_usage", default=None)
register_configure_hook(_recorder, inheritable=True)


@contextmanager
def record_usage(gate: CallGate | None = None) -> Iterator[UsageRecorder]:
    """Count the chat-model calls made inside the block; an outer block does not see them."""
    with UsageRecorder(gate) as recorder:
        yield recorder


def add_usage(usage: Usage) -> None:
    """Count model calls that were made elsewhere (a remote run reports its own)."""
    recorder = _recorder.get()
    if recorder is not None:
        recorder.add(usage)

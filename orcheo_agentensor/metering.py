"""Counting model calls while they happen.

`record_usage()` sees every LangChain chat-model call made inside it, in any task or thread
started from there, whether or not the code under it passes its config on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tracers.context import register_configure_hook

from orcheo_agentensor.usage import NOTHING, Usage


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


@dataclass
class UsageRecorder(BaseCallbackHandler):
    """Adds up the model calls it is told of. Thread-safe; ask for `total` at the end."""

    total: Usage = NOTHING
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    # Runs in the caller's own thread of control: a count must be complete when the call returns.
    run_inline = True

    def __hash__(self) -> int:
        return id(self)

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        """Count one finished call."""
        first = response.generations[0][0] if response.generations else None
        message = first.message if isinstance(first, ChatGeneration) else None
        tokens = message.usage_metadata if isinstance(message, AIMessage) else None
        into = tokens["input_tokens"] if tokens else 0
        out = tokens["output_tokens"] if tokens else 0
        self.add(
            Usage(
                calls=1, input_tokens=into, output_tokens=out, cost=self._cost(message, into, out)
            )
        )

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        """A call that failed was a call all the same."""
        self.add(Usage(calls=1))

    def add(self, usage: Usage) -> None:
        """Add usage that came by another way than a callback."""
        with self._lock:
            self.total = self.total + usage

    @staticmethod
    def _cost(message: Any, into: int, out: int) -> float | None:
        metadata = getattr(message, "response_metadata", None) or {}
        if metadata.get("simulated"):
            return 0.0
        model = metadata.get("model_name") or metadata.get("model")
        return price(str(model), into, out) if model else None


_recorder: ContextVar[UsageRecorder | None] = ContextVar("agentensor_usage", default=None)
register_configure_hook(_recorder, inheritable=True)


@contextmanager
def record_usage() -> Iterator[UsageRecorder]:
    """Count the chat-model calls made inside the block; an outer block does not see them."""
    recorder = UsageRecorder()
    token = _recorder.set(recorder)
    try:
        yield recorder
    finally:
        _recorder.reset(token)

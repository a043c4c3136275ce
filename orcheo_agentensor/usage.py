"""What rollouts and model calls cost: counts, tokens and money, counted while they happen."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler

from orcheo_agentensor.errors import AgentensorError, BudgetExhausted, NoReply, client_retries
from orcheo_agentensor.upstream import (
    close_waiting_callbacks,
    register_handler,
    silence_refusals,
)

if TYPE_CHECKING:
    from langchain_core.outputs import LLMResult

ErrorT = TypeVar("ErrorT", bound=Exception)


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Counts of model calls and their tokens; `cost` in US dollars.

    `rollouts` counts executions of the target (every attempt of a retried one). `input_tokens` and
    `output_tokens` are what models reported; `unreported_calls` are those that reported nothing,
    and where there are any, `tokens` is None. `cost` is None where that of any call is unknown.
    `cached_calls` are answers of LangChain's cache, which are no calls and cost nothing.
    """

    rollouts: int = 0
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = 0.0
    unreported_calls: int = 0
    cached_calls: int = 0

    @property
    def tokens(self) -> int | None:
        """Input and output tokens together; None where a call did not report its own."""
        return None if self.unreported_calls else self.reported_tokens

    @property
    def reported_tokens(self) -> int:
        """Input and output tokens of the calls that reported them."""
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
            unreported_calls=self.unreported_calls + other.unreported_calls,
            cached_calls=self.cached_calls + other.cached_calls,
        )

    @classmethod
    def total(cls, usages: Iterable[Usage]) -> Usage:
        """The sum of many, whatever their order."""
        rollouts = calls = input_tokens = output_tokens = unreported_calls = cached_calls = 0
        costs: list[float] = []
        known = True
        for usage in usages:
            if usage is NOTHING:
                continue
            rollouts += usage.rollouts
            calls += usage.calls
            input_tokens += usage.input_tokens
            output_tokens += usage.output_tokens
            unreported_calls += usage.unreported_calls
            cached_calls += usage.cached_calls
            if usage.cost is None:
                known = False
            elif usage.cost:
                costs.append(usage.cost)
        return cls(
            rollouts=rollouts,
            calls=calls,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost=math.fsum(costs) if known else None,
            unreported_calls=unreported_calls,
            cached_calls=cached_calls,
        )

    def to_json(self) -> dict[str, Any]:
        """As stored in the ledger and printed in results; what is unknown is None."""
        known = not self.unreported_calls
        data: dict[str, Any] = {
            "rollouts": self.rollouts,
            "calls": self.calls,
            "input_tokens": self.input_tokens if known else None,
            "output_tokens": self.output_tokens if known else None,
            "tokens": self.tokens,
            "cost": self.cost,
        }
        if not known:
            data["reported"] = {"input_tokens": self.input_tokens}
            data["reported"]["output_tokens"] = self.output_tokens
            data["unreported_calls"] = self.unreported_calls
        if self.cached_calls:
            data["cached_calls"] = self.cached_calls
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Usage:
        """The inverse of `to_json`; unknown and derived keys are ignored."""
        tokens = data.get("reported") or data
        return cls(
            rollouts=int(data.get("rollouts", 0)),
            calls=int(data.get("calls", 0)),
            input_tokens=int(tokens.get("input_tokens", 0)),
            output_tokens=int(tokens.get("output_tokens", 0)),
            cost=data.get("cost", 0.0),
            unreported_calls=int(data.get("unreported_calls", 0)),
            cached_calls=int(data.get("cached_calls", 0)),
        )


NOTHING = Usage()
ONE_ROLLOUT = Usage(rollouts=1)
ONE_CALL = Usage(calls=1)
UNREPORTED_CALL = Usage(calls=1, unreported_calls=1, cost=None)


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


class TokenCounts(NamedTuple):
    """The tokens of a call by class; `input` and `output` include all others of their side."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    input_audio: int = 0
    output_audio: int = 0


_OF_BEDROCK = re.compile(
    r"(?:[a-z]{2,6}\.)?(?:ai21|amazon|anthropic|cohere|deepseek|meta|mistral|openai|qwen)\."
)
"""How ids of models on Bedrock begin."""


def price(model: str, tokens: TokenCounts, provider: str | None = None) -> float | None:
    """Price of one call now in US dollars by genai-prices; None for a model it does not know."""
    return _price_at(_minute(), model, tokens, provider)


def _minute() -> datetime:
    """This minute: some providers are cheaper at night, so that a price belongs to a time."""
    return datetime.now(UTC).replace(second=0, microsecond=0)


@lru_cache(maxsize=4096)
def _price_at(
    minute: datetime, model: str, tokens: TokenCounts, provider: str | None
) -> float | None:
    from genai_prices import Usage as Priced
    from genai_prices import calc_price

    counted = Priced(
        input_tokens=tokens.input,
        output_tokens=tokens.output,
        cache_read_tokens=tokens.cache_read,
        cache_write_tokens=tokens.cache_write,
        input_audio_tokens=tokens.input_audio,
        output_audio_tokens=tokens.output_audio,
    )
    bedrock = "aws" if _OF_BEDROCK.match(model) else None  # by whatever integration
    for provider_id in dict.fromkeys((provider, bedrock, None)):
        try:
            found = calc_price(
                counted, model, provider_id=provider_id, genai_request_timestamp=minute
            )
            return float(found.total_price)
        except (LookupError, ValueError):  # an unknown model; counts that contradict each other
            continue
    return None


_INPUT = (
    "input_tokens",
    "prompt_tokens",
    "inputTokens",
    "inputTokenCount",
    "input_token_count",
    "prompt_token_count",
    "promptTokenCount",
    "prompt_eval_count",
)
_OUTPUT = (
    "output_tokens",
    "completion_tokens",
    "outputTokens",
    "outputTokenCount",
    "generated_token_count",
    "output_token_count",
    "candidates_token_count",
    "candidatesTokenCount",
    "eval_count",
)
_THOUGHTS = ("thoughts_token_count", "thoughtsTokenCount")
"""Tokens of Gemini's output that its other count is without."""
_CACHE_READ = ("cache_read_input_tokens", "cacheReadInputTokens")
_CACHE_WRITE = ("cache_creation_input_tokens", "cacheWriteInputTokens")
_CACHED = (
    "cached_tokens",  # OpenAI, in the details of the input
    "cached_content_token_count",  # Gemini
    "cachedContentTokenCount",
    "prompt_cache_hit_tokens",  # DeepSeek
)
"""Tokens read from a cache that the count of the input is with."""
_PLACES = (
    "token_usage",
    "usage",
    "usage_metadata",
    "usageMetadata",
    "amazon-bedrock-invocationMetrics",
    "token_count",  # Cohere
    "tokens",
    "meta",
)


def token_counts(response: LLMResult) -> TokenCounts | None:
    """The tokens that a reply reports, wherever its integration puts them; None where it does not.

    LangChain's own place is `usage_metadata`; older integrations report in `response_metadata`,
    models that complete text in `llm_output`, each in the words of its provider. A report of no
    tokens beside a reply with text is none.
    """
    first = response.generations[0][0] if response.generations and response.generations[0] else None
    message = getattr(first, "message", None)
    reported: Mapping[str, Any] = getattr(message, "usage_metadata", None) or {}
    found = reported_counts(reported) if reported else None
    told = (
        getattr(message, "response_metadata", None),
        getattr(first, "generation_info", None),
        response.llm_output,
    )
    for place in told:
        if found is None and isinstance(place, Mapping):
            found = provider_counts(place)
    has_text = bool(first is not None and (first.text or getattr(message, "tool_calls", None)))
    if found is None or (found.input == found.output == 0 and has_text):
        return None
    return found


def reported_counts(reported: Mapping[str, Any]) -> TokenCounts:
    """LangChain's `UsageMetadata`."""
    into = reported.get("input_token_details") or {}
    out = reported.get("output_token_details") or {}
    written = into.get("cache_creation") or 0
    if not written:  # by how long they are kept
        written = sum(value or 0 for key, value in into.items() if key.startswith("ephemeral_"))
    return TokenCounts(
        input=reported.get("input_tokens") or 0,
        output=reported.get("output_tokens") or 0,
        cache_read=into.get("cache_read") or 0,
        cache_write=written,
        input_audio=into.get("audio") or 0,
        output_audio=out.get("audio") or 0,
    )


def provider_counts(place: Mapping[str, Any]) -> TokenCounts | None:
    """A provider's own words, in `place` itself or under one of the names they use for it."""
    for report in (place, *(place.get(name) for name in _PLACES)):
        if not isinstance(report, Mapping):
            continue
        into, out = _first_count(report, _INPUT), _first_count(report, _OUTPUT)
        if into is None or out is None:
            nested = None if report is place else provider_counts(report)
            if nested is not None:
                return nested
            continue
        read = _first_count(report, _CACHE_READ) or 0
        written = _first_count(report, _CACHE_WRITE) or 0
        within = _first_count(report, _CACHED) or 0
        for details in (report.get("prompt_tokens_details"), report.get("input_tokens_details")):
            within = within or (
                _first_count(details, _CACHED) or 0 if isinstance(details, Mapping) else 0
            )
        return TokenCounts(
            input=into + read + written,  # where these are told, the input is without them
            output=out + (_first_count(report, _THOUGHTS) or 0),
            cache_read=read or within,
            cache_write=written,
        )
    return None


def _first_count(report: Mapping[str, Any], names: Sequence[str]) -> int | None:
    values = (report.get(name) for name in names)
    return next((int(v) for v in values if isinstance(v, int | float) and v == v), None)


_ENDINGS = (
    "finish_reason",
    "finishReason",
    "stop_reason",
    "stopReason",
    "done_reason",
    "completionReason",
    "stop_type",
)
_CUT = frozenset(
    {
        "length",  # OpenAI, Ollama, vLLM, TGI, Titan
        "max_tokens",  # Anthropic, Bedrock, Gemini, Cohere, watsonx
        "max_output_tokens",  # OpenAI's responses
        "model_length",  # Mistral
        "error_limit",  # Cohere
        "token_limit",  # watsonx
        "limit",  # llama.cpp
        "model_context_window_exceeded",  # Anthropic, where the context is full
    }
)


def is_cut(metadata: Mapping[str, Any]) -> bool:
    """Whether a reply with this metadata was cut off by its length, in any provider's words."""
    details = metadata.get("incomplete_details")
    said = [metadata.get(key) for key in _ENDINGS]
    said.append(details.get("reason") if isinstance(details, Mapping) else None)
    # Gemini's is an enum: "FinishReason.MAX_TOKENS".
    return any(str(one).rpartition(".")[2].lower() in _CUT for one in said if one)


def is_cut_by(error: BaseException) -> bool:
    """Whether a client has raised because of the length, as OpenAI's does for structured output."""
    choices = getattr(getattr(error, "completion", None), "choices", None) or ()
    return any(is_cut({"finish_reason": choice.finish_reason}) for choice in choices)


def is_unreadable(error: BaseException) -> bool:
    """Whether a client of a model has failed over an answer that is not as it should be, such as a
    choice without a message."""
    if not isinstance(error, KeyError | IndexError | TypeError | AttributeError):
        return False
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    module = "" if at is None else str(at.tb_frame.f_globals.get("__name__"))
    return module.startswith("langchain_")


def is_overflow(error: BaseException) -> bool:
    """Whether a model refused a request because it is longer than the model's window."""
    from langchain_core.exceptions import ContextOverflowError

    told = str(error).lower()
    return isinstance(error, ContextOverflowError) or (
        "context" in told
        and any(word in told for word in ("length", "size", "window"))
        and any(word in told for word in ("exceed", "maximum", "too long"))
    )


def is_empty(content: Any) -> bool:
    """Whether the content of a message has no text, and nothing else but reasoning."""
    if isinstance(content, list):
        return all(map(is_empty, content))
    if isinstance(content, Mapping):
        kind = content.get("type")
        return kind in _REASONING or (kind in _TEXT and is_empty(content.get("text")))
    return content is None or (isinstance(content, str) and not content.strip())


_TEXT = ("text", "output_text")
_REASONING = ("thinking", "redacted_thinking", "reasoning", "reasoning_content")


class UsageRecorder(BaseCallbackHandler):
    """Adds up the model calls made in its `with` block. Thread-safe; ask for `total` after it.

    `empty` and `cut` count the replies without text or tool calls, and those cut off by their
    length. `threads` are the ids of LangGraph threads that graphs ran on, unless it is to
    `ignore_chain`: a graph tells of each of its nodes, and of most graphs nobody wants to know.

    A call that the block left behind unfinished counts as one whose tokens are unknown, or, with a
    `gate`, as having used what was reserved for it. With a `gate` each call is reserved first; once
    one was `refused`, so is every further one, and so are calls that come after the block.
    """

    # Runs in the caller's own thread of control: a count must be complete when the call returns.
    run_inline = True
    raise_error = True  # or a refused call would be made all the same

    def __init__(self, gate: CallGate | None = None) -> None:
        self.total = NOTHING
        self.refused: AgentensorError | None = None
        self.empty = self.cut = 0
        self.threads: set[str] = set()
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
            self._settle(reserved, reserved if self._gate is not None else UNREPORTED_CALL)

    ignore_chain = True
    ignore_agent = ignore_retriever = True  # tools, and lookups, are no model calls

    def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: Any,
        *,
        metadata: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Note the thread that a graph runs on."""
        if metadata and isinstance(thread_id := metadata.get("thread_id"), str):
            self.threads.add(thread_id)

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
        """Count one finished call. Raises `NoReply` for one without any message: a list of choices
        that is empty, which LangChain would look into."""
        self.replied(*_reply_of(response))
        self._end(run_id, usage_of(response))
        if not any(response.generations):
            raise _raising(NoReply("the model gave no reply: its list of choices is empty"))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Count a call that failed; some clients raise with a reply that was paid for. Raises
        `NoReply` in the place of what a client says where it cannot read the answer."""
        self.replied(cut=is_cut_by(error))
        self._end(run_id, usage_of_error(error))
        if is_unreadable(error):
            raise _raising(NoReply("the model gave no reply that its client can read")) from error

    def replied(self, empty: bool = False, cut: bool = False) -> None:
        """Count a reply that was empty, or cut off by its length."""
        if empty or cut:
            with self._lock:
                self.empty += empty
                self.cut += cut

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
                raise _raising(self.refused)
            if self._closed:
                raise _raising(BudgetExhausted(_ENDED))
            params = kwargs.get("invocation_params") or {}
            try:
                reserved = gate.call_started(lambda: bound(messages, params, metadata or {}))
            except AgentensorError as refused:
                self.refused = refused
                raise _raising(refused) from None
        with self._lock:
            if not self._closed:
                self._calls[run_id] = reserved
                return
        if gate is not None:  # it has ended just now
            gate.call_ended(reserved, NOTHING)
            raise _raising(BudgetExhausted(_ENDED))

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


def usage_of(response: LLMResult) -> Usage:
    """What one answered call took; a hit of LangChain's cache is no call."""
    first = response.generations[0][0] if response.generations and response.generations[0] else None
    message = getattr(first, "message", None)
    if (getattr(message, "usage_metadata", None) or {}).get("total_cost") == 0:
        return Usage(cached_calls=1)
    own = getattr(message, "response_metadata", None) or {}
    return one_call(token_counts(response), {**(response.llm_output or {}), **own})


def _reply_of(response: LLMResult) -> tuple[bool, bool]:
    """Whether a reply is empty, and whether it was cut off by its length."""
    empty = cut = False
    for generation in (one for several in response.generations for one in several):
        info = getattr(generation, "generation_info", None) or {}
        message = getattr(generation, "message", None)
        if message is None:
            empty |= is_empty(generation.text)
        else:
            extra = message.additional_kwargs
            said = getattr(message, "tool_calls", None) or getattr(
                message, "invalid_tool_calls", None
            )
            other = any(extra.get(key) for key in ("function_call", "audio", "refusal"))
            empty |= is_empty(message.content) and not said and not other
            info = {**info, **message.response_metadata}
        cut |= is_cut(info)
    return empty, cut or is_cut(response.llm_output or {})


def usage_of_error(error: BaseException) -> Usage:
    """What a failed call took: that of the reply the client raised with, or nothing but the call,
    and those by which the client tried again.

    OpenAI's client raises `LengthFinishReasonError`, which holds the `completion`, where a reply
    with a structured output was cut by its length.
    """
    completion = getattr(error, "completion", None)
    reported = getattr(completion, "usage", None)
    if reported is None:
        retried = client_retries(error)
        return replace(ONE_CALL, calls=1 + retried) if retried else ONE_CALL
    counts = provider_counts(reported if isinstance(reported, Mapping) else vars(reported))
    return one_call(counts, {"model": getattr(completion, "model", None)})


def one_call(counts: TokenCounts | None, metadata: Mapping[str, Any]) -> Usage:
    """The usage of a call with these tokens; None for a reply that reported none.

    `metadata` is that of the reply: `model_name` or the like, `model_provider`, `simulated`.
    """
    simulated = bool(metadata.get("simulated"))
    if counts is None:
        return replace(UNREPORTED_CALL, cost=0.0 if simulated else None)
    model = metadata.get("model_name") or metadata.get("model") or metadata.get("model_id")
    cost = price(str(model), counts, metadata.get("model_provider")) if model else None
    return Usage(
        calls=1,
        input_tokens=counts.input,
        output_tokens=counts.output,
        cost=0.0 if simulated else cost,
    )


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
    costs = [
        price(str(model), TokenCounts(input=into, output=out, cache_write=written)) or 0.0
        for written in (0, into)  # writing a cache can cost more than reading the input
        if model
    ]
    return Usage(calls=1, input_tokens=into, output_tokens=out, cost=max(costs, default=0.0))


def _text(message: Any) -> str:
    if isinstance(message, str):
        return message
    content = message.content
    text = content if isinstance(content, str) else json.dumps(content, default=str)
    calls = getattr(message, "tool_calls", None)
    return text + json.dumps(calls, default=str) if calls else text


_ENDED = "what made this model call has ended, and was paid for"


def _raising(error: ErrorT) -> ErrorT:
    """`error`, about to be raised from a callback."""
    close_waiting_callbacks()
    return error


silence_refusals(UsageRecorder)
_recorder: ContextVar[UsageRecorder | None] = ContextVar("agentensor_usage", default=None)
register_handler(_recorder)


@contextmanager
def record_usage(gate: CallGate | None = None) -> Iterator[UsageRecorder]:
    """Count the chat-model calls made inside the block; an outer block does not see them."""
    with UsageRecorder(gate) as recorder:
        yield recorder


def is_counting() -> bool:
    """Whether model calls are counted here: in a rollout, a judge or a proposer, which are tried
    again as the job's limits say."""
    return _recorder.get() is not None


def add_usage(usage: Usage, *, cut: int = 0) -> None:
    """Count model calls that were made elsewhere (a remote run reports its own), and how many of
    their replies were cut off by their length."""
    recorder = _recorder.get()
    if recorder is not None:
        recorder.add(usage)
        recorder.cut += cut

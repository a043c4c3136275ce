"""What a model call took, from whatever its integration reports."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult, Generation, LLMResult

from orcheo_agentensor import Budget
from orcheo_agentensor.errors import BudgetExhausted
from orcheo_agentensor.training.budget import BudgetMeter
from orcheo_agentensor.usage import (
    NOTHING,
    TokenCounts,
    Usage,
    price,
    record_usage,
    token_counts,
)


class Reporting(BaseChatModel):
    """A chat model that answers, or raises, what it is told to."""

    message: Any = None
    error: Any = None
    llm_output: dict[str, Any] | None = None

    @property
    def _llm_type(self) -> str:
        return "reporting"

    def _generate(
        self,
        messages: Any,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if self.error is not None:
            raise self.error
        answer = ChatGeneration(message=self.message.model_copy())
        return ChatResult(generations=[answer], llm_output=self.llm_output)


class Completing(BaseLLM):
    """A model that completes text and reports in `llm_output`."""

    @property
    def _llm_type(self) -> str:
        return "completing"

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        counts = {"prompt_tokens": 3153, "completion_tokens": 472, "total_tokens": 3625}
        told = {"token_usage": counts, "model_name": "gpt-3.5-turbo-instruct"}
        return LLMResult(generations=[[Generation(text="done")]], llm_output=told)


def usage_of_call(model: Any) -> Usage:
    with record_usage() as recorder, contextlib.suppress(RuntimeError):
        model.invoke("hi")
    return recorder.total


def reply(
    model: str | None = None,
    *,
    into: int | None = None,
    out: int = 0,
    details: dict[str, int] | None = None,
    **metadata: Any,
) -> AIMessage:
    reported: Any = None
    if into is not None:
        reported = {"input_tokens": into, "output_tokens": out, "total_tokens": into + out}
        reported["input_token_details"] = details or {}
    named = {"model_name": model} if model else {}
    return AIMessage("ok", usage_metadata=reported, response_metadata=named | metadata)


compat = pytest.mark.compat


@compat(
    "usage", "Anthropic, OpenAI", "`usage_metadata` with cached tokens, each class at its price"
)
@pytest.mark.parametrize(
    ("model", "details", "dollars"),
    [
        ("claude-sonnet-4-5", {"cache_read": 95_000}, 0.0437),
        ("claude-sonnet-4-5", {"cache_creation": 95_000}, 0.3714),
        ("claude-sonnet-4-5", {"ephemeral_5m_input_tokens": 95_000}, 0.3714),
        ("claude-sonnet-4-5", {}, 0.3002),
        ("gpt-4o", {"cache_read": 95_000}, 0.1314),
        ("gpt-4o", {}, 0.2501),
    ],
)
def test_every_class_of_token_has_its_own_price(
    model: str, details: dict[str, int], dollars: float
) -> None:
    used = usage_of_call(Reporting(message=reply(model, into=100_000, out=10, details=details)))
    assert used.tokens == 100_010
    assert used.cost == pytest.approx(dollars, abs=0.00006)


@pytest.mark.parametrize(
    ("metadata", "counts"),
    [
        pytest.param(
            {"token_usage": {"prompt_tokens": 1000, "completion_tokens": 50}},
            (1000, 50),
            marks=compat("usage", "OpenAI, Mistral, Groq", "chat completions: `token_usage`"),
        ),
        pytest.param(
            {"usage": {"input_tokens": 1000, "output_tokens": 50}},
            (1000, 50),
            marks=compat("usage", "OpenAI, Anthropic", "Responses API and Anthropic: `usage`"),
        ),
        pytest.param(
            {"usage": {"inputTokens": 1000, "outputTokens": 50}},
            (1000, 50),
            marks=compat("usage", "Bedrock", "Converse: `usage.inputTokens`"),
        ),
        pytest.param(
            {"usage_metadata": {"prompt_token_count": 7, "candidates_token_count": 3}},
            (7, 3),
            marks=compat("usage", "Gemini", "`usage_metadata.prompt_token_count`"),
        ),
        pytest.param(
            {"prompt_eval_count": 7, "eval_count": 3},
            (7, 3),
            marks=compat("usage", "Ollama", "`prompt_eval_count`, `eval_count`"),
        ),
        pytest.param(
            {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 7, "outputTokenCount": 3}},
            (7, 3),
            marks=compat("usage", "Bedrock", "InvokeModel: `amazon-bedrock-invocationMetrics`"),
        ),
        pytest.param(
            {"usage": {"input_tokens": 5, "cache_read_input_tokens": 95, "output_tokens": 2}},
            (100, 2),
            marks=compat("usage", "Anthropic", "a prompt cache: `cache_read_input_tokens`"),
        ),
        pytest.param(
            {"token_count": {"input_tokens": 7.0, "output_tokens": 3.0}},
            (7, 3),
            marks=compat("usage", "Cohere", "`token_count`"),
        ),
        pytest.param(
            {"meta": {"tokens": {"input_tokens": 7.0, "output_tokens": 3.0}}},
            (7, 3),
            marks=compat("usage", "Cohere", "`meta.tokens`"),
        ),
        pytest.param(
            {"usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}},
            (7, 3),
            marks=compat("usage", "OpenRouter, vLLM, DeepSeek", "OpenAI-shaped: `usage`"),
        ),
    ],
)
@pytest.mark.parametrize("place", ["response_metadata", "llm_output"])
def test_counts_are_found_where_older_integrations_put_them(
    place: str, metadata: dict[str, Any], counts: tuple[int, int]
) -> None:
    model = Reporting(message=reply(**metadata))
    if place == "llm_output":
        model = Reporting(message=reply(), llm_output=metadata)
    used = usage_of_call(model)
    assert (used.input_tokens, used.output_tokens) == counts
    assert used.tokens == sum(counts)


@compat("usage", "text-completion models", "`llm_output.token_usage`")
def test_a_model_that_completes_text_is_counted_and_priced() -> None:
    used = usage_of_call(Completing())
    assert (used.calls, used.input_tokens, used.output_tokens) == (1, 3153, 472)
    assert used.cost is not None
    assert used.cost > 0


@compat("usage", "OpenAI", "a structured output cut by its length: in the exception")
def test_a_reply_that_was_cut_is_paid_for_though_the_client_raises() -> None:
    class LengthFinishReasonError(RuntimeError):
        completion = SimpleNamespace(
            model="gpt-4o", usage=SimpleNamespace(prompt_tokens=100, completion_tokens=14)
        )

    used = usage_of_call(Reporting(error=LengthFinishReasonError("cut")))
    assert (used.calls, used.tokens) == (1, 114)
    assert used.cost == pytest.approx(100 * 2.5e-6 + 14 * 1e-5)


@compat(
    "usage",
    "any",
    "nothing is reported, as in some streams",
    works_with="`null` for tokens and cost; a budget of these ends",
)
def test_what_nobody_reports_is_unknown_and_not_zero() -> None:
    for message in (reply("gpt-4o"), reply("gpt-4o", into=0, out=0)):
        used = usage_of_call(Reporting(message=message))
        assert (used.calls, used.tokens, used.cost) == (1, None, None)
        written = used.to_json()
        assert (written["tokens"], written["input_tokens"], written["cost"]) == (None, None, None)
    known = usage_of_call(Reporting(message=reply("gpt-4o", into=10, out=5)))
    assert (used + known).tokens is None
    assert (used + known).to_json()["reported"] == {"input_tokens": 10, "output_tokens": 5}


@compat("usage", "LangChain", "an answer from its LLM cache: no call, counted apart")
def test_an_answer_from_the_cache_is_no_call_and_counted_apart() -> None:
    model = Reporting(message=reply("gpt-4o", into=10, out=5), cache=InMemoryCache())
    assert usage_of_call(model).calls == 1
    assert usage_of_call(model) == Usage(cached_calls=1)


def test_a_call_that_is_left_behind_has_unknown_tokens() -> None:
    from uuid import uuid4

    with record_usage() as recorder:
        recorder.on_llm_start({}, ["hi"], run_id=uuid4())
    assert recorder.total.calls == 1
    assert recorder.total.tokens is None


@pytest.mark.parametrize(
    ("budget", "named"), [(Budget(tokens=500), "500 tokens"), (Budget(cost=0.5), r"\$0\.5")]
)
def test_a_budget_that_cannot_be_kept_ends_at_the_first_unreported_call(
    budget: Budget, named: str
) -> None:
    meter = BudgetMeter(budget)
    model = Reporting(message=reply("gpt-4o"))
    with record_usage(meter) as recorder:
        model.invoke("hi")
    meter.spent(recorder.total)
    with (
        record_usage(meter),
        pytest.raises(BudgetExhausted, match=rf"{named} cannot be kept.*does not report"),
    ):
        model.invoke("hi")


usages = st.builds(
    Usage,
    rollouts=st.integers(0, 9),
    calls=st.integers(0, 9),
    input_tokens=st.integers(0, 9),
    output_tokens=st.integers(0, 9),
    cost=st.none() | st.integers(0, 64).map(lambda n: n / 8),
    unreported_calls=st.integers(0, 2),
    cached_calls=st.integers(0, 2),
)


@given(usages, usages, usages)
def test_usages_add_up_in_any_order_and_keep_their_json(a: Usage, b: Usage, c: Usage) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert a + NOTHING == a
    assert Usage.from_json(a.to_json()) == a


SHAPES: dict[str, tuple[dict[str, Any], int, float | None]] = {
    "Gemini": (
        {
            "usage_metadata": {
                "prompt_token_count": 1000,
                "candidates_token_count": 40,
                "thoughts_token_count": 10,
                "cached_content_token_count": 800,
            },
            "model_name": "gemini-2.5-flash",
        },
        800,
        0.000209,
    ),
    "Gemini's REST": (
        {
            "usageMetadata": {
                "promptTokenCount": 1000,
                "candidatesTokenCount": 40,
                "thoughtsTokenCount": 10,
            },
            "model_name": "gemini-2.5-flash",
        },
        0,
        0.000425,
    ),
    "Bedrock": (
        {
            "usage": {"inputTokens": 1000, "outputTokens": 50},
            "model_name": "anthropic.claude-3-haiku-20240307-v1:0",
        },
        0,
        0.0003125,
    ),
    "Bedrock invoke": (
        {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 1000, "outputTokenCount": 50}},
        0,
        None,
    ),
    "Cohere": ({"token_count": {"input_tokens": 1000.0, "output_tokens": 50.0}}, 0, None),
    "Cohere v2": (
        {
            "usage": {
                "billed_units": {"input_tokens": 900, "output_tokens": 50},
                "tokens": {"input_tokens": 1000, "output_tokens": 50},
            }
        },
        0,
        None,
    ),
    "Cohere's API": ({"meta": {"tokens": {"input_tokens": 1000, "output_tokens": 50}}}, 0, None),
    "Mistral": (
        {
            "token_usage": {"prompt_tokens": 1000, "completion_tokens": 50},
            "model_name": "mistral-small-latest",
        },
        0,
        0.00018,
    ),
    "Ollama": ({"model": "llama3", "prompt_eval_count": 1000, "eval_count": 50}, 0, None),
    "vLLM": (
        {
            "token_usage": {
                "prompt_tokens": 1000,
                "completion_tokens": 50,
                "prompt_tokens_details": None,
            }
        },
        0,
        None,
    ),
    "DeepSeek": (
        {
            "token_usage": {
                "prompt_tokens": 1000,
                "completion_tokens": 50,
                "prompt_cache_hit_tokens": 900,
                "prompt_cache_miss_tokens": 100,
            },
            "model_name": "deepseek-chat",
        },
        900,
        0.000145,
    ),
    "OpenAI's responses": (
        {
            "usage": {
                "input_tokens": 1000,
                "output_tokens": 50,
                "input_tokens_details": {"cached_tokens": 900},
            },
            "model_name": "gpt-4o",
        },
        900,
        0.001875,
    ),
    "watsonx": ({"token_usage": {"input_token_count": 1000, "generated_token_count": 50}}, 0, None),
}


NOON = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


def test_a_call_in_the_hours_that_a_provider_makes_cheaper_costs_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens = TokenCounts(input=100, output=50, cache_read=0)
    monkeypatch.setattr("orcheo_agentensor.usage._minute", lambda: NOON)
    by_day = price("deepseek-chat", tokens)
    monkeypatch.setattr("orcheo_agentensor.usage._minute", lambda: NOON.replace(hour=20))
    assert by_day is not None
    assert price("deepseek-chat", tokens) == pytest.approx(by_day / 2)


@pytest.mark.parametrize("provider", SHAPES)
def test_usage_is_read_in_every_providers_words(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orcheo_agentensor.usage._minute", lambda: NOON)
    metadata, read, cost = SHAPES[provider]
    message = AIMessage("hi", response_metadata=metadata)
    used = usage_of_call(Reporting(message=message))
    assert (used.input_tokens, used.output_tokens) == (1000, 50)
    assert used.cost == (None if cost is None else pytest.approx(cost))
    assert used.unreported_calls == 0
    counts = token_counts(LLMResult(generations=[[ChatGeneration(message=message)]]))
    assert counts is not None
    assert counts.cache_read == read


def test_half_a_report_is_none() -> None:
    message = AIMessage("hi", response_metadata={"model": "llama3", "eval_count": 50})
    used = usage_of_call(Reporting(message=message))
    assert (used.unreported_calls, used.tokens, used.cost) == (1, None, None)

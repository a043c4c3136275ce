"""Replies that are empty, or cut off by their length, are counted beside the scores."""

from __future__ import annotations

from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult, Generation, LLMResult
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph

from orcheo_agentensor import (
    Limits,
    LLMJudge,
    MaxSteps,
    Store,
    TextGrad,
    aevaluate,
    atrain,
    get_prompt,
)


class FinishReason(Enum):
    """As Gemini's client has it."""

    MAX_TOKENS = 2
    STOP = 1


CUT: dict[str, dict[str, Any]] = {
    "OpenAI, vLLM": {"finish_reason": "length"},
    "OpenAI responses": {
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
    },
    "Anthropic": {"stop_reason": "max_tokens"},
    "Anthropic's context": {"stop_reason": "model_context_window_exceeded"},
    "Bedrock": {"stopReason": "max_tokens"},
    "Titan": {"completionReason": "LENGTH"},
    "Gemini": {"finish_reason": "MAX_TOKENS"},
    "Gemini's enum": {"finish_reason": FinishReason.MAX_TOKENS},
    "Gemini's enum as text": {"finish_reason": "FinishReason.MAX_TOKENS"},
    "Cohere": {"finish_reason": "MAX_TOKENS"},
    "Cohere's context": {"finish_reason": "ERROR_LIMIT"},
    "Mistral": {"finish_reason": "model_length"},
    "Ollama": {"done_reason": "length"},
}
WHOLE: dict[str, dict[str, Any]] = {
    "OpenAI": {"finish_reason": "stop", "incomplete_details": None},
    "Anthropic": {"stop_reason": "end_turn"},
    "Gemini": {"finish_reason": FinishReason.STOP},
    "Cohere": {"finish_reason": "COMPLETE"},
    "Ollama": {"done_reason": "stop", "done": True},
}


class Answering(BaseChatModel):
    """Gives the message it holds, or raises."""

    message: Any = None
    info: dict[str, Any] | None = None
    error: Any = None

    @property
    def _llm_type(self) -> str:
        return "answering"

    def _generate(
        self,
        messages: Any,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if self.error is not None:
            raise self.error
        made = ChatGeneration(message=self.message, generation_info=self.info)
        return ChatResult(generations=[made])


async def counted(model: Any, output: Any = "fine") -> tuple[int, int]:
    """The empty and cut replies of a case in which `model` is called."""

    async def target(inputs: Any) -> Any:
        await model.ainvoke("hi")
        return output

    report = await aevaluate(
        target, dataset=[{"inputs": 1}], evaluators=["json_valid"], limits=Limits(retries=0)
    )
    (case,) = report.cases
    return case.empty_replies, case.cut_replies


@pytest.mark.parametrize("provider", CUT)
async def test_a_reply_cut_off_is_known_in_every_providers_words(provider: str) -> None:
    message = AIMessage("Once upon", response_metadata=CUT[provider])
    assert await counted(Answering(message=message)) == (0, 1)
    message = AIMessage("Once upon")
    assert await counted(Answering(message=message, info=CUT[provider])) == (0, 1)


@pytest.mark.parametrize("provider", WHOLE)
async def test_a_whole_reply_is_counted_as_neither(provider: str) -> None:
    message = AIMessage("Once upon a time.", response_metadata=WHOLE[provider])
    assert await counted(Answering(message=message)) == (0, 0)


async def test_a_client_that_raises_for_the_length_is_counted() -> None:
    error = ValueError("length limit was reached")
    error.completion = SimpleNamespace(  # type: ignore[attr-defined]
        choices=[SimpleNamespace(finish_reason="length")], usage=None, model="m"
    )
    assert await counted(Answering(error=error)) == (0, 1)


class Completing(BaseLLM):
    """A model that completes text."""

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
        made = Generation(text=" ", generation_info={"finish_reason": "length"})
        return LLMResult(generations=[[made]])


async def test_a_model_that_completes_text_is_counted() -> None:
    assert await counted(Completing()) == (1, 1)


EMPTY: list[dict[str, Any]] = [
    {"content": ""},
    {"content": " \n"},
    {"content": []},
    {"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": ""}]},
    {"content": [{"type": "reasoning", "summary": []}]},
    {"content": "", "additional_kwargs": {"reasoning_content": "Hm."}},  # DeepSeek
]
CALL = {"name": "search", "args": {}, "id": "1"}
SAYING: list[dict[str, Any]] = [
    {"content": "No."},
    {"content": [{"type": "text", "text": "No."}]},
    {"content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
    {"content": "", "tool_calls": [CALL]},
    {"content": "", "additional_kwargs": {"refusal": "I will not."}},
    {"content": "", "additional_kwargs": {"audio": {"id": "a"}}},
]


@pytest.mark.parametrize("message", EMPTY)
async def test_a_reply_without_text_or_tool_call_is_empty(message: dict[str, Any]) -> None:
    assert await counted(Answering(message=AIMessage(**message))) == (1, 0)


@pytest.mark.parametrize("message", SAYING)
async def test_a_reply_that_says_something_is_not_empty(message: dict[str, Any]) -> None:
    assert await counted(Answering(message=AIMessage(**message))) == (0, 0)


@pytest.mark.parametrize(
    ("output", "empty"),
    [
        ("", 1),
        (None, 1),
        ({"messages": [{"role": "assistant", "content": ""}]}, 1),
        ({"messages": [AIMessage([{"type": "thinking", "thinking": "Hm."}])]}, 1),
        ({"messages": [AIMessage("", tool_calls=[CALL])]}, 0),
        ({"messages": []}, 0),
        ([], 0),
        (0, 0),
    ],
)
async def test_an_output_without_text_is_an_empty_reply(output: Any, empty: int) -> None:
    assert await counted(Answering(message=AIMessage("yes")), output) == (empty, 0)


async def test_they_are_counted_by_case_told_stored_and_replayed(store: Store) -> None:
    replies = iter(
        [
            AIMessage("whole"),
            AIMessage("ha", response_metadata={"finish_reason": "length"}),
            AIMessage(""),
            AIMessage("ha", response_metadata={"stop_reason": "max_tokens"}),
        ]
    )

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await Answering(message=next(replies)).ainvoke("hi")]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    cases = [{"id": str(n), "inputs": {"messages": [("user", str(n))]}} for n in range(4)]
    events: list[dict[str, Any]] = []
    job: dict[str, Any] = {
        "dataset": cases,
        "evaluators": ["json_valid"],
        "limits": Limits(concurrency=1),
        "store": store,
        "workflow_id": "w",
    }
    report = await aevaluate(graph, run_id="r", on_event=events.append, **job)
    assert (report.summary["empty_replies"], report.summary["cut_replies"]) == (1, 2)
    assert [(one.empty_replies, one.cut_replies) for one in report.cases] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (0, 1),
    ]
    told = [one["message"] for one in events if one["type"] == "warning"]
    assert [text.split(":")[0] for text in told] == [
        "1 of 4 cases had a reply without text",
        "2 of 4 cases had a reply that was cut off",
    ]
    finished = [one for one in events if one["type"] == "case_finished"]
    assert [one.get("cut_replies", 0) for one in finished] == [0, 1, 0, 1]
    again = await aevaluate(graph, run_id="r", **job)
    assert again.cases[1].cut_replies == 1
    assert again.cases[0].tape is None
    reused = await aevaluate(graph, reuse="r", **job)
    assert reused.summary["cut_replies"] == 2


class Silent(ChatOpenAI):
    """Its server answers without a choice, or with one that has no message."""

    answer: Any = None

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return self._create_chat_result(self.answer)

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return self._create_chat_result(self.answer)


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ([], "NoReply: the model gave no reply: its list of choices is empty"),
        ([{}], "KeyError: 'message' (raised as NoReply: the model gave no reply that its client"),
        ([{"message": None}], "(raised as NoReply: the model gave no reply that its client"),
        (None, "Received response with null value for 'choices'"),
    ],
)
@pytest.mark.requirement("evaluation.failures")
async def test_an_answer_without_a_reply_is_a_failure_that_says_so(choices: Any, told: str) -> None:
    silent = Silent(model="m", api_key="none", answer={"choices": choices, "model": "m"})  # type: ignore[arg-type]

    async def target(inputs: Any) -> Any:
        return str((await silent.ainvoke("hi")).text)

    judge = LLMJudge(name="polite", rubric="It is polite.", model=silent)
    limits, cases = Limits(retries=0), [{"inputs": 1}]
    failed = await aevaluate(target, dataset=cases, evaluators=["json_valid"], limits=limits)
    assert told in failed.cases[0].target_failure.reason  # type: ignore[union-attr]
    judged = await aevaluate(lambda x: "ok", dataset=cases, evaluators=[judge], limits=limits)
    assert told in judged.cases[0].failures[0].reason
    events: list[Any] = []
    result = await atrain(
        lambda x: get_prompt("p"),
        prompts={"p": "no"},
        dataset=[{"inputs": "?", "expected_output": "yes"}],
        evaluators=["exact_match"],
        optimizer=TextGrad(model=silent),
        stop=[MaxSteps(4)],
        on_event=events.append,
    )
    refused = {event["reason"] for event in events if event["type"] == "proposal_rejected"}
    assert len(refused) == 1
    assert "gave no reply" in refused.pop()
    assert any("every proposal was refused" in reason for reason in result.decision.reasons)

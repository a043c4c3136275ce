"""What the events of a remote run tell: nodes, prompts that were read, usage, and its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langgraph.graph import START, MessagesState, StateGraph

from orcheo_agentensor.errors import RunFailed
from orcheo_agentensor.tape import Tape
from orcheo_agentensor.targets.run_events import RunEvents


def run_of(name: str, *, ended: bool = True, path: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
    event = "|".join(["tasks", *path])
    started = (event, {"id": "1", "name": name, "input": {"x": name}})
    done = (event, {"id": "1", "name": name, "result": {"y": name}, "error": None})
    return [started, done] if ended else [started]


def call_in(place: str, text: str) -> tuple[str, Any]:
    messages = [[{"type": "system", "content": [{"type": "text", "text": text}]}]]
    return (
        "events",
        {
            "event": "on_chat_model_start",
            "metadata": {"langgraph_checkpoint_ns": place},
            "data": {"input": {"messages": messages}},
        },
    )


def taped(*events: tuple[str, Any], **prompts: str) -> Tape:
    run = RunEvents(prompts=prompts, tape=Tape())
    for event, data in events:
        run.take(event, data)
    run.finish()
    assert run.tape is not None
    return run.tape


def test_a_tape_has_the_nodes_their_steps_and_what_they_read() -> None:
    inside = run_of("think", path=("desk:1",))
    tape = taped(
        *run_of("draft"),
        call_in("draft:1", "Draft for Ana, kindly."),
        run_of("desk")[0],
        *inside,
        call_in("desk:1|think:1", "Think it over."),
        run_of("desk")[1],
        draft="Draft for {name}, kindly.",
        think="Think it over.",
        unread="Never read by anybody.",
    )
    shown = [(run.id, run.step, run.path, run.prompts) for run in tape.runs.values()]
    assert shown == [
        ("draft:1", 1, (), ["draft"]),
        ("desk:1", 2, (), []),
        ("desk:1|think:1", 1, ("desk:1",), ["think"]),
    ]
    assert tape.runs["draft:1"].output == '{"y": "draft"}'


def test_where_calls_show_nothing_nodes_without_visible_calls_may_have_read_every_prompt() -> None:
    events = [*run_of("model"), call_in("model:1", "fixed"), *run_of("code")]
    tape = taped(*events, one="First this.", two="Second that.")
    assert tape.runs["code:1"].prompts == ["one", "two"]
    assert tape.runs["model:1"].prompts == []


def test_usage_is_added_up_over_the_chunks_of_an_answer() -> None:
    run = RunEvents()
    metadata = {"ls_model_type": "chat", "ls_model_name": "gpt-4o"}
    for tokens in (None, {"input_tokens": 10, "output_tokens": 2}, {"output_tokens": 3}):
        chunk = {"id": "m1", "type": "AIMessageChunk", "content": "", "usage_metadata": tokens}
        run.take("messages|desk:1", [chunk, metadata])
    run.take("messages", [{"id": "m2", "type": "ai", "content": "static"}, {}])
    assert (run.usage.calls, run.usage.input_tokens, run.usage.output_tokens) == (1, 10, 5)
    assert run.usage.cost is not None
    assert run.usage.cost > 0


def chunk(name: str, tokens: int | None = None, **more: Any) -> dict[str, Any]:
    used = None if tokens is None else {"input_tokens": tokens, "output_tokens": 1}
    return {"id": name, "type": "AIMessageChunk", "content": "x", "usage_metadata": used, **more}


def last(name: str) -> dict[str, Any]:
    """The empty chunk by which LangChain closes an answer, under the id of the model's run."""
    return {**chunk(name, content=""), "chunk_position": "last"}


ONE_CALL = {
    "ids of the provider's": [chunk("resp_1"), chunk("resp_1", 10), last("lc_run--a")],
    "OpenAI's responses": [
        chunk("resp_1"),
        chunk("lc_run--a"),
        chunk("resp_1", 10),
        last("lc_run--a"),
    ],
    "an id for each chunk": [chunk("1"), chunk("2", 10), chunk("3"), last("lc_run--a")],
    "a server that closes no answer": [chunk("resp_1"), chunk("resp_1", 10)],
    "a whole answer": [{**chunk("chatcmpl-1", 10), "type": "ai"}],
}


@pytest.mark.parametrize("chunks", ONE_CALL.values(), ids=ONE_CALL)
@pytest.mark.parametrize("calls", [1, 2])
def test_calls_are_counted_by_the_runs_of_the_model(
    chunks: list[dict[str, Any]], calls: int
) -> None:
    """Two calls in one node, one after the other."""
    run = RunEvents()
    metadata = {
        "ls_model_type": "chat",
        "ls_model_name": "gpt-4o",
        "langgraph_checkpoint_ns": "desk:1",
    }
    for number in range(calls):
        for message in chunks:
            run.take("messages", [{**message, "id": f"{message['id']}.{number}"}, metadata])
    assert (run.usage.calls, run.usage.unreported_calls) == (calls, 0)
    assert (run.usage.input_tokens, run.usage.output_tokens) == (10 * calls, calls)
    assert run.usage.cost is not None


class Responses(BaseChatModel):
    """Streams as OpenAI's responses do: some of its chunks have an id of the provider's."""

    _llm_type = "simulated"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        used = UsageMetadata(input_tokens=10, output_tokens=1, total_tokens=11)
        for name, usage in (("resp_1", None), (None, None), ("resp_1", used)):
            message = AIMessageChunk(content="x", id=name, usage_metadata=usage)
            yield ChatGenerationChunk(message=message)


def test_a_model_that_langchain_streams_is_counted_as_langchain_calls_it() -> None:
    model = Responses()
    graph = StateGraph(MessagesState)
    graph.add_node("desk", lambda state: {"messages": [model.invoke(state["messages"])]})
    run = RunEvents()
    stream = (
        graph.add_edge(START, "desk")
        .compile()
        .stream({"messages": [("user", "hi")]}, stream_mode="messages")
    )
    for message, metadata in stream:
        assert isinstance(message, BaseMessage)
        run.take("messages", [message.model_dump(), metadata])
    assert (run.usage.calls, run.usage.input_tokens, run.usage.unreported_calls) == (1, 10, 0)


def test_calls_of_one_node_that_are_made_at_once_are_counted_each() -> None:
    run = RunEvents()
    metadata = {"ls_model_type": "chat", "langgraph_checkpoint_ns": "desk:1"}
    one = [chunk("resp_1"), chunk("resp_1", 10), last("lc_run--a")]
    other = [chunk("resp_2", 5), chunk("resp_2"), last("lc_run--b")]
    for message in [message for pair in zip(one, other, strict=True) for message in pair]:
        run.take("messages", [message, metadata])
    assert (run.usage.calls, run.usage.input_tokens, run.usage.unreported_calls) == (2, 15, 0)


def test_what_a_worker_used_that_died_is_counted_and_its_nodes_are_not() -> None:
    run = RunEvents(tape=Tape())
    whole = {**chunk("lc_run--a-0", 10), "type": "ai"}
    run.take("metadata", {"run_id": "r", "attempt": 1})
    run.take(*run_of("desk", ended=False)[0])
    run.take("messages", [whole, {"ls_model_type": "chat"}])
    run.take("metadata", {"run_id": "r", "attempt": 2})
    for event in run_of("office"):
        run.take(*event)
    run.take("messages", [{**whole, "id": "lc_run--b-0"}, {"ls_model_type": "chat"}])
    run.take("values", {"y": 1})
    assert not run.is_cut
    assert (run.usage.calls, run.usage.rollouts) == (2, 1)  # one more than was asked for
    assert run.tape is not None
    assert list(run.tape.runs) == ["office:1"]


def test_a_stream_that_ends_within_a_node_was_cut() -> None:
    run = RunEvents()
    run.take("values", {"x": 1})
    run.take(*run_of("desk", ended=False)[0])
    assert run.is_cut
    run.take(*run_of("desk")[1])
    assert not run.is_cut


def test_a_run_that_its_server_has_given_up_is_no_failure_of_the_case() -> None:
    with pytest.raises(ConnectionError, match="given the run up"):
        RunEvents().take("error", {"error": "CancelledError", "message": "shutting down"})
    with pytest.raises(RunFailed, match="ValueError: no"):
        RunEvents().take("error", {"error": "ValueError", "message": "no"})

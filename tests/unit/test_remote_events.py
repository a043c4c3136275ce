"""What the events of a remote run tell: nodes, prompts that were read, usage, and its end."""

from __future__ import annotations

from typing import Any

import pytest

from orcheo_agentensor.errors import RunFailed
from orcheo_agentensor.tape import Tape
from orcheo_agentensor.targets.remote import RunEvents


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

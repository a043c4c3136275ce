from __future__ import annotations

from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send

from orcheo_agentensor.errors import PromptNotFound
from orcheo_agentensor.tape import MAX_TEXT, NodeRun, Tape, get_prompt, record_tape
from orcheo_agentensor.targets import CallableTarget, RunnableTarget
from orcheo_agentensor.training.feedback import blame

CONFIG: Any = {
    "configurable": {
        "prompts": {name: {"type": "TextTensor", "text": f"<{name}>"} for name in "abcdef"}
    }
}


class State(TypedDict, total=False):
    text: Annotated[list[str], lambda left, right: left + right]
    way: str


def reading(*names: str) -> Any:
    async def node(state: State) -> dict[str, Any]:
        return {"text": [get_prompt(name) for name in names] or ["-"]}

    return node


async def taped(graph: Any, inputs: Any = None) -> Tape:
    target = RunnableTarget.of(graph)
    with record_tape(target.edges) as tape:
        await target.run(inputs or {"text": []}, CONFIG, rollout_id="r")
    return Tape.from_json(tape.to_json())


@pytest.mark.requirement("training.blame")
async def test_only_prompts_that_a_run_node_read_are_blamed() -> None:
    graph = StateGraph(State)
    graph.add_node("one", reading("a"))
    graph.add_node("two", reading("b", "c"))
    graph.add_node("never", reading("d"))
    graph.add_edge(START, "one")
    graph.add_conditional_edges("one", lambda state: "two", ["two", "never"])
    tape = await taped(graph.compile())
    assert set(await blame(tape, "wrong")) == {"a", "b", "c"}
    assert [run.node for run in tape.runs.values()] == ["one", "two"]


async def test_a_diamond_is_paid_once() -> None:
    graph = StateGraph(State)
    for name, prompts in {"top": "a", "left": "b", "right": "c", "bottom": "d"}.items():
        graph.add_node(name, reading(*prompts))
    graph.add_edge(START, "top")
    graph.add_edge("top", "left")
    graph.add_edge("top", "right")
    graph.add_edge(["left", "right"], "bottom")
    graph.add_edge("bottom", END)
    calls: list[tuple[str, str]] = []

    async def critic(run: NodeRun, upstream: str, feedback: str) -> str:
        calls.append((run.node, upstream))
        return f"{feedback}>{run.node}"

    found = await blame(await taped(graph.compile()), "wrong", critic=critic)
    assert set(found) == {"a", "b", "c", "d"}
    assert len(calls) == len(set(calls)) == 8  # four prompts and four edges, each once
    (top,) = found["a"].feedback
    assert "wrong>bottom>left" in top
    assert "wrong>bottom>right" in top


async def test_nested_subgraphs_loops_sends_and_jumps_are_followed() -> None:
    inner = StateGraph(State)
    inner.add_node("inner_one", reading("a"))
    inner.add_node("inner_two", reading("b"))
    inner.add_edge(START, "inner_one")
    inner.add_edge("inner_one", "inner_two")

    async def jump(state: State) -> Command[Any]:
        return Command(update={"text": [get_prompt("c")]}, goto="after")

    async def looping(state: State) -> dict[str, Any]:
        return {"text": [get_prompt("e")]}

    outer = StateGraph(State)
    outer.add_node("nested", inner.compile())
    outer.add_node("jump", jump)
    outer.add_node("after", reading("d"))
    outer.add_node("loop", looping)
    outer.add_node("worker", reading("f"))
    outer.add_edge(START, "nested")
    outer.add_edge("nested", "jump")
    outer.add_edge("after", "loop")
    outer.add_conditional_edges(
        "loop",
        lambda state: (
            "loop"
            if state["text"].count("<e>") < 3
            else [Send("worker", {"text": []}), Send("worker", {"text": []})]
        ),
        ["loop", "worker"],
    )
    tape = await taped(outer.compile())
    nodes = [run.node for run in tape.runs.values()]
    assert nodes.count("loop") == 3
    assert nodes.count("worker") == 2
    assert set(await blame(tape, "wrong")) == set("abcdef")


async def test_a_plain_function_is_one_node_and_a_sync_one_is_taped_too() -> None:
    def target(inputs: Any) -> str:
        return get_prompt("a")

    with record_tape() as tape:
        assert await CallableTarget.of(target).run({}, CONFIG, rollout_id="r") == "<a>"
    assert set(await blame(tape, "wrong")) == {"a"}


async def test_without_a_recording_nothing_is_taped() -> None:
    target = CallableTarget.of(lambda inputs: get_prompt("a"))
    assert await target.run({}, CONFIG, rollout_id="r") == "<a>"


async def test_a_tape_is_bounded() -> None:
    async def node(state: State) -> dict[str, Any]:
        return {"text": ["x" * 100_000]}

    graph = StateGraph(State)
    graph.add_node("big", node)
    graph.add_edge(START, "big")
    tape = await taped(graph.compile())
    (run,) = tape.runs.values()
    assert len(run.output) == MAX_TEXT


def test_a_missing_prompt_names_those_there_are() -> None:
    with pytest.raises(PromptNotFound, match=r"'zzz' is not in config.prompts \(there: a, b"):
        get_prompt("zzz", CONFIG)
    assert get_prompt("zzz", CONFIG, default="bare") == "bare"


def test_parents_of_a_jump_target_are_the_runs_of_the_step_before() -> None:
    tape = Tape(edges=[("__start__", "boss")])
    for step, node in enumerate(["boss", "one", "boss", "two", "boss"]):
        tape.run(f"{node}:{step}", node=node, step=step, path=())
    assert [run.id for run in tape.parents(tape.runs["boss:4"])] == ["two:3"]
    assert [run.id for run in tape.parents(tape.runs["two:3"])] == ["boss:2"]
    assert tape.parents(tape.runs["boss:0"]) == []


def test_edges_of_the_outer_graph_say_nothing_about_a_nested_one() -> None:
    tape = Tape(edges=[("one", "three")])
    for step, node in enumerate(["one", "two", "three"]):
        tape.run(f"inner|{node}", node=node, step=step, path=("inner",))
    assert [run.node for run in tape.parents(tape.runs["inner|three"])] == ["two"]

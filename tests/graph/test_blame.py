"""Blame through the public doors: which prompts a proposer is asked to rewrite, and with what.

Every workflow here is taught by a proposer that only writes down what it is asked. Chat models are
simulated.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime, get_runtime
from langgraph.types import Send
from pydantic import BaseModel
from typing_extensions import TypedDict

from orcheo_agentensor import (
    Budget,
    Store,
    TextGrad,
    TextTensor,
    TrainablePrompt,
    aevaluate,
    atrain,
    configure,
    get_prompt,
)
from orcheo_agentensor.errors import ConfigError
from orcheo_agentensor.optimizers import FeedbackRecord, ProposalRequest
from orcheo_agentensor.tape import MAX_NODE_RUNS, MAX_SHARED, MAX_TAPE_TEXT, Tape, record_tape
from orcheo_agentensor.targets import RunnableTarget
from orcheo_agentensor.testing import RuleChatModel

CASES = [
    {"id": f"{split}-{i}", "split": split, "inputs": {"n": i}}
    for split in ("train", "validation")
    for i in range(2)
]
ONE = "You are the first helper of this workflow."
TWO = "You are the second helper of this workflow."
THREE = "You are the third helper of this workflow."
SAID = "wrong: 0 (all wrong)"


class State(TypedDict, total=False):
    n: Annotated[int, lambda old, new: new]
    text: Annotated[list[str], operator.add]


class Note:
    """Asks for nothing to be changed, and writes down what it was shown."""

    def __init__(self) -> None:
        self.records: dict[str, list[FeedbackRecord]] = {}

    async def propose(self, request: ProposalRequest) -> dict[str, str]:
        for component in request.components:
            self.records.setdefault(component.name, []).extend(component.feedback)
        return {component.name: component.text + " Better!" for component in request.components}

    @property
    def nodes(self) -> dict[str, set[str]]:
        """Prompt -> nodes that read it."""
        return {
            name: {run["node"] for record in records for run in record.trace}
            for name, records in self.records.items()
        }


class Other(Note):
    """Under another name, so that what `Note` has proposed is not taken over."""


def wrong(outputs: Any) -> dict[str, Any]:
    return {"key": "wrong", "score": 0.0, "comment": "all wrong"}


def says(messages: list[BaseMessage]) -> str:
    return "said"


MODEL = RuleChatModel(rule=says)


async def blamed(target: Any, prompts: dict[str, Any], **arguments: Any) -> Note:
    """Train for one step; what the proposer was shown."""
    note: Note = arguments.pop("proposer", Note)()
    result = await atrain(
        target,
        prompts=prompts,
        dataset=CASES,
        evaluators=[wrong],
        optimizer=TextGrad(proposer=note, minibatch=2),
        budget=Budget(rollouts=8),
        **arguments,
    )
    unread = set(prompts) - set(note.records)
    before = {name: getattr(tensor, "text", tensor) for name, tensor in prompts.items()}
    assert {name: result.best.prompts[name].text for name in unread} == {
        name: before[name] for name in unread
    }
    for records in note.records.values():
        assert {record.feedback for record in records} == {SAID}
    return note


def graph_of(*nodes: Callable[..., Any], context_schema: Any = None) -> Any:
    """The nodes one after the other, by their names."""
    graph = StateGraph(State, context_schema=context_schema)
    names = [node.__name__ for node in nodes]
    for node in nodes:
        graph.add_node(node.__name__, node)
    for source, target in zip([START, *names[:-1]], names, strict=True):
        graph.add_edge(source, target)
    return graph.compile()


# -- Unmodified graphs -------------------------------------------------------------------------


def caller(name: str, key: str, model: Any = MODEL, mode: str = "ainvoke") -> Any:
    """A node that knows nothing of prompts: its system message comes from `configurable`."""

    async def node(state: State, config: RunnableConfig) -> State:
        system = config["configurable"].get(key, "Nothing in particular.")
        turns = [SystemMessage(system), HumanMessage(str(state["n"]))]
        if mode == "ainvoke":
            reply = await model.ainvoke(turns)
        elif mode == "astream":
            reply = [part async for part in model.astream(turns)][-1]
        elif mode == "abatch":
            reply = (await model.abatch([[HumanMessage("x")], turns]))[-1]
        else:
            reply = model.invoke(turns, config)
        return {"text": [getattr(reply, "text", reply)]}

    node.__name__ = name
    return node


@pytest.mark.parametrize("mode", ["ainvoke", "astream", "abatch", "invoke"])
@pytest.mark.requirement("config.bound", "training.blame")
async def test_bound_prompts_of_an_unmodified_graph_are_blamed_where_they_are_read(
    mode: str,
) -> None:
    graph = graph_of(caller("one", "first", mode=mode), caller("two", "second", mode=mode))
    note = await blamed(
        graph,
        {
            "a": TextTensor(ONE, bind="configurable.first"),
            "b": TextTensor(TWO, bind="configurable.second"),
            "unused": TextTensor(THREE, bind="configurable.third"),
            "frozen": TextTensor("Keep me as I am.", bind="configurable.x", requires_grad=False),
            "unread": "Nobody reads me at all.",
        },
    )
    assert note.nodes == {"a": {"one"}, "b": {"two"}}


async def test_models_that_take_text_and_sync_nodes_are_seen() -> None:
    def plain(state: State, config: RunnableConfig) -> State:
        prompt = f"{config['configurable']['first']}\n\nQuestion: {state['n']}"
        return {"text": [FakeListLLM(responses=["said"]).invoke(prompt)]}

    note = await blamed(graph_of(plain), {"a": TextTensor(ONE, bind="configurable.first")})
    assert note.nodes == {"a": {"plain"}}


async def test_a_template_that_the_graph_fills_in_is_found_in_blocks_too() -> None:
    async def one(state: State, config: RunnableConfig) -> State:
        text = config["configurable"]["agent"]["system_prompt"].format(n=state["n"])
        blocks: list[Any] = [{"type": "text", "text": text}]
        return {"text": [(await MODEL.ainvoke([HumanMessage(blocks)])).text]}

    prompt = TextTensor(
        "The number is {n}, and JSON is {{}}.", bind="configurable.agent.system_prompt"
    )
    note = await blamed(
        graph_of(one), {"a": prompt}, config={"configurable": {"agent": {"model": "small"}}}
    )
    assert note.nodes == {"a": {"one"}}


@dataclass
class DataContext:
    first: str
    second: str = "second default"


class ModelContext(BaseModel):
    first: str
    second: str = "second default"


class TypedContext(TypedDict, total=False):
    first: str
    second: str


@pytest.mark.parametrize("schema", [DataContext, ModelContext, TypedContext])
@pytest.mark.parametrize("wrap", [False, True], ids=["graph", "configured"])
async def test_prompts_bound_to_the_context_are_blamed_where_a_node_reads_them(
    schema: Any, wrap: bool
) -> None:
    seen: list[Any] = []

    def get(context: Any, key: str) -> Any:
        return context.get(key) if isinstance(context, dict) else getattr(context, key)

    async def one(state: State, runtime: Runtime[Any]) -> State:
        seen.append(get(runtime.context, "first"))
        return {"text": [str("R1" in seen[-1])]}

    async def two(state: State) -> State:
        context = get_runtime(schema).context
        assert schema is TypedContext or isinstance(context, schema)
        return {}

    graph = graph_of(one, two, context_schema=schema)
    note = await blamed(
        configure(graph, workflow_id="w") if wrap else graph,
        {
            "a": TextTensor("One", bind="context.first"),
            "b": TextTensor("Two", bind="context.second"),
        },
    )
    assert note.nodes == {"a": {"one"}}
    assert set(seen) == {"One", "One Better!"}


async def test_reads_by_nodes_without_a_model_are_seen() -> None:
    """Through `config`, through the ambient config, in nested graphs, in threads."""
    from langgraph.config import get_config

    def one(state: State, config: RunnableConfig) -> State:
        return {"text": [config["configurable"]["first"]]}

    async def two(state: State) -> State:
        return {"text": [get_config()["configurable"]["second"]]}

    async def three(state: State, config: RunnableConfig) -> State:
        agent = config.get("configurable", {}).get("agent") or {}
        return {"text": [agent.get("third", "")], **dict(config["configurable"].get("none", {}))}

    async def reads_nothing(state: State, config: RunnableConfig) -> State:
        await MODEL.ainvoke("hello", config)
        return {"text": [str(sorted({**config["configurable"]}))[:0]]}

    inner = graph_of(three)
    outer = StateGraph(State)
    outer.add_node("one", one)
    outer.add_node("two", two)
    outer.add_node("nested", inner)
    outer.add_node("reads_nothing", reads_nothing)
    for source, target in [(START, "one"), ("one", "two"), ("two", "nested")]:
        outer.add_edge(source, target)
    outer.add_edge("nested", "reads_nothing")
    compiled = outer.compile(checkpointer=InMemorySaver())
    note = await blamed(
        compiled,
        {
            "a": TextTensor("One", bind="configurable.first"),
            "b": TextTensor("Two", bind="configurable.second"),
            "c": TextTensor("Three", bind="configurable.agent.third"),
            "d": TextTensor("Four", bind="configurable.fourth"),
        },
    )
    assert note.nodes == {"a": {"one"}, "b": {"two"}, "c": {"three"}}


async def test_a_plain_function_reads_bound_prompts_too() -> None:
    async def asks(inputs: Any) -> str:
        from langgraph.config import get_config

        return (await MODEL.ainvoke(get_config()["configurable"]["first"])).text

    def looks(inputs: Any, config: RunnableConfig) -> str:
        return config["configurable"]["first"]

    for target in (asks, looks):
        note = await blamed(
            target,
            {
                "a": TextTensor(ONE, bind="configurable.first"),
                "b": TextTensor(TWO, bind="configurable.second"),
            },
        )
        assert note.nodes == {"a": {"target"}}
        assert note.records["a"][0].trace[0]["output"] in ("said", ONE, ONE + " Better!")


# -- All kinds at once -------------------------------------------------------------------------


@pytest.mark.requirement("config.bound")
async def test_prompts_bound_in_three_ways_each_get_their_own_feedback() -> None:
    agent = create_agent(MODEL, [], middleware=[TrainablePrompt("in_agent")], name="agent")

    async def by_name(state: State) -> State:
        return {"text": [(await MODEL.ainvoke(get_prompt("by_name"))).text]}

    async def answer(state: State) -> State:
        final = await agent.ainvoke({"messages": [HumanMessage("hello")]})
        return {"text": [final["messages"][-1].text]}

    graph = graph_of(by_name, answer, caller("unmodified", "system_prompt"))
    prompts = {
        "by_name": ONE,
        "in_agent": TWO,
        "bound": TextTensor(THREE, bind="configurable.system_prompt"),
    }
    note = await blamed(graph, prompts)
    assert note.nodes == {"by_name": {"by_name"}, "in_agent": {"model"}, "bound": {"unmodified"}}


async def test_each_edge_is_paid_once_and_each_prompt_gets_the_feedback_of_its_node() -> None:
    said: list[str] = []

    def critic(messages: list[BaseMessage]) -> str:
        said.append(messages[0].text.split("what should change in ")[1].split(" so that")[0])
        return f"{messages[1].text.rsplit('<data>', 1)[1].split('</data>')[0].strip()} < {said[-1]}"

    left, right = caller("left", "first"), caller("right", "second")
    graph = StateGraph(State)
    for node in (caller("top", "top"), left, right, caller("bottom", "none")):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "top")
    graph.add_edge("top", "left")
    graph.add_edge("top", "right")
    graph.add_edge(["left", "right"], "bottom")
    note = Note()
    await atrain(
        graph,
        prompts={
            "t": TextTensor(THREE, bind="configurable.top"),
            "l": TextTensor(ONE, bind="configurable.first"),
            "r": TextTensor(TWO, bind="configurable.second"),
        },
        dataset=CASES,
        evaluators=[wrong],
        optimizer=TextGrad(proposer=note, model=RuleChatModel(rule=critic), minibatch=1),
        budget=Budget(rollouts=8),
        stop=[],
    )
    first = {name: records[0].feedback for name, records in note.records.items()}
    start = SAID
    assert first["l"] == f"{start} < node 'left' < prompt 'l'"
    assert first["r"] == f"{start} < node 'right' < prompt 'r'"
    assert f"{start} < node 'left' < node 'top'" in first["t"]
    assert f"{start} < node 'right' < node 'top'" in first["t"]
    edges = ["node 'left'", "node 'right'", "node 'top'", "node 'top'"]
    assert sorted(said[:7]) == sorted([*edges, "prompt 'l'", "prompt 'r'", "prompt 't'"])


# -- Shapes of graphs --------------------------------------------------------------------------


async def taped(graph: Any, inputs: Any, prompts: dict[str, TextTensor]) -> Tape:
    from orcheo_agentensor.prompts import with_prompts

    target = RunnableTarget.of(graph)
    config: Any = {"configurable": with_prompts({}, prompts), "recursion_limit": 5_000}
    with record_tape(target.edges, prompts=config["configurable"]["prompts"]) as tape:
        await target.run(inputs, config, rollout_id="r")
    assert Tape.from_json(tape.to_json()).to_json() == tape.to_json()
    return Tape.from_json(tape.to_json())


def readers(tape: Tape, prompt: str) -> list[str]:
    return [run.node for run in tape.runs.values() if prompt in run.prompts]


async def test_an_agent_with_tools_is_blamed_in_every_turn_of_its_model() -> None:
    def reply(messages: list[BaseMessage]) -> Any:
        if messages[0].text == TWO:
            return "helped"
        if any(message.type == "tool" for message in messages):
            return "done"
        call = {"name": "help_out", "args": {"question": "?"}, "id": "1", "type": "tool_call"}
        return AIMessage(content="", tool_calls=[call])

    model = RuleChatModel(rule=reply)

    def help_out(question: str) -> str:
        """Ask another model."""
        from langgraph.config import get_config

        return model.invoke([SystemMessage(get_config()["configurable"]["second"])]).text

    async def agent(state: State, config: RunnableConfig) -> State:
        made = create_agent(model, [help_out], system_prompt=config["configurable"]["first"])
        final = await made.ainvoke({"messages": [HumanMessage("hi")]})
        return {"text": [final["messages"][-1].text]}

    prompts = {
        "a": TextTensor(ONE, bind="configurable.first"),
        "b": TextTensor(TWO, bind="configurable.second"),
    }
    tape = await taped(graph_of(agent), {"n": 1, "text": []}, prompts)
    assert readers(tape, "a") == ["agent", "model", "model"]
    assert readers(tape, "b") == ["tools"]
    assert set((await blamed(graph_of(agent), prompts)).nodes) == {"a", "b"}


async def test_loops_are_blamed_for_the_rounds_that_read() -> None:
    async def looping(state: State, config: RunnableConfig) -> State:
        if len(state["text"]) % 2:
            return {"text": ["-"]}
        return {"text": [(await MODEL.ainvoke(config["configurable"]["first"])).text]}

    graph = StateGraph(State)
    graph.add_node("looping", looping)
    graph.add_edge(START, "looping")
    graph.add_conditional_edges(
        "looping", lambda state: "looping" if len(state["text"]) < 5 else "__end__"
    )
    prompts = {"a": TextTensor(ONE, bind="configurable.first")}
    tape = await taped(graph.compile(), {"n": 1, "text": []}, prompts)
    assert [run.step for run in tape.runs.values() if run.prompts] == [1, 3, 5]


@pytest.mark.parametrize("nested", [False, True], ids=["node", "subgraph"])
async def test_hundreds_of_branches_fit_on_a_tape_and_later_nodes_are_still_blamed(
    nested: bool,
) -> None:
    async def worker(state: State, config: RunnableConfig) -> State:
        key = "first" if state["n"] < 360 else "second"
        return {"text": [(await MODEL.ainvoke(config["configurable"][key])).text * 500]}

    graph = StateGraph(State)
    graph.add_node("split", lambda state: {})
    graph.add_node("work", graph_of(worker) if nested else worker)
    graph.add_node("join", caller("join", "third"))
    graph.add_edge(START, "split")
    graph.add_conditional_edges(
        "split", lambda state: [Send("work", {"n": n}) for n in range(400)], ["work"]
    )
    graph.add_edge("work", "join")
    prompts = {
        "a": TextTensor(ONE, bind="configurable.first"),
        "b": TextTensor(TWO, bind="configurable.second"),
        "c": TextTensor(THREE, bind="configurable.third"),
    }
    tape = await taped(graph.compile(), {"n": 1, "text": []}, prompts)
    assert len(tape.runs) <= MAX_NODE_RUNS + MAX_SHARED + 1
    written = sum(len(run.inputs) + len(run.output) for run in tape.runs.values())
    assert written <= MAX_TAPE_TEXT
    from orcheo_agentensor.training import blame

    found = await blame(tape, "wrong")
    assert {name: entry.feedback for name, entry in found.items()} == {
        name: ["wrong"] for name in "abc"
    }
    assert {run.node for run in found["c"].runs} == {"join"}
    assert {run.node for run in found["b"].runs} == {"worker" if nested else "work"}


async def test_nodes_of_a_graph_called_twice_in_a_node_get_the_feedback_of_that_node() -> None:
    inner = graph_of(caller("inner", "first"))

    async def outer(state: State) -> State:
        for _ in range(2):
            final = await inner.ainvoke({"n": state["n"], "text": []})
        return {"text": final["text"]}

    tape = await taped(
        graph_of(outer), {"n": 1, "text": []}, {"a": TextTensor(ONE, bind="configurable.first")}
    )
    from orcheo_agentensor.training import blame

    assert readers(tape, "a") == ["inner", "inner"]
    found = await blame(tape, "wrong")
    assert len(found["a"].runs) == 2
    assert found["a"].feedback == ["wrong"]


# -- Stored tapes, stored versions, refusals ---------------------------------------------------


@pytest.mark.parametrize("kind", ["by_name", "in_agent", "configurable", "context"])
async def test_a_replayed_rollout_teaches_what_the_live_one_taught(kind: str) -> None:
    agent = create_agent(MODEL, [], middleware=[TrainablePrompt("in_agent")])

    async def one(state: State, config: RunnableConfig, runtime: Runtime[Any]) -> State:
        if kind == "by_name":
            return {"text": [get_prompt("by_name")]}
        if kind == "in_agent":
            final = await agent.ainvoke({"messages": [HumanMessage("hello")]})
            return {"text": [final["messages"][-1].text]}
        if kind == "configurable":
            return {"text": [(await MODEL.ainvoke(config["configurable"]["first"])).text]}
        return {"text": [(await MODEL.ainvoke(runtime.context.first)).text]}

    binds = {"configurable": "configurable.first", "context": "context.first"}
    prompts = {kind: TextTensor(ONE, bind=binds.get(kind)), "unread": TWO}
    schema = DataContext if kind == "context" else None
    graph = graph_of(one, context_schema=schema)
    store = Store.from_url(None)
    live = await blamed(graph, prompts, store=store, run_id="live")
    ran = 0

    async def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal ran
        ran += 1
        raise AssertionError("a recorded rollout ran again")

    again = graph_of(one, context_schema=schema)
    target = RunnableTarget.of(again)
    object.__setattr__(target.runnable, "ainvoke", counted)
    replayed = await blamed(
        target, prompts, store=store, run_id="again", reuse="live", proposer=Other
    )
    assert ran == 0
    assert live.records
    assert live.nodes.keys() == {kind}
    assert replayed.records == live.records


async def test_a_failed_rollout_still_tells_which_prompts_it_read() -> None:
    async def one(state: State, config: RunnableConfig) -> State:
        await MODEL.ainvoke(config["configurable"]["first"])
        raise ValueError("no such tool")

    graph = graph_of(one)
    from orcheo_agentensor.prompts import with_prompts

    prompts = {"a": TextTensor(ONE, bind="configurable.first")}
    config: Any = {"configurable": with_prompts({}, prompts)}
    with (
        record_tape(prompts=config["configurable"]["prompts"]) as tape,
        pytest.raises(ValueError, match="no such tool"),
    ):
        await RunnableTarget.of(graph).run({"n": 1}, config, rollout_id="r")
    (run,) = tape.runs.values()
    assert (run.prompts, run.output) == (["a"], "ValueError('no such tool')")


async def test_a_stored_version_puts_its_bound_prompts_in_place() -> None:
    def one(state: State, config: RunnableConfig, runtime: Runtime[Any]) -> State:
        return {"text": [config["configurable"].get("first"), runtime.context.first]}

    store = Store.from_url(None)
    graph = graph_of(one, context_schema=DataContext)
    result = await atrain(
        graph,
        prompts={
            "a": TextTensor("A", bind="configurable.first"),
            "b": TextTensor("B", bind="context.first"),
        },
        dataset=CASES,
        evaluators=[wrong],
        optimizer=TextGrad(proposer=Note(), minibatch=2),
        budget=Budget(rollouts=8),
        workflow_id="w",
        store=store,
    )
    version = result.best.config_version
    assert version is not None
    await store.aliases.move("w", "production", to=version, actor="ann", reason="first")
    configured = configure(graph, workflow_id="w", store=store)
    use: Any = {"configurable": {"agentensor": {"use": "production"}}}
    inputs: Any = {"n": 1, "text": []}
    want = {"n": 1, "text": [result.best.prompts[name].text for name in "ab"]}
    assert await configured.ainvoke(inputs, use) == want
    assert await configured.abatch([inputs, inputs], use) == [want, want]
    assert configured.invoke(inputs, use) == want
    assert [part async for part in configured.astream(inputs, use, stream_mode="values")][
        -1
    ] == want
    assert list(configured.stream(inputs, use, stream_mode="values"))[-1] == want
    over: Any = {**use, "prompts": {"a": "AA"}}
    kept = await configured.ainvoke(inputs, over, context=DataContext("x", "y"))
    assert kept["text"] == ["AA", want["text"][1]]


@pytest.mark.parametrize(
    ("bind", "schema", "rule"),
    [
        ("context.first", None, "prompts.p.bind: 'context.first' needs a graph with a context"),
        ("context.nope", DataContext, "names no field of the context of .* first, second"),
        ("context.second", DataContext, "config.configurable.first: .* requires 'first'"),
        ("context.second", ModelContext, "config.configurable.first: .* requires 'first'"),
        ("context.second.x", DataContext, "leads into a value of type str"),
    ],
)
async def test_a_context_that_cannot_be_is_refused_before_anything_runs(
    bind: str, schema: Any, rule: str
) -> None:
    async def one(state: State) -> State:
        raise AssertionError("ran")

    graph = graph_of(one, context_schema=schema)
    config = {"configurable": {"first": "x"}} if bind.endswith(".x") else None
    with pytest.raises(ConfigError, match=rule):
        await aevaluate(
            graph,
            dataset=[{"inputs": {"n": 1}}],
            evaluators=[wrong],
            prompts={"p": TextTensor("x", bind=bind)},
            config=config,
        )


async def test_functions_have_no_context_and_configured_graphs_say_so_at_once() -> None:
    def target(inputs: Any) -> str:
        raise AssertionError("ran")

    prompts = {"p": {"text": "x", "bind": "context.first"}}
    with pytest.raises(ConfigError, match=r"prompts.p.bind.*is a function"):
        await aevaluate(target, dataset=[{"inputs": 1}], evaluators=[wrong], prompts=prompts)
    with pytest.raises(ConfigError, match=r"prompts.p.bind.*has no context_schema"):
        configure(graph_of(caller("one", "x")), workflow_id="w", defaults={"prompts": prompts})


async def test_a_job_gives_bound_prompts_as_data_and_an_evaluation_uses_them() -> None:
    graph = graph_of(caller("one", "first", model=RuleChatModel(rule=lambda m: m[0].text)))

    def right(outputs: Any) -> bool:
        return bool(outputs["text"] == [ONE])

    report = await aevaluate(
        graph,
        dataset=[{"inputs": {"n": 1}}],
        evaluators=[right],
        prompts={"p": {"text": ONE, "bind": "configurable.first"}},
    )
    assert report.objective == 1.0

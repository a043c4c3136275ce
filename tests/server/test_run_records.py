"""What a run record says is what the nodes got: five ways to run a graph, three kinds of prompt.

In each of them a trained version is stored, `production` names it, and the text that the graph
itself has is another one.
"""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from prompt_readers import KINDS, TRAINED, UNTRAINED, create_reader, prompts_of

from orcheo_agentensor import RunConfig, Settings, Store, aevaluate, configure, serve
from orcheo_agentensor.nodes import State
from orcheo_agentensor.storage import RunRecord

USE: Any = {"configurable": {"agentensor": {"use": "production"}}}
ON = Settings(runnable_config_enabled=True)
FORMS = ("compiled", "uncompiled")


async def trained(store: Store, workflow_id: str, kind: str) -> None:
    """Store a trained version of the workflow's prompt, and point `production` to it."""
    config = RunConfig(prompts=prompts_of(kind, TRAINED)).to_json()
    saved = await store.checkpoints.save(
        workflow_id=workflow_id, runnable_config=config, metrics={}
    )
    await store.aliases.move(
        workflow_id, "production", to=saved.config_version, actor="t", reason="t"
    )


def reader(kind: str, form: str) -> Any:
    graph = create_reader(kind)
    return graph.compile() if form == "compiled" else graph


async def the_record(store: Store, workflow_id: str, mode: Any = "run") -> RunRecord:
    """The only record of a workflow's runs."""
    [record] = await store.runs.list(workflow_id=workflow_id, mode=mode)
    return record


def recorded(record: RunRecord) -> str:
    """The text of the prompt that a record says the run had."""
    text: str = (record.config or {})["configurable"]["prompts"]["tone"]["text"]
    return text


def seen(output: Any) -> str:
    """The text of the prompt that the node says it got."""
    text: str = output["results"]["seen"]
    return text


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", ["configure", "serve"])
async def test_a_graph_gets_the_prompt_that_its_record_names(
    door: str, kind: str, form: str
) -> None:
    async with Store.from_url(None) as store:
        await trained(store, "w", kind)
        graph = reader(kind, form)
        if door == "configure":
            defaults = {"prompts": prompts_of(kind, UNTRAINED)}
            ours = configure(graph, workflow_id="w", defaults=defaults, store=store)
        else:
            ours = serve(graph, workflow_id="w", store=store, settings=ON)
        outputs = [await ours.ainvoke({}, USE)]
        outputs += [part async for part in ours.astream({}, USE, stream_mode="values")][-1:]
        outputs += await ours.abatch([{}, {}], USE)
        if kind != "template":  # a template node is async
            outputs += [ours.invoke({}, USE), *ours.batch([{}, {}], USE)]
            outputs += list(ours.stream({}, USE, stream_mode="values"))[-1:]
        records = await store.runs.list(workflow_id="w")
        assert len(records) == len(outputs)
        assert {seen(output) for output in outputs} == {TRAINED}
        assert {recorded(record) for record in records} == {TRAINED}
        assert {record.refs["base_version"] for record in records} == {1}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_served_graph_takes_its_prompt_from_stored_defaults_and_requests(kind: str) -> None:
    async with Store.from_url(None) as store:
        defaults = RunConfig(prompts=prompts_of(kind, "By default.")).to_json()
        await store.workflows.set_defaults("w", defaults, actor="t")
        ours = serve(create_reader(kind), workflow_id="w", store=store, settings=ON)
        for request, text in (({}, "By default."), ({"prompts": {"tone": "Asked."}}, "Asked.")):
            output = await ours.ainvoke({}, request)
            [newest, *_] = await store.runs.list(workflow_id="w")
            assert seen(output) == recorded(newest) == text


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.requirement("config.recorded")
async def test_a_job_gets_the_prompt_that_its_record_names(kind: str, form: str) -> None:
    async with Store.from_url(None) as store:
        await trained(store, "w", kind)
        report = await aevaluate(
            reader(kind, form),
            dataset=[{"id": "one", "inputs": {}, "expected_output": TRAINED}],
            evaluators=[lambda outputs: seen(outputs) == TRAINED],
            config=USE,
            workflow_id="w",
            store=store,
        )
        assert [seen(case.output) for case in report.cases] == [TRAINED]
        assert recorded(await the_record(store, "w", "evaluate")) == TRAINED


@pytest.mark.parametrize("door", ["configure", "serve", "serve, with its flag off"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_job_on_a_served_graph_gets_the_prompt_that_its_record_names(
    kind: str, door: str
) -> None:
    async with Store.from_url(None) as store:
        await trained(store, "w", kind)
        target = (
            configure(create_reader(kind), workflow_id="w", store=store)
            if door == "configure"
            else serve(
                create_reader(kind),
                workflow_id="w",
                store=store,
                settings=ON if door == "serve" else Settings(),
            )
        )
        report = await aevaluate(
            target,
            dataset=[{"id": "one", "inputs": {}, "expected_output": TRAINED}],
            evaluators=[lambda outputs: seen(outputs) == TRAINED],
            config=USE,
            workflow_id="w",
            store=store,
        )
        assert [seen(case.output) for case in report.cases] == [TRAINED]
        assert recorded(await the_record(store, "w", "evaluate")) == TRAINED


@pytest.mark.parametrize("saver", [None, InMemorySaver()], ids=["no saver", "saver"])
@pytest.mark.parametrize("called", [False, True], ids=["is the node", "is called by the node"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_graph_in_a_host_gets_the_prompt_that_its_record_names(
    kind: str, called: bool, saver: Any
) -> None:
    async with Store.from_url(None) as store:
        await trained(store, "w", kind)
        inner = configure(create_reader(kind), workflow_id="w", defaults=USE, store=store)

        async def call(state: State) -> Any:
            return await inner.ainvoke(state)

        host = StateGraph(State)
        host.add_node("inner", call if called else inner)
        host.add_edge(START, "inner")
        graph = host.compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": f"{kind}-{called}"}}
        assert seen(await graph.ainvoke({}, config)) == TRAINED
        assert recorded(await the_record(store, "w")) == TRAINED
        config["configurable"]["prompts"] = {"tone": "The host's."}
        assert seen(await graph.ainvoke({}, config)) == "The host's."
        [newest, _] = await store.runs.list(workflow_id="w")
        assert recorded(newest) == "The host's."


@pytest.mark.parametrize("door", ["serve", "configure"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.requirement("config.recorded")
async def test_a_graph_on_a_server_gets_the_prompt_that_its_record_names(
    client: Any, store: Store, kind: str, door: str
) -> None:
    workflow_id = f"{door}_{kind}"
    await trained(store, workflow_id, kind)
    output = await client.runs.wait(None, workflow_id, input={}, config=USE)
    assert seen(output) == TRAINED
    record = await the_record(store, workflow_id)
    assert recorded(record) == TRAINED
    assert record.refs["base_version"] == 1
    other = {"configurable": {"prompts": {"tone": "Asked."}, **USE["configurable"]}}
    assert seen(await client.runs.wait(None, workflow_id, input={}, config=other)) == "Asked."
    [newest, _] = await store.runs.list(workflow_id=workflow_id)
    assert recorded(newest) == "Asked."


@pytest.mark.parametrize("door", ["serve", "configure"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_served_graph_has_schemas_a_drawing_and_a_state(
    client: Any, kind: str, door: str
) -> None:
    graph_id = f"{door}_{kind}"
    [assistant] = await client.assistants.search(graph_id=graph_id, limit=1)
    schemas = await client.assistants.get_schemas(assistant["assistant_id"])
    assert "results" in schemas["output_schema"]["properties"]
    context = (schemas["context_schema"] or {}).get("properties", {})
    assert ("system_prompt" in context) is (kind == "context")
    drawn = await client.assistants.get_graph(assistant["assistant_id"])
    assert [node["id"] for node in drawn["nodes"]] == ["__start__", "read", "__end__"]
    thread = (await client.threads.create())["thread_id"]
    asked = {"configurable": {"prompts": {"tone": prompts_of(kind, "Asked.")["tone"].to_json()}}}
    output = await client.runs.wait(thread, graph_id, input={}, config=asked)
    assert seen(output) == "Asked."
    assert seen((await client.threads.get_state(thread))["values"]) == "Asked."
    assert len(await client.threads.get_history(thread)) == 3

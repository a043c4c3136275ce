"""Every call of a run says in its metadata and tags which case, run and candidate it was for."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, TypedDict

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers.context import register_configure_hook
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from orcheo_agentensor import Budget, LLMJudge, TextGrad, aevaluate, atrain, get_prompt, get_seed
from orcheo_agentensor.storage import Store
from orcheo_agentensor.testing import SimulatedChatModel


class Traces(BaseCallbackHandler):
    """Keeps the metadata and tags of each model call, by the phase that it names."""

    def __init__(self) -> None:
        self.found: dict[str, list[dict[str, Any]]] = {}

    def on_chat_model_start(
        self, serialized: Any, messages: Any, *, metadata: Any = None, tags: Any = None, **_: Any
    ) -> None:
        ours = {key: value for key, value in metadata.items() if key.startswith("agentensor_")}
        assert {f"{key}:{value}" for key, value in ours.items()} <= set(tags)
        self.found.setdefault(ours["agentensor_phase"], []).append(ours)


_traces: ContextVar[Traces | None] = ContextVar("traces", default=None)
register_configure_hook(_traces, inheritable=True)


class Model(SimulatedChatModel):
    said: Any = "a reply"

    def reply(self, messages: list[BaseMessage]) -> Any:
        return self.said


async def target(inputs: dict[str, str]) -> str:
    reply = await Model().ainvoke(get_prompt("p") + inputs["text"])
    return str(reply.text)


def cases(*splits: str) -> list[dict[str, Any]]:
    return [
        {"id": f"{split}-{n}", "split": split, "inputs": {"text": f"{split} {n}"}}
        for split in splits
        for n in range(3)
    ]


@pytest.mark.requirement("config.traced")
async def test_calls_of_the_target_and_of_judges_lead_to_their_case() -> None:
    traces = Traces()
    token = _traces.set(traces)
    try:
        report = await aevaluate(
            target,
            dataset=cases("test"),
            evaluators=[
                LLMJudge(rubric="Is it kind?", model=Model(said={"score": 1, "reasoning": "kind"}))
            ],
            prompts={"p": "Say: "},
            replicates=2,
            run_id="traced",
        )
    finally:
        _traces.reset(token)
    assert report.objective == 1.0
    calls = traces.found["evaluation"]
    assert {call["agentensor_run_id"] for call in calls} == {"traced"}
    assert len({call["agentensor_candidate"] for call in calls}) == 1
    places = [(call["agentensor_case_id"], call["agentensor_replicate"]) for call in calls]
    # One call of the target and one of the judge for each.
    assert sorted(places) == sorted([(f"test-{n}", r) for n in range(3) for r in range(2)] * 2)


async def test_calls_of_critic_and_proposer_lead_to_their_candidate() -> None:
    traces = Traces()
    token = _traces.set(traces)
    try:
        async with Store.from_url(None) as store:
            await atrain(
                target,
                prompts={"p": "Say: "},
                dataset=cases("train", "validation"),
                evaluators=[lambda outputs: 0.0],
                optimizer=TextGrad(model=Model()),
                budget=Budget(rollouts=24),
                run_id="traced",
                config={"metadata": {"team": "x"}},
                store=store,
            )
            record = await store.runs.get("traced")
    finally:
        _traces.reset(token)
    assert {"train", "validation", "proposal", "criticism"} <= set(traces.found)
    for phase, calls in traces.found.items():
        for call in calls:
            assert call["agentensor_run_id"] == "traced"
            assert call["agentensor_candidate"]
            assert ("agentensor_case_id" in call) == (phase != "proposal")
    assert record.config["metadata"] == {"team": "x"}
    assert "tags" not in record.config


class Asked(TypedDict, total=False):
    """The state of a graph of one node."""

    text: str
    found: Any


def one_node(node: Any) -> CompiledStateGraph[Any, Any, Any, Any]:
    return StateGraph(Asked).add_node("ask", node).add_edge(START, "ask").compile()


HEARING = Model(callbacks=[Traces()])


async def asks_a_model_that_is_heard(state: Asked) -> Asked:
    return {"found": str((await HEARING.ainvoke(state["text"])).text)}


async def reads_its_labels(state: Asked, config: RunnableConfig) -> Asked:
    own = {k: v for k, v in config["metadata"].items() if k.startswith("agentensor_")}
    return {"found": own["agentensor_case_id"] + str(own["agentensor_replicate"])}


async def reads_its_seed(state: Asked, config: RunnableConfig) -> Asked:
    assert get_seed() == get_seed(config=config)
    assert not config.get("tags")  # nobody would read them
    return {"found": get_seed(config=config)}


async def test_a_graph_whose_own_handler_hears_calls_has_the_labels_in_them() -> None:
    heard = HEARING.callbacks[0]  # type: ignore[index]
    assert isinstance(heard, Traces)
    await aevaluate(
        one_node(asks_a_model_that_is_heard),
        dataset=cases("test"),
        evaluators=[lambda outputs: 1.0],
        run_id="heard",
    )
    calls = heard.found["evaluation"]
    assert [call["agentensor_run_id"] for call in calls] == ["heard"] * 3
    assert sorted(call["agentensor_case_id"] for call in calls) == ["test-0", "test-1", "test-2"]


async def test_a_node_that_reads_its_metadata_finds_the_labels_there() -> None:
    report = await aevaluate(
        one_node(reads_its_labels), dataset=cases("test"), evaluators=[lambda outputs: 1.0]
    )
    assert [case.output["found"] for case in report.cases] == ["test-00", "test-10", "test-20"]


async def test_a_graph_of_which_nobody_hears_has_its_seed_all_the_same() -> None:
    job: dict[str, Any] = {"dataset": cases("test"), "evaluators": [lambda outputs: 1.0], "seed": 4}
    unheard = await aevaluate(one_node(reads_its_seed), **job)
    drawn = await aevaluate(lambda inputs: get_seed(), **job)
    assert [case.failure for case in unheard.cases] == [None] * 3
    assert [case.output["found"] for case in unheard.cases] == [c.output for c in drawn.cases]

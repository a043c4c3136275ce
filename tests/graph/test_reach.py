"""The config of whoever invokes a run reaches its target, judges, proposer and critic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from orcheo_agentensor import (
    Budget,
    EvaluatorContext,
    LLMJudge,
    TextGrad,
    aevaluate,
    atrain,
    create_evaluation_graph,
    create_training_graph,
    evaluation_node,
    get_prompt,
    training_node,
)
from orcheo_agentensor.errors import BadInput, ConfigError, RunMismatch
from orcheo_agentensor.storage import Store
from orcheo_agentensor.testing import SimulatedChatModel

CALLED: Counter[str] = Counter()


class Voice(SimulatedChatModel):
    """A model that counts its calls by what it is asked for."""

    who: str
    said: Any = "a reply"

    def reply(self, messages: list[BaseMessage]) -> Any:
        CALLED[self.who] += 1
        return self.said


class Tracer(BaseCallbackHandler):
    """Keeps each call of a model, and each root run with its id."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.roots: dict[str, dict[str, Any]] = {}

    def on_chat_model_start(
        self, serialized: Any, messages: Any, *, metadata: Any = None, tags: Any = None, **_: Any
    ) -> None:
        self.calls.append({"tags": set(tags or ()), **(metadata or {})})

    def on_chain_start(
        self,
        serialized: Any,
        inputs: Any,
        *,
        run_id: Any,
        parent_run_id: Any = None,
        metadata: Any = None,
        **_: Any,
    ) -> None:
        if parent_run_id is None:
            self.roots[str(run_id)] = dict(metadata or {})


class Shared(TypedDict, total=False):
    prompts: Any
    dataset: Any
    budget: Any
    summary: Any
    best: Any
    decision: Any


@pytest.fixture(autouse=True)
def _nobody_has_called() -> None:
    CALLED.clear()


SEEN: list[tuple[str, dict[str, Any]]] = []


async def answer(inputs: dict[str, str], config: RunnableConfig) -> str:
    SEEN.append(("target", dict(config["configurable"])))
    reply = await Voice(who="target").ainvoke(get_prompt("p") + inputs["text"])
    return str(reply.text)


def looks(ctx: EvaluatorContext) -> float:
    """An evaluator that notes the config around it."""
    around = var_child_runnable_config.get() or {}
    SEEN.append(("judge", {**around.get("configurable", {})}))
    return 0.0


def judges() -> list[Any]:
    verdict = {"score": 0, "reasoning": "not kind"}
    return [LLMJudge(rubric="Is it kind?", model=Voice(who="judge", said=verdict)), looks]


def cases(*splits: str) -> list[dict[str, Any]]:
    return [
        {"id": f"{split}-{n}", "split": split, "inputs": {"text": f"{split} {n}"}}
        for split in splits
        for n in range(3)
    ]


BY: dict[str, Any] = {
    "tags": ["nightly"],
    "metadata": {"team": "desk"},
    "configurable": {"tenant": "acme"},
}
IN_A_HOST = {**BY, "configurable": {**BY["configurable"], "thread_id": "hosts"}}


@pytest.mark.requirement("config.caller")
async def test_a_hosts_tracer_sees_every_call_of_a_training_once(store: Store) -> None:
    tracer = Tracer()
    training = create_training_graph(
        answer, evaluators=judges(), optimizer=TextGrad(model=Voice(who="other")), store=store
    )
    host = StateGraph(Shared)
    host.add_node("train", training_node(training))
    host.add_edge(START, "train")
    SEEN.clear()
    found = await host.compile(checkpointer=InMemorySaver()).ainvoke(
        {
            "prompts": {"p": "Say: "},
            "dataset": cases("train", "validation", "holdout"),
            "budget": {"rollouts": 40},
        },
        {**IN_A_HOST, "callbacks": [tracer], "max_concurrency": 7},
    )
    assert found["decision"]
    by_phase = Counter(call["agentensor_phase"] for call in tracer.calls)
    assert len(tracer.calls) == CALLED.total()
    assert by_phase["proposal"] + by_phase["criticism"] == CALLED["other"] > 1
    assert min(by_phase["proposal"], by_phase["criticism"], CALLED["judge"]) > 0
    assert CALLED["target"] == CALLED["judge"]
    for call in tracer.calls:
        assert call["team"] == "desk"
        assert "nightly" in call["tags"]
        assert call["agentensor_run_id"]
        assert call["agentensor_candidate"]
        assert f"agentensor_phase:{call['agentensor_phase']}" in call["tags"]
        assert not any(key.startswith("langgraph_") for key in call)
    for _who, configurable in SEEN:
        assert configurable["tenant"] == "acme"
        assert configurable["thread_id"] != "hosts"
        assert not any(key.startswith(("checkpoint_", "__")) for key in configurable)
    # Nothing of the caller is in a version.
    for version in await store.checkpoints.list("answer"):
        assert "acme" not in str(version.runnable_config)
        assert "desk" not in str(version.runnable_config)


@pytest.mark.requirement("config.caller")
async def test_the_config_of_a_training_in_code_reaches_judges_proposer_and_critic() -> None:
    tracer = Tracer()
    SEEN.clear()
    await atrain(
        answer,
        prompts={"p": "Say: "},
        dataset=cases("train", "validation"),
        evaluators=judges(),
        optimizer=TextGrad(model=Voice(who="other")),
        budget=Budget(rollouts=24),
        config={**BY, "callbacks": [tracer]},
    )
    assert len(tracer.calls) == CALLED.total() > CALLED["target"] + CALLED["judge"]
    assert all(call["team"] == "desk" and "nightly" in call["tags"] for call in tracer.calls)
    assert {who for who, _ in SEEN} == {"target", "judge"}
    assert all(configurable["tenant"] == "acme" for _, configurable in SEEN)


async def test_the_jobs_config_goes_over_the_callers() -> None:
    graph = create_evaluation_graph(
        answer, evaluators=judges(), prompts={"p": "Say: "}, dataset=cases("test")
    )
    tracer = Tracer()
    SEEN.clear()
    own = {"configurable": {"tenant": "of the job"}, "metadata": {"team": "of the job"}}
    await graph.compile().ainvoke(
        {"config": own}, {**BY, "configurable": {"tenant": "a", "zone": 1}, "callbacks": [tracer]}
    )
    assert {call["team"] for call in tracer.calls} == {"of the job"}
    assert {(c["tenant"], c["zone"]) for _who, c in SEEN} == {("of the job", 1)}


def as_graph() -> Any:
    graph = StateGraph(Shared)

    async def node(state: Any, config: RunnableConfig) -> Any:
        return {"summary": await answer({"text": str(state["dataset"])}, config)}

    graph.add_node("node", node)
    graph.add_edge(START, "node")
    return graph.compile()


def make_graph(config: RunnableConfig) -> Any:
    """A factory, as a server calls one."""
    return as_graph()


@pytest.mark.parametrize(
    "make",
    [
        lambda: answer,
        as_graph,
        lambda: make_graph,
        lambda: as_graph().with_retry(),
        lambda: RunnableLambda(lambda value: value) | as_graph(),
    ],
    ids=["function", "graph", "factory", "with_retry", "sequence"],
)
@pytest.mark.requirement("config.traced")
async def test_a_case_leads_to_its_trace_and_a_trace_to_its_case(
    make: Callable[[], Any], store: Store
) -> None:
    tracer = Tracer()
    dataset = [{"id": f"c{n}", "inputs": {"text": n, "dataset": n}} for n in range(3)]
    for case in dataset:
        case["inputs"]["text"] = str(case["inputs"]["text"])  # type: ignore[index]
    await aevaluate(
        make(),
        dataset=dataset,
        evaluators=[lambda outputs: 1.0],
        prompts={"p": "Say: "},
        replicates=2,
        run_id="traced",
        store=store,
        config={"callbacks": [tracer]},
    )
    rows = await store.runs.case_rows("traced")
    assert len(rows) == len(tracer.roots) == 6
    for row in rows:
        told = tracer.roots[str(row.trace_id)]
        assert told["agentensor_case_id"] == row.rollout.case_id
        assert told["agentensor_replicate"] == row.rollout.replicate


async def test_each_attempt_at_a_case_is_a_trace_of_its_own(store: Store) -> None:
    tracer, seen = Tracer(), Counter[str]()

    async def shaky(inputs: str) -> str:
        seen[inputs] += 1
        if seen[inputs] == 1:
            raise ConnectionError("away")
        return inputs

    await aevaluate(
        shaky,
        dataset=[{"id": "a", "inputs": "a"}],
        evaluators=[lambda outputs: 1.0],
        run_id="again",
        store=store,
        config={"callbacks": [tracer]},
    )
    [row] = await store.runs.case_rows("again")
    assert len(tracer.roots) == 2
    assert list(tracer.roots)[-1] == row.trace_id


async def test_a_run_goes_on_with_the_configurable_it_was_started_with(store: Store) -> None:
    SEEN.clear()

    def graph() -> Any:
        return create_evaluation_graph(
            answer,
            evaluators=[looks],
            prompts={"p": "Say: "},
            dataset=cases("test"),
            store=store,
        ).compile()

    one = {"configurable": {"tenant": "acme"}, "metadata": {"night": 1}}
    first = await graph().ainvoke({"run_id": "same"}, one)
    again = await graph().ainvoke({"run_id": "same"}, {**one, "metadata": {"night": 2}})
    without = await graph().ainvoke({"run_id": "same"}, {})
    assert first["summary"] == again["summary"] == without["summary"]
    assert CALLED["target"] == 3
    with pytest.raises(RunMismatch, match="tenant"):
        await graph().ainvoke({"run_id": "same"}, {"configurable": {"tenant": "other"}})
    # Rollouts that could read another tenant are not those of this one.
    await graph().ainvoke(
        {"run_id": "other", "reuse": "same"}, {"configurable": {"tenant": "other"}}
    )
    assert CALLED["target"] == 6


async def test_secrets_of_a_caller_reach_the_target_and_no_store(store: Store) -> None:
    SEEN.clear()
    secret = "sk-abcdefghijklmnopqrstuvwxyz0123456789"
    graph = create_evaluation_graph(
        answer, evaluators=[looks], prompts={"p": "Say: "}, dataset=cases("test"), store=store
    )
    live = object()
    await graph.compile().ainvoke(
        {"run_id": "secret"}, {"configurable": {"openai_api_key": secret, "pool": live}}
    )
    assert all(c["openai_api_key"] == secret and c["pool"] is live for _who, c in SEEN)
    assert secret not in str(await store.runs.get("secret"))
    with pytest.raises((RunMismatch, BadInput), match="openai_api_key"):
        await graph.compile().ainvoke({"run_id": "secret"}, {})


async def test_what_belongs_into_the_job_is_refused_in_the_callers_config() -> None:
    graph = create_evaluation_graph(answer, evaluators=[looks], dataset=cases("test"))
    with pytest.raises(ConfigError, match=r"job\.config\.configurable\.agentensor"):
        await graph.compile().ainvoke({}, {"configurable": {"agentensor": {"use": 1}}})
    assert not CALLED


async def test_a_hosts_stream_of_messages_is_its_own() -> None:
    evaluation = create_evaluation_graph(
        answer, evaluators=judges(), prompts={"p": "Say: "}, dataset=cases("test")
    )
    host = StateGraph(Shared)
    host.add_node("evaluate", evaluation_node(evaluation))
    host.add_edge(START, "evaluate")
    messages = [part async for part in host.compile().astream({}, stream_mode="messages")]
    assert CALLED["target"] == 3
    assert messages == []

"""The evaluation subgraph through its public doors."""

from __future__ import annotations

import asyncio
import operator
import uuid
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.runtime import RunControl

from orcheo_agentensor import (
    BadInput,
    EvaluatorContext,
    Limits,
    Settings,
    Store,
    aevaluate,
    create_evaluation_graph,
    evaluate,
    get_prompt,
)
from orcheo_agentensor.errors import NotFound, PromptNotFound, RunMismatch
from orcheo_agentensor.runs import drive

CASES = [
    {"id": f"c{i}", "inputs": {"n": i}, "expected_output": {"double": 2 * i}} for i in range(12)
]


async def double(inputs: dict[str, int]) -> dict[str, int]:
    return {"double": 2 * inputs["n"]}


@pytest.mark.requirement("evaluation.scored")
async def test_scores_every_case_and_reports_in_order() -> None:
    report = await aevaluate(double, dataset=CASES, evaluators=["exact_match"])
    assert report.status == "finished"
    assert report.objective == 1.0
    assert [case.case_id for case in report.cases] == [case["id"] for case in CASES]
    assert report.summary["evaluators"]["exact_match"]["ci95"][0] > 0.7
    assert report.usage.rollouts == 12


def test_the_sync_twin_works_with_and_without_a_running_loop() -> None:
    assert evaluate(double, dataset=CASES, evaluators=["exact_match"]).objective == 1.0

    async def inside() -> Any:
        return evaluate(double, dataset=CASES, evaluators=["exact_match"])

    assert asyncio.run(inside()).objective == 1.0


@pytest.mark.requirement("evaluation.failures")
async def test_trouble_of_target_and_evaluator_is_counted_and_never_averaged_in() -> None:
    async def target(inputs: dict[str, int]) -> dict[str, Any]:
        if inputs["n"] == 0:
            raise ValueError("no zero")
        if inputs["n"] == 1:
            return {"double": float("nan")}
        if inputs["n"] == 2:
            return {"double": object()}
        return {"double": 2 * inputs["n"]}

    def picky(outputs: dict[str, int]) -> bool:
        if outputs["double"] == 6:
            raise RuntimeError("odd one")
        return True

    report = await aevaluate(
        target, dataset=CASES, evaluators=["exact_match", picky], min_coverage=0.5
    )
    summary = report.summary
    assert (summary["n_ok"], summary["n_target_failed"], summary["n_evaluator_failed"]) == (8, 3, 1)
    assert summary["evaluators"]["exact_match"]["mean"] == 1.0
    assert summary["coverage"] == pytest.approx(8 / 12)
    assert not summary["complete"]
    by_id = {case.case_id: case for case in report.cases}
    assert by_id["c0"].target_failure is not None
    assert "no zero" in by_id["c0"].target_failure.reason
    assert by_id["c1"].target_failure is not None
    assert by_id["c1"].target_failure.kind == "not_json"
    assert by_id["c2"].target_failure is not None
    assert by_id["c2"].outcomes == ()
    assert by_id["c3"].failures[0].reason == "RuntimeError: odd one"


async def test_coverage_below_the_least_is_a_missed_threshold() -> None:
    async def target(inputs: dict[str, int]) -> dict[str, int]:
        raise ValueError("never")

    report = await aevaluate(target, dataset=CASES, evaluators=["exact_match"])
    assert report.status == "missed_threshold"
    assert report.objective is None


@pytest.mark.requirement("evaluation.concurrency")
async def test_a_slow_case_times_out_alone_and_passing_trouble_is_retried(
    measured_time: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: dict[int, int] = {}
    wait = asyncio.sleep

    async def sleep(seconds: float) -> None:
        await wait(seconds)
        measured_time.pass_by(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)

    async def target(inputs: dict[str, int]) -> dict[str, int]:
        n = inputs["n"]
        tries[n] = tries.get(n, 0) + 1
        if n == 0:
            await asyncio.Event().wait()
        measured_time.pass_by(0.007)
        if n == 1 and tries[n] < 2:
            raise ConnectionError("try again")
        if n == 2:
            raise KeyError("a bug")
        return {"double": 2 * n}

    report = await aevaluate(
        target,
        dataset=CASES[:4],
        evaluators=["exact_match"],
        limits=Limits(case_timeout=1, retries=1),
        min_coverage=0,
    )
    assert tries == {0: 2, 1: 2, 2: 1, 3: 1}
    first, second, third, fourth = report.cases
    assert first.target_failure is not None
    assert (first.target_failure.kind, first.target_failure.attempts) == ("timeout", 2)
    assert second.ok
    assert fourth.ok
    assert third.target_failure is not None
    assert report.usage.rollouts == 6
    assert second.latency_ms == pytest.approx(7.0)  # backing off is not the target's time


@pytest.mark.requirement("evaluation.concurrency")
async def test_concurrency_is_bounded_and_used() -> None:
    running, most = 0, 0

    async def target(inputs: dict[str, int]) -> dict[str, int]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return {"double": 2 * inputs["n"]}

    await aevaluate(target, dataset=CASES, evaluators=["exact_match"], limits=Limits(concurrency=3))
    assert most == 3


@pytest.mark.requirement("evaluation.live")
async def test_events_come_while_cases_run_numbered_and_in_order() -> None:
    gate = asyncio.Event()
    events: list[dict[str, Any]] = []

    async def target(inputs: dict[str, int]) -> dict[str, int]:
        if inputs["n"] >= 1:
            await gate.wait()
        return {"double": 2 * inputs["n"]}

    graph = create_evaluation_graph(target, evaluators=["exact_match"]).compile()
    async for part in graph.astream({"dataset": CASES}, stream_mode="custom"):
        events.append(part)
        if part["type"] == "case_finished":
            gate.set()
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    types = [event["type"] for event in events]
    assert types[0] == "run_started"
    assert types[-2:] == ["evaluation_summary", "run_finished"]
    assert types.count("case_finished") == len(CASES)
    assert len({event["run_id"] for event in events}) == 1


@pytest.mark.requirement("durability.resume")
async def test_a_run_submitted_again_runs_nothing_twice(tmp_path: Any) -> None:
    calls: list[int] = []
    stuck = asyncio.Event()

    async def target(inputs: dict[str, int]) -> dict[str, int]:
        calls.append(inputs["n"])
        if len(calls) == 7:
            stuck.set()
            await asyncio.Event().wait()
        return {"double": 2 * inputs["n"]}

    arguments: dict[str, Any] = {
        "dataset": CASES,
        "evaluators": ["exact_match"],
        "store": f"sqlite:///{tmp_path}/a.db",
        "run_id": "again",
        "limits": Limits(concurrency=1),
    }
    task = asyncio.ensure_future(aevaluate(target, **arguments))
    await stuck.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with Store.from_url(arguments["store"]) as store:
        assert (await store.runs.get("again")).status == "interrupted"
    report = await aevaluate(target, **arguments)
    assert report.objective == 1.0
    assert sorted(calls) == sorted([*range(12), 6])
    third = await aevaluate(target, **arguments)
    assert third.summary == report.summary
    assert len(calls) == 13
    with pytest.raises(RunMismatch):
        await aevaluate(target, **{**arguments, "evaluators": ["contains"]})


async def test_reuse_takes_recorded_rollouts_of_another_run() -> None:
    calls: list[int] = []

    async def target(inputs: dict[str, int]) -> dict[str, int]:
        calls.append(inputs["n"])
        return {"double": 2 * inputs["n"]}

    async with Store.from_url(None) as store:
        await aevaluate(
            target, dataset=CASES, evaluators=["exact_match"], store=store, run_id="one"
        )
        again = await aevaluate(
            target,
            dataset=CASES,
            evaluators=["exact_match", lambda outputs: outputs["double"] >= 0],
            store=store,
            run_id="two",
            reuse="one",
        )
    assert len(calls) == len(CASES)
    assert again.usage.rollouts == 0
    assert [case.case_id for case in again.cases] == [case["id"] for case in CASES]
    assert len(again.summary["evaluators"]) == 2


async def test_prompts_config_and_callbacks_reach_the_nodes_of_a_graph() -> None:
    class State(TypedDict, total=False):
        n: int
        double: str

    seen: list[Any] = []

    class Listener(BaseCallbackHandler):
        def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
            seen.append(kwargs.get("name"))

    async def node(state: State, config: RunnableConfig) -> dict[str, str]:
        seen.append((config["tags"][0], config["metadata"]["team"], config["configurable"]["x"]))
        return {"double": get_prompt("p") + str(state["n"])}

    graph = StateGraph(State)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    report = await aevaluate(
        graph,
        dataset=[{"id": "a", "inputs": {"n": 1}, "expected_output": {"n": 1, "double": "v1"}}],
        evaluators=["exact_match"],
        prompts={"p": "v"},
        config={
            "tags": ["t"],
            "metadata": {"team": "x"},
            "configurable": {"x": 1},
            "callbacks": [Listener()],
        },
    )
    assert report.objective == 1.0
    assert ("t", "x", 1) in seen
    assert "node" in seen


async def test_a_missing_prompt_ends_the_run_with_one_clear_message() -> None:
    async def target(inputs: Any) -> str:
        return get_prompt("absent")

    with pytest.raises(PromptNotFound, match="'absent' is not in"):
        await aevaluate(target, dataset=CASES, evaluators=["exact_match"], prompts={"p": "x"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": [*CASES, CASES[0]]}, "c0"),
        ({"dataset": []}, "holds no case"),
        ({"evaluators": ["os:system"]}, "AGENTENSOR_ALLOWED_MODULES"),
        ({"evaluators": ["exakt_match"]}, "exact_match"),
        ({"evaluators": []}, "at least one evaluator"),
        ({"target": "os:getcwd"}, "AGENTENSOR_ALLOWED_MODULES"),
        ({"target": 3}, "target"),
        ({"config": {"colour": 1}}, "colour"),
        ({"config": {"metadata": {"x": float("nan")}}}, "nan"),
        ({"config": {"configurable": {"lc": 1}}}, "lc"),
        ({"prompts": {"p": 3}}, "prompts.p"),
        ({"run_id": "../x"}, "run_id"),
        ({"min_coverage": 2}, "min_coverage"),
    ],
)
async def test_bad_input_is_refused_with_its_field_and_nothing_is_written(
    change: dict[str, Any], message: str
) -> None:
    async with Store.from_url(None) as store:
        job: dict[str, Any] = {
            "target": double,
            "dataset": CASES,
            "evaluators": ["exact_match"],
            "store": store,
        }
        with pytest.raises(BadInput, match=message):
            await aevaluate(**{**job, **change})
        assert await store.runs.list() == []
        assert await store.datasets.list() == []


async def test_evaluators_get_the_case_and_may_change_their_copy() -> None:
    def greedy(ctx: EvaluatorContext) -> float:
        ctx.output.clear()
        return 1.0

    report = await aevaluate(double, dataset=CASES, evaluators=[greedy, "exact_match"])
    assert report.summary["evaluators"]["exact_match"]["mean"] == 1.0


async def test_a_target_with_its_own_checkpointer_and_context_runs_as_a_root_graph() -> None:
    class Context(TypedDict, total=False):
        tone: str

    class State(TypedDict, total=False):
        n: int
        out: str

    async def node(state: State, runtime: Any) -> dict[str, str]:
        return {"out": runtime.context["tone"]}

    from langgraph.runtime import Runtime

    node.__annotations__["runtime"] = Runtime[Context]
    graph = StateGraph(State, context_schema=Context)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    report = await aevaluate(
        graph.compile(checkpointer=InMemorySaver()),
        dataset=[{"inputs": {"n": 1}, "expected_output": {"out": "kind"}}],
        evaluators=["exact_match"],
        config={"configurable": {"tone": "kind"}},
    )
    assert report.objective == 1.0, report.cases


async def test_each_attempt_has_a_thread_and_a_run_id_of_its_own() -> None:
    roots: list[Any] = []
    failed: list[str] = []

    class Chat(TypedDict):
        said: Annotated[list[str], operator.add]

    class Listener(BaseCallbackHandler):
        def on_chain_start(
            self, serialized: Any, inputs: Any, *, run_id: Any, parent_run_id: Any = None, **_: Any
        ) -> None:
            if parent_run_id is None:
                roots.append(run_id)

    async def say(state: Chat) -> dict[str, list[str]]:
        return {"said": ["hello"]}

    async def break_once(state: Chat) -> None:
        if not failed:
            failed.append("once")
            raise ConnectionError("lost")

    graph = StateGraph(Chat)
    graph.add_sequence([say, break_once])
    graph.add_edge(START, "say")
    report = await aevaluate(
        graph.compile(checkpointer=InMemorySaver()),
        dataset=[{"inputs": {"said": [name]}} for name in "ab"],
        evaluators=[turns],
        config={
            "configurable": {"thread_id": "shared"},
            "run_id": str(uuid.uuid4()),
            "callbacks": [Listener()],
        },
    )
    assert [case.scores["turns"] for case in report.cases] == [2.0, 2.0]
    assert len(roots) == len(set(roots)) == 3


def turns(outputs: dict[str, list[str]]) -> int:
    return len(outputs["said"])


async def test_a_drain_lets_a_case_that_began_use_its_retries() -> None:
    control = RunControl()
    calls: list[int] = []

    async def target(inputs: int) -> int:
        calls.append(inputs)
        if len(calls) == 1:
            control.request_drain()
            raise ConnectionError("lost")
        return inputs

    async with Store.from_url(None) as store:
        graph = create_evaluation_graph(
            target, dataset=[{"inputs": n} for n in range(3)], evaluators=[one], store=store
        )
        job = {"limits": {"concurrency": 1}}
        found = await drive(graph, job, store=store, run_id="r", control=control)
        assert found["status"] == "interrupted"
        assert calls == [0, 0]
        assert (await store.runs.usage("r")).rollouts == 2


def one(outputs: int) -> float:
    return 1.0


async def test_what_failures_say_is_kept_without_its_secrets() -> None:
    key = "sk-abc123def456ghi789jkl0"
    heard: list[Any] = []

    def refuse(outputs: int) -> float:
        raise ValueError(f"refused {key}")

    async def target(inputs: int) -> int:
        if inputs:
            raise ValueError(f"refused {key}")
        return inputs

    dataset = [{"inputs": 0}, {"inputs": 1}]
    report = await aevaluate(target, dataset=dataset, evaluators=[refuse], on_event=heard.append)
    assert report.summary["n_target_failed"] == report.summary["n_evaluator_failed"] == 1
    assert "refused [redacted]" in str(report.cases)
    assert key not in str([report.cases, heard])


async def test_a_hook_that_raises_is_logged_and_cannot_end_the_run(caplog: Any) -> None:
    def hook(event: dict[str, Any]) -> None:
        raise ZeroDivisionError

    report = await aevaluate(
        double, dataset=CASES[:2], evaluators=["exact_match"], on_event=hook, limits={"retries": 0}
    )
    assert report.objective == 1.0
    assert "on_event raised on run_started 1" in caplog.text


async def unheard(event: dict[str, Any]) -> None:
    """Nobody would await it."""


def broken_factory() -> None:
    raise RuntimeError("no database")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"on_event": unheard}, BadInput, "must be a plain function"),
        ({"limits": {"concurency": 1}}, BadInput, "concurency"),
        ({"reuse": "nope"}, NotFound, "nope"),
        (
            {
                "target": f"{__name__}:broken_factory",
                "settings": Settings(allowed_modules=__name__),
            },
            BadInput,
            "could not be built: RuntimeError: no database",
        ),
    ],
)
async def test_what_cannot_work_is_refused_at_the_start(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    job: dict[str, Any] = {"target": double, "dataset": CASES, "evaluators": ["exact_match"]}
    with pytest.raises(error, match=message):
        await aevaluate(**{**job, **change})

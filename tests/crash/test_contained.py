"""Targets and evaluators that exit, or that ignore their end, cost their own case and no more."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import START, StateGraph
from langgraph.prebuilt import ToolNode
from processes import start

from orcheo_agentensor import (
    Limits,
    Reflective,
    Store,
    aevaluate,
    atrain,
    evaluate,
    get_prompt,
    train,
)
from orcheo_agentensor.errors import BadInput

CASES = [{"id": f"c{n}", "inputs": {"n": n}, "expected_output": {"n": n}} for n in range(6)]


class State(TypedDict):
    n: int


def graph_of(node: Any) -> Any:
    return StateGraph(State).add_node("node", node).add_edge(START, "node").compile()


class Asking(State):
    messages: list[Any]


def graph_with(tool: Any) -> Any:
    """A graph whose model, as it were, asks for the tool."""

    def ask(state: Asking) -> Any:
        call = {"name": tool.__name__, "args": {"n": state["n"]}, "id": "1"}
        return {"messages": [AIMessage("", tool_calls=[call])]}

    def read(state: Asking) -> Any:
        return {"n": int(state["messages"][-1].content)}

    builder = StateGraph(Asking, output_schema=State).add_node("ask", ask).add_node("read", read)
    builder.add_node("tools", ToolNode([tool])).add_edge(START, "ask")
    return builder.add_edge("ask", "tools").add_edge("tools", "read").compile()


def leave(inputs: dict[str, Any], how: Any) -> dict[str, Any]:
    if inputs["n"] == 2:
        raise how
    return inputs


class Odd(BaseException):
    """No `Exception`."""


EXITS = [
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    asyncio.CancelledError(),
    TimeoutError(),
    StopIteration(),
    Odd("odd"),
]


@pytest.mark.parametrize("how", EXITS, ids=lambda how: type(how).__name__)
@pytest.mark.parametrize(
    "form", ["function", "sync function", "graph", "sync graph", "task", "tool", "sync tool"]
)
async def test_a_target_that_exits_fails_on_that_case_alone(how: Any, form: str) -> None:
    async def target(inputs: dict[str, Any]) -> dict[str, Any]:
        return leave(inputs, how)

    def sync_target(inputs: dict[str, Any]) -> dict[str, Any]:
        return leave(inputs, how)

    async def in_a_task(inputs: dict[str, Any]) -> dict[str, Any]:
        async with asyncio.TaskGroup() as group:
            made = group.create_task(target(inputs))
        return made.result()

    async def node(state: State) -> Any:
        return leave(dict(state), how)

    def sync_node(state: State) -> Any:
        return leave(dict(state), how)

    async def tool(n: int) -> int:
        """Give n."""
        return int(leave({"n": n}, how)["n"])

    def sync_tool(n: int) -> int:
        """Give n."""
        return int(leave({"n": n}, how)["n"])

    found = {
        "tool": graph_with(tool),
        "sync tool": graph_with(sync_tool),
        "function": target,
        "sync function": sync_target,
        "graph": graph_of(node),
        "sync graph": graph_of(sync_node),
        "task": in_a_task,
    }[form]
    report = await aevaluate(
        found, dataset=CASES, evaluators=["exact_match"], min_coverage=0, limits=Limits(retries=0)
    )
    failed = [case for case in report.cases if case.failure is not None]
    assert [case.case_id for case in failed] == ["c2"]
    assert type(how).__name__ in failed[0].failure.reason
    assert report.scores["exact_match"].n == 5


@pytest.mark.parametrize("how", EXITS, ids=lambda how: type(how).__name__)
@pytest.mark.parametrize("sync", [True, False])
async def test_an_evaluator_that_exits_fails_on_that_case_alone(how: Any, sync: bool) -> None:
    def judge(outputs: dict[str, Any]) -> float:
        leave(outputs, how)
        return 1.0

    async def ajudge(outputs: dict[str, Any]) -> float:
        return judge(outputs)

    report = await aevaluate(
        lambda inputs: inputs,
        dataset=CASES,
        evaluators=[judge if sync else ajudge],
        min_coverage=0,
    )
    (scores,) = report.scores.values()
    assert (scores.n, scores.failures) == (5, 1)


LEAVING = """
import sys

def flow():
    sys.exit(3)

class Judge:
    def __init__(self):
        sys.exit(3)

    def __call__(self, outputs):
        return 1.0

class Proposer(Judge):
    async def propose(self, request):
        return {}
"""


@pytest.mark.parametrize("part", ["target", "evaluator", "proposer"])
async def test_a_part_that_exits_when_it_is_made_is_refused(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaving.py").write_text(LEAVING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "leaving", raising=False)
    monkeypatch.setenv("AGENTENSOR_ALLOWED_MODULES", "leaving")
    judge = {"entrypoint": "leaving:Judge"} if part == "evaluator" else "exact_match"
    with pytest.raises(BadInput, match="SystemExit: 3"):
        await atrain(
            "leaving:flow" if part == "target" else lambda inputs: inputs,
            dataset=CASES,
            evaluators=[judge],
            prompts={"p": "x"},
            optimizer={"name": "textgrad", "proposer": "leaving:Proposer"},
        )


QUIET = """
import gc
from orcheo_agentensor import *
from rule_task import PROMPTS, Target, Teacher, dataset, done
from test_contained import *

async def broken_off(graph, job):
    for events in (1, 3, 10):
        config = {"configurable": {"thread_id": str(events)}}
        modes = {"stream_mode": ["updates", "custom"], "subgraphs": True}
        async for part in graph.astream(job, config, **modes):
            events -= 1
            if not events:
                break

async def main():
    for how in (GeneratorExit(), SystemExit(3)):
        for form in ("sync function", "graph", "sync graph", "sync tool"):
            await test_a_target_that_exits_fails_on_that_case_alone(how, form)
        for sync in (True, False):
            await test_an_evaluator_that_exits_fails_on_that_case_alone(how, sync)
    evaluation = create_evaluation_graph(target=lambda inputs: inputs).compile()
    await broken_off(evaluation, {"dataset": CASES, "evaluators": ["exact_match"]})
    training = create_training_graph(
        target=Target(), evaluators=[done], optimizer=Reflective(minibatch=4, proposer=Teacher())
    )
    data = dataset(train=8, validation=6, holdout=6)
    await broken_off(training.compile(), {"prompts": PROMPTS, "dataset": data})

asyncio.run(main())
gc.collect()
print("done")
"""


def test_exits_and_streams_that_nobody_reads_to_their_end_make_no_noise() -> None:
    told, errors = start(QUIET, "").communicate()
    assert (told, errors) == ("done\n", "")


async def test_a_task_that_a_target_cancels_before_it_begins_is_closed() -> None:
    async def target(inputs: Any) -> Any:
        task = asyncio.ensure_future(asyncio.sleep(0))
        task.cancel()
        await asyncio.wait([task])
        return inputs

    report = await aevaluate(target, dataset=CASES, evaluators=["exact_match"])
    assert report.objective == 1.0
    gc.collect()  # what was never awaited is told of here, and is an error


async def deaf(state: Any) -> Any:
    """Goes on for ever on one case, whatever it is told."""
    while state["n"] == 2:
        try:
            await asyncio.sleep(3600)
        except BaseException:  # noqa: BLE001 - that is the point
            continue
    return state


@pytest.mark.parametrize("form", ["function", "graph"])
def test_what_ignores_its_cancellation_is_left_behind(
    form: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("orcheo_agentensor.evaluators.contained.GRACE", 0.05)

    async def node(state: State) -> Any:
        return await deaf(dict(state))

    report = evaluate(
        deaf if form == "function" else graph_of(node),
        dataset=CASES,
        evaluators=["exact_match"],
        min_coverage=0,
        limits=Limits(case_timeout=0.05, concurrency=1),
    )
    failed = [case.failure for case in report.cases if case.failure is not None]
    # LangGraph does not wait for a node that it has cancelled; that ends in its own task.
    assert [one.kind for one in failed] == ["abandoned" if form == "function" else "timeout"]
    assert report.scores["exact_match"].n == 5  # the slot was free again
    gc.collect()
    assert capfd.readouterr().err == ""


async def test_a_time_limit_of_the_targets_own_is_no_cancellation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orcheo_agentensor.evaluators.contained.GRACE", 0.01)

    async def target(inputs: dict[str, Any]) -> Any:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(3600)
        await asyncio.sleep(0.05)  # it goes on for longer than the cancelled may
        return inputs

    report = await aevaluate(target, dataset=CASES[:1], evaluators=["exact_match"])
    assert [case.failure for case in report.cases] == [None]


async def test_a_run_that_is_cancelled_does_not_wait_for_what_ignores_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orcheo_agentensor.evaluators.contained.GRACE", 0.05)
    begun, store = asyncio.Event(), Store.from_url(None)

    async def target(inputs: dict[str, Any]) -> Any:
        if inputs["n"] == 2:
            begun.set()
        return await deaf(inputs)

    job = aevaluate(target, dataset=CASES, evaluators=["exact_match"], store=store, run_id="r")
    running = asyncio.ensure_future(job)
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await store.runs.get("r")).status == "interrupted"


def test_a_blocked_loop_is_named_in_the_report(tmp_path: Any) -> None:
    async def target(inputs: dict[str, Any]) -> Any:
        if inputs["n"] == 2:
            time.sleep(2.5)  # noqa: ASYNC251 - that is the point
        return inputs

    report = evaluate(
        target, dataset=CASES, evaluators=["exact_match"], store=f"sqlite:///{tmp_path / 'a.db'}"
    )
    (blocked,) = report.summary["blocked"]
    assert blocked["case_id"] == "c2"
    assert 1.0 <= blocked["seconds"] <= 60.0
    assert "test_contained.py" in blocked["where"]
    (warning,) = [one for one in report.summary["warnings"] if "event loop" in one]
    assert "'c2'" in warning


def test_a_blocked_loop_is_no_metric_of_a_version(tmp_path: Any) -> None:
    """A resumed run, in which nothing is blocked, comes to the same versions."""
    blocks = iter([True])

    async def target(inputs: dict[str, Any]) -> Any:
        if next(blocks, False):
            time.sleep(2.5)  # noqa: ASYNC251 - that is the point
        return {"tone": get_prompt("tone")}

    class Silent:
        async def propose(self, request: Any) -> dict[str, str]:
            return {}

    result = train(
        target,
        prompts={"tone": "kind"},
        dataset=[
            {"split": split, "inputs": {"n": n}, "expected_output": {"tone": "short"}}
            for n, split in enumerate(("train", "train", "validation", "validation"))
        ],
        evaluators=["exact_match"],
        optimizer=Reflective(proposer=Silent()),
        store=f"sqlite:///{tmp_path / 'a.db'}",
    )
    assert len(result.summary["blocked"]) == 1
    for version in result.checkpoints:
        assert "blocked" not in version.metrics
        assert not [one for one in version.metrics.get("warnings", ()) if "event loop" in one]

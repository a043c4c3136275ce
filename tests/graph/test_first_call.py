"""The first call in a process: what it imports, and that it comes to the same without LangGraph."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orcheo_agentensor import Limits, Settings, Store, aevaluate
from orcheo_agentensor.errors import NotFound

IS_ALONE = "orcheo_agentensor.evaluation.api.is_alone"
CASES = [{"id": f"c{n}", "inputs": {"n": n}, "expected_output": {"n": 2 * n}} for n in range(12)]


def in_fresh_process(code: str, *arguments: str) -> Any:
    """The JSON that code prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


PLAIN = """
import json, sys
from orcheo_agentensor import evaluate
async def double(inputs):
    return {"n": 2 * inputs["n"]}
cases = [
    {"id": f"c{n}", "inputs": {"n": n}, "expected_output": {"n": 2 * n}} for n in range(30)
]
events = []
report = evaluate(
    double, dataset=cases, evaluators=["exact_match"], store=sys.argv[1], on_event=events.append
)
assert report.objective == 1.0 and len(events) > 30
print(json.dumps(sorted(sys.modules)))
"""


def test_the_first_evaluation_of_a_function_imports_neither_langgraph_nor_langsmith(
    tmp_path: Path,
) -> None:
    modules = in_fresh_process(PLAIN, f"sqlite:///{tmp_path / 'a.db'}")
    packages = {name.partition(".")[0] for name in modules}
    assert not packages & {
        *("langgraph", "langgraph_sdk", "langchain", "langsmith", "httpx", "requests", "urllib3"),
        *("alembic", "aiosqlite", "psycopg", "scipy", "numpy", "tenacity", "yaml", "jinja2"),
        *("rich", "typer", "genai_prices"),
    }
    of_langchain = {name.partition("langchain_core.")[2] for name in modules} - {""}
    public = {name for name in of_langchain if not name.startswith("_")}
    assert public == {"callbacks", "callbacks.base", "version"}
    ours = {name.removeprefix("orcheo_agentensor.") for name in modules}
    assert not ours & {
        *("evaluation.graph", "runs.nodes", "targets.served", "targets.wrapped", "targets.remote"),
        *("evaluators.judge", "evaluators.packages", "evaluators.detection", "datasets.formats"),
        *("evaluators.json_checks", "evaluators.assertions", "evaluators.turns"),
    }


LATE = """
import json, sys
from orcheo_agentensor import Limits, evaluate
from orcheo_agentensor.seeds import get_seed

if sys.argv[1] == "before":
    import langchain_core.runnables, langgraph.graph, orcheo_agentensor.testing

def answer(inputs):
    from langchain_core.runnables import RunnableLambda
    from langchain_core.runnables.config import ensure_config
    from langgraph.graph import START, StateGraph
    from orcheo_agentensor.testing import ScriptedChatModel
    from typing import TypedDict

    class State(TypedDict, total=False):
        text: str
        tone: str
        case: str

    def node(state, config):
        said = ScriptedChatModel(replies=["yes"]).invoke("Is it?").content
        configurable = config["configurable"]
        return {
            "text": said, "tone": configurable["tone"],
            "case": config["metadata"]["agentensor_case_id"],
        }

    graph = StateGraph(State).add_node("node", node).add_edge(START, "node").compile()
    found = graph.invoke({"text": ""})
    return {**found, "seed": get_seed(), "tags": sorted(ensure_config()["tags"])[:1]}

report = evaluate(
    answer,
    dataset=[{"id": f"c{n}", "inputs": {"n": n}} for n in range(12)],
    evaluators=[lambda outputs: outputs["text"] == "yes"],
    config={"configurable": {"tone": "kind"}, "tags": ["aaa"]},
    limits=Limits(concurrency=6),
)
print(json.dumps([[case.output, case.usage.calls, case.failure] for case in report.cases]))
"""


def test_a_function_that_imports_langchain_when_called_has_its_config_and_calls_counted() -> None:
    """Also the calls that had begun by then, in other threads."""
    late, before = in_fresh_process(LATE, "late"), in_fresh_process(LATE, "before")
    assert late == before
    assert [(output["tone"], output["case"], calls) for output, calls, _ in late] == [
        ("kind", f"c{n}", 1) for n in range(12)
    ]


async def faulty(inputs: dict[str, int], config: Any) -> Any:
    if inputs["n"] == 3:
        raise ValueError("no three")
    if inputs["n"] == 4:
        return {"n": float("nan")}
    seen = {key: config[key] for key in ("tags", "metadata")}
    SEEN[-1][f"c{inputs['n']}"] = {**seen, "configurable": sorted(config["configurable"])}
    return {"n": 2 * inputs["n"]}


SEEN: list[dict[str, Any]] = []


def untimed(value: Any) -> Any:
    """JSON without what differs from run to run."""
    if isinstance(value, dict):
        left_out = ("latency", "p50", "p95", "started", "ended", "created")
        return {k: untimed(v) for k, v in value.items() if not k.startswith(left_out)}
    return [untimed(one) for one in value] if isinstance(value, list) else value


async def both_ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **job: Any) -> list[Any]:
    """What a job comes to without LangGraph, and with it: result, events, record, configs."""
    found = []
    for alone in (True, False):
        monkeypatch.setattr(IS_ALONE, lambda alone=alone: alone)
        SEEN.append({})
        events: list[Any] = []
        async with Store.from_url(f"sqlite:///{tmp_path / f'{alone}.db'}") as store:
            given: dict[str, Any] = {"dataset": CASES, "evaluators": ["exact_match"], **job}
            limits = Limits(concurrency=1, retries=0)
            try:
                report = await aevaluate(
                    **given, limits=limits, store=store, run_id="same", on_event=events.append
                )
                told: Any = report.to_json()
            except Exception as error:  # noqa: BLE001 - to be compared
                told = [type(error).__name__, str(error)]
            try:
                record = (await store.runs.get("same")).model_dump(mode="json")
            except NotFound:
                record = None
        found.append(untimed([told, events, record, SEEN[-1]]))
    return found


@pytest.mark.parametrize(
    "job",
    [
        {},
        {"min_coverage": 0.5},
        {"replicates": 2, "seed": 7},
        {"config": {"tags": ["t"], "metadata": {"a": 1}, "configurable": {"k": [1]}}},
        {"prompts": {"tone": "Kindly:"}},
        {"summary_evaluators": [lambda outputs: {"key": "all", "score": len(outputs)}]},
        {"evaluators": [lambda outputs: 1 / 0]},
        {"evaluators": ["no_such"]},
        {"settings": Settings(max_concurrency=1)},
    ],
    ids=lambda job: ",".join(job) or "plain",
)
async def test_an_evaluation_without_langgraph_comes_to_the_same_as_with_it(
    job: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without, with_it = await both_ways(monkeypatch, tmp_path, target=faulty, **job)
    assert without == with_it
    if "evaluators" not in job:
        assert len(without[3]) == 10
        assert [event["type"] for event in without[1]][-1] == "run_finished"


@pytest.mark.parametrize("alone", [True, False], ids=["without", "with"])
async def test_a_cancelled_evaluation_is_interrupted_and_goes_on(
    alone: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(IS_ALONE, lambda: alone)
    begun = asyncio.Event()
    ran: list[int] = []

    async def waits(inputs: dict[str, int]) -> dict[str, int]:
        ran.append(inputs["n"])
        if inputs["n"] == 5 and ran.count(5) == 1:
            begun.set()
            await asyncio.Event().wait()
        return {"n": 2 * inputs["n"]}

    async with Store.from_url(f"sqlite:///{tmp_path / 'a.db'}") as store:
        job: Any = {"dataset": CASES, "evaluators": ["exact_match"], "store": store}
        limits = Limits(concurrency=1)
        run = asyncio.create_task(aevaluate(waits, **job, limits=limits, run_id="one"))
        await begun.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert (await store.runs.get("one")).status == "interrupted"
        again = await aevaluate(waits, **job, limits=limits, run_id="one")
        assert again.objective == 1.0
        assert sorted(ran) == sorted([*range(12), 5])
        finished = await aevaluate(waits, **job, limits=limits, run_id="one")
        assert finished.summary == again.summary
        assert len(ran) == 13


async def test_an_evaluation_inside_a_run_of_a_host_is_a_part_of_that(tmp_path: Path) -> None:
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.runnables import RunnableLambda

    names: list[str] = []

    class Heard(BaseCallbackHandler):
        def on_chain_start(self, *args: Any, name: str = "", **kwargs: Any) -> None:
            names.append(name)

    async def double(inputs: dict[str, int]) -> dict[str, int]:
        return {"n": 2 * inputs["n"]}

    async def host(_: Any) -> float | None:
        report = await aevaluate(double, dataset=CASES, evaluators=["exact_match"])
        return report.objective

    assert await RunnableLambda(host).ainvoke(1, {"callbacks": [Heard()]}) == 1.0
    assert {"host", "prepare", "run_cases", "summarize"} <= {*names}

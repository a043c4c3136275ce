"""A run does not go on, and is not reused, with code of the target that has changed since."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orcheo_agentensor import EvaluationReport, aevaluate, atrain
from orcheo_agentensor.errors import RunMismatch
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.storage import Store

CASES = [{"id": str(n), "inputs": {"n": n}, "expected_output": n} for n in range(4)]
SETTINGS = Settings(allowed_modules=("driftshop",))
FLOW = """
from driftshop.answers import answer

async def target(inputs):
    return answer(inputs["n"])
"""
GRAPH = """
from typing import TypedDict
from langgraph.graph import START, StateGraph
from driftshop import answers

class State(TypedDict, total=False):
    n: int
    out: int

async def node(state: State) -> State:
    return {"out": answers.answer(state["n"])}

builder = StateGraph(State)
builder.add_node("node", node)
builder.add_edge(START, "node")
graph = builder.compile().with_retry()
"""
ANSWERS = "def answer(n):\n    return n\n"


class Shop:
    """A project of a few modules, which can be edited and imported again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "driftshop"
        self.folder.mkdir()
        for name, text in {
            "__init__": "",
            "flow": FLOW,
            "graph": GRAPH,
            "answers": ANSWERS,
        }.items():
            self.edit(name, text)

    def edit(self, name: str, text: str) -> None:
        (self.folder / f"{name}.py").write_text(text)
        self.forget()

    def forget(self) -> None:
        importlib.invalidate_caches()
        for name in [name for name in sys.modules if name.split(".")[0] == "driftshop"]:
            del sys.modules[name]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    found = Shop(tmp_path)
    yield found
    found.forget()


async def evaluated(store: Store, target: str, **arguments: Any) -> EvaluationReport:
    return await aevaluate(
        f"driftshop.{target}",
        dataset=CASES,
        evaluators=["json_valid"],
        store=store,
        settings=SETTINGS,
        **arguments,
    )


async def interrupt(store: Store, run_id: str) -> None:
    """Take a run back to before its end."""
    await store.runs.update(run_id, status="interrupted", result=None, ended_at=None)


@pytest.mark.parametrize("target", ["flow:target", "graph:graph"])
@pytest.mark.requirement("durability.drift")
async def test_changed_code_is_refused_by_name_and_accepted_on_request(
    shop: Shop, target: str
) -> None:
    async with Store.from_url(None) as store:
        await evaluated(store, target, run_id="r")
        await interrupt(store, "r")
        shop.forget()
        await evaluated(store, target, run_id="r")  # the same code
        await interrupt(store, "r")
        shop.edit("answers", ANSWERS.replace("return n", "return n + 1"))
        with pytest.raises(RunMismatch, match=r"'r' cannot go on.*\(driftshop.answers\)"):
            await evaluated(store, target, run_id="r")
        with pytest.raises(RunMismatch, match=r"'r' cannot be reused.*\(driftshop.answers\)"):
            await evaluated(store, target, reuse="r")
        assert [run.run_id for run in await store.runs.list()] == ["r"]
        report = await evaluated(store, target, run_id="r", accept_drift=True)
        assert report.objective == 1.0
        record = await store.runs.get("r")
        assert record.refs["drift"] == [{"run_id": "r", "changed": ["driftshop.answers"]}]
        await interrupt(store, "r")
        await evaluated(store, target, run_id="r")  # what was accepted is the code of the run now


@pytest.mark.requirement("durability.drift")
async def test_reuse_of_changed_code_is_noted_where_it_is_accepted(shop: Shop) -> None:
    async with Store.from_url(None) as store:
        await evaluated(store, "flow:target", run_id="old")
        shop.edit("flow", FLOW + "\n# mended\n")
        report = await evaluated(store, "flow:target", reuse="old", accept_drift=True)
        assert report.usage.rollouts == 0
        record = await store.runs.get(report.run_id)
        assert record.refs["drift"] == [{"run_id": "old", "changed": ["driftshop.flow"]}]


async def test_another_target_is_no_drift(shop: Shop) -> None:
    async with Store.from_url(None) as store:
        await evaluated(store, "flow:target", run_id="old")
        shop.edit("answers", "def answer(n):\n    return 0\n")
        report = await evaluated(store, "graph:graph", reuse="old")
        assert report.usage.rollouts == len(CASES)


async def test_a_finished_run_gives_its_result_for_its_own_code_or_where_that_is_accepted(
    shop: Shop,
) -> None:
    async with Store.from_url(None) as store:
        await evaluated(store, "flow:target", run_id="r")
        shop.forget()
        assert (await evaluated(store, "flow:target", run_id="r")).objective == 1.0
        shop.edit("answers", "def answer(n):\n    return 0\n")
        with pytest.raises(RunMismatch, match=r"'r' has finished, .*\(driftshop.answers\)"):
            await evaluated(store, "flow:target", run_id="r")
        report = await evaluated(store, "flow:target", run_id="r", accept_drift=True)
        assert report.objective == 1.0
        assert "drift" not in (await store.runs.get("r")).refs  # its result is that of the old code


async def test_a_training_does_not_go_on_with_changed_code(shop: Shop) -> None:
    shop.edit(
        "flow",
        "from orcheo_agentensor import get_prompt\n"
        "async def target(inputs):\n    return get_prompt('p')\n",
    )

    class Proposer:
        async def propose(self, request: Any) -> dict[str, str]:
            return {"p": request.components[0].text + "x"}

    def trained(store: Store, **arguments: Any) -> Any:
        return atrain(
            "driftshop.flow:target",
            prompts={"p": "a"},
            dataset=[
                {**case, "split": ("train", "validation")[n % 2]} for n, case in enumerate(CASES)
            ],
            evaluators=[lambda ctx: len(ctx.output) / 100],
            optimizer={"name": "random_search"} | {"proposer": Proposer()},
            budget={"rollouts": 12},
            run_id="t",
            store=store,
            settings=SETTINGS,
            **arguments,
        )

    async with Store.from_url(None) as store:
        await trained(store)
        await interrupt(store, "t")
        shop.edit("flow", (shop.folder / "flow.py").read_text() + "\n")
        with pytest.raises(RunMismatch, match=r"driftshop\.flow"):
            await trained(store)
        await trained(store, accept_drift=True)


async def test_a_cache_takes_nothing_from_live_objects_that_no_module_holds(shop: Shop) -> None:
    flow = importlib.import_module("driftshop.flow")

    async def closed(inputs: Any, *, plus: int) -> Any:
        return inputs["n"] + plus

    async with Store.from_url(None) as store:

        async def executed(target: Any) -> tuple[int, int]:
            report = await aevaluate(
                target,
                dataset=CASES,
                evaluators=["json_valid"],
                store=store,
                workflow_id="shop",
                cache=True,
                settings=SETTINGS,
            )
            return report.usage.rollouts, sum("cache: nothing" in one for one in report.warnings)

        assert await executed(flow.target) == (4, 0)
        assert await executed(flow.target) == (0, 0)
        for plus in (1, 2):
            assert await executed(functools.partial(closed, plus=plus)) == (4, 1)
        shop.edit("answers", ANSWERS.replace("return n", "return n + 1"))
        assert await executed(importlib.import_module("driftshop.flow").target) == (4, 0)

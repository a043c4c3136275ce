"""Targets named as `langgraph.json` names them, and the inputs that Python callers write."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict

from orcheo_agentensor import Case, Store, aevaluate, atrain, get_prompt
from orcheo_agentensor.errors import (
    BadInput,
    DatasetError,
    EntrypointNotAllowed,
    EntrypointNotFound,
)
from orcheo_agentensor.settings import Settings

CASES = [
    {"id": str(n), "inputs": {"n": n}, "expected_output": {"n": n, "text": f"hi {n}"}}
    for n in range(3)
]
MODULE = """
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    n: int
    text: str

def node(state):
    return {"text": f"hi {state['n']}"}

builder = StateGraph(State)
builder.add_node("node", node)
builder.add_edge(START, "node")
graph = builder.compile()

async def make_graph(config):
    return graph
"""


class State(TypedDict, total=False):
    n: int
    text: str


def graph_of(config: Any) -> Any:
    """A graph that is built for one prompt, and keeps what it has seen on its thread."""
    text = get_prompt("p", config=config, default="hi")
    graph = StateGraph(State)
    graph.add_node("node", lambda state: {"text": f"{text} {state['n']}"})
    graph.add_edge(START, "node")
    return graph.compile(checkpointer=InMemorySaver())


OPEN: list[str] = []
"""What is open at the moment; nothing may be left."""


def make_graph(config: RunnableConfig) -> Any:
    return graph_of(config)


async def make_graph_async(config: RunnableConfig) -> Any:
    return graph_of(config)


def make_graph_by_keyword(*, config: RunnableConfig) -> Any:
    return graph_of(config)


@asynccontextmanager
async def open_graph(config: RunnableConfig) -> AsyncIterator[Any]:
    OPEN.append("graph")
    yield graph_of(config)
    OPEN.remove("graph")


@contextmanager
def open_graph_sync(config: RunnableConfig) -> Iterator[Any]:
    OPEN.append("graph")
    yield graph_of(config)
    OPEN.remove("graph")


async def yield_graph(config: RunnableConfig) -> AsyncIterator[Any]:
    OPEN.append("graph")
    yield graph_of(config)
    OPEN.remove("graph")


async def make_uncompiled() -> Any:
    return graph_of(None).builder


compat = pytest.mark.compat
FACTORIES = [
    pytest.param(make_graph, marks=compat("targets", "factory", "make_graph(config)")),
    pytest.param(make_graph_async, marks=compat("targets", "factory", "async make_graph(config)")),
    pytest.param(
        make_graph_by_keyword, marks=compat("targets", "factory", "make_graph(*, config)")
    ),
    pytest.param(open_graph, marks=compat("targets", "factory", "async context manager")),
    pytest.param(open_graph_sync, marks=compat("targets", "factory", "context manager")),
    pytest.param(yield_graph, marks=compat("targets", "factory", "async generator")),
    pytest.param(make_uncompiled, marks=compat("targets", "factory", "of an uncompiled graph")),
]


@pytest.mark.parametrize("factory", FACTORIES)
async def test_a_factory_builds_the_graph_of_each_rollout(factory: Any) -> None:
    report = await aevaluate(factory, dataset=CASES, evaluators=["exact_match"])
    assert report.objective == 1.0, report.cases[0]
    assert not OPEN


async def test_a_factory_gets_the_prompts_of_its_rollout() -> None:
    class Proposer:
        async def propose(self, request: Any) -> dict[str, str]:
            return {"p": "hi"}

    result = await atrain(
        open_graph,
        prompts={"p": "ho"},
        dataset=[
            {**case, "split": split, "id": split + str(case["id"])}
            for split in ("train", "validation")
            for case in CASES
        ],
        evaluators=["exact_match"],
        optimizer={"name": "random_search", "proposer": Proposer()},
        budget={"rollouts": 20},
    )
    assert result.best.prompts["p"].text == "hi"
    assert not OPEN


async def test_a_factory_that_fails_is_refused_before_anything_runs() -> None:
    def make_broken(config: RunnableConfig) -> Any:
        raise KeyError("DATABASE")

    with pytest.raises(BadInput, match="could not be built: KeyError: 'DATABASE'"):
        await aevaluate(make_broken, dataset=CASES, evaluators=["exact_match"])


@pytest.mark.compat("targets", "function", "(inputs, *, config)")
async def test_a_function_takes_its_config_by_keyword() -> None:
    async def target(inputs: Any, *, config: RunnableConfig) -> Any:
        return {**inputs, "text": f"{config['configurable']['word']} {inputs['n']}"}

    def sync(inputs: Any, *, config: RunnableConfig, loud: bool = False) -> Any:
        return {**inputs, "text": f"{get_prompt('p', config=config)} {inputs['n']}"}

    config = {"configurable": {"word": "hi"}}
    for each in (target, sync):
        report = await aevaluate(
            each, dataset=CASES, evaluators=["exact_match"], config=config, prompts={"p": "hi"}
        )
        assert report.objective == 1.0, report.cases[0]


async def test_the_parts_of_a_stream_are_joined() -> None:
    async def words(inputs: Any) -> AsyncIterator[str]:
        yield "hi "
        yield str(inputs["n"])

    def states(inputs: Any) -> Iterator[dict[str, Any]]:
        yield {"text": "wait"}
        yield {"n": inputs["n"], "text": f"hi {inputs['n']}"}

    said = [{**case, "expected_output": case["expected_output"]["text"]} for case in CASES]  # type: ignore[index]
    for target, dataset in ((words, said), (states, CASES)):
        report = await aevaluate(target, dataset=dataset, evaluators=["exact_match"])
        assert report.objective == 1.0, report.cases[0]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "src" / "pathshop").mkdir(parents=True)
    (tmp_path / "src" / "pathshop" / "graph.py").write_text(MODULE)
    (tmp_path / "other.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if "pathshop" in name]:
        del sys.modules[name]


@pytest.mark.compat(
    "targets",
    "name",
    "module:graph, ./path/file.py:graph, in a job or in Python",
    works_with="AGENTENSOR_ALLOWED_MODULES",
)
@pytest.mark.parametrize("attribute", ["graph", "builder", "make_graph"])
@pytest.mark.parametrize("on_path", [True, False])
async def test_a_target_is_named_by_its_file(
    project: Path, monkeypatch: pytest.MonkeyPatch, attribute: str, on_path: bool
) -> None:
    if on_path:  # as `dependencies: ["./src"]` has it
        monkeypatch.syspath_prepend(project / "src")
    report = await aevaluate(
        f"./src/pathshop/graph.py:{attribute}",
        dataset=CASES,
        evaluators=["exact_match"],
        settings=Settings(allowed_modules=("pathshop" if on_path else "src.pathshop",)),
    )
    assert report.objective == 1.0


@pytest.mark.compat(
    "targets",
    "name",
    "a module or file that is not allowed",
    refused="its module in AGENTENSOR_ALLOWED_MODULES",
)
@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("./other.py:graph", EntrypointNotAllowed),
        ("./src/pathshop/../../other.py:graph", EntrypointNotAllowed),
        ("./src/pathshop/absent.py:graph", EntrypointNotFound),
        ("./src/pathshop/graph.py:absent", EntrypointNotFound),
        ("./src/pathshop/graph.py:_private", EntrypointNotAllowed),
        ("/etc/passwd.py:graph", EntrypointNotFound),
    ],
)
async def test_a_file_outside_the_allowed_modules_is_not_imported(
    project: Path, target: str, error: Any
) -> None:
    with pytest.raises(error):
        await aevaluate(
            target,
            dataset=CASES,
            evaluators=["exact_match"],
            settings=Settings(allowed_modules=("src.pathshop",)),
        )


async def test_a_link_out_of_an_allowed_folder_is_not_followed(project: Path) -> None:
    (project / "src" / "pathshop" / "link.py").symlink_to(project / "other.py")
    with pytest.raises(EntrypointNotAllowed):
        await aevaluate(
            "./src/pathshop/link.py:graph",
            dataset=CASES,
            evaluators=["exact_match"],
            settings=Settings(allowed_modules=("src.pathshop",)),
        )


async def in_folder(target: str, *folders: Path, **settings: Any) -> Any:
    return await aevaluate(
        target,
        dataset=CASES,
        evaluators=["exact_match"],
        settings=Settings(allowed_folders=folders, **settings),
    )


@pytest.mark.parametrize("folder", [".", "src", "src/pathshop"])
async def test_a_file_in_an_allowed_folder_is_a_target(project: Path, folder: str) -> None:
    report = await in_folder("./src/pathshop/graph.py:graph", project / folder)
    assert report.objective == 1.0


async def test_a_file_that_bears_the_name_of_another_module_is_the_one_meant(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(project / "src" / "pathshop")
    for name in ("json.py", "my-graph.py"):
        (project / "src" / "pathshop" / name).write_text(MODULE)
        report = await in_folder(f"./src/pathshop/{name}:graph", project)
        assert report.objective == 1.0
    assert json.loads("1") == 1


@pytest.mark.parametrize(
    "target",
    [
        "./other.py:graph",
        "./src/../other.py:graph",
        "./src/pathshop/link.py:graph",  # out of the folder
        "./src/linked/other.py:graph",  # through a folder that is a link
        "./src/.venv/other.py:graph",
        "./src/lib/site-packages/other.py:graph",
        "./srcother/other.py:graph",  # whose name only begins alike
        "other:graph",  # a folder allows files, not modules
        "os:system",
    ],
)
async def test_nothing_outside_an_allowed_folder_is_imported(project: Path, target: str) -> None:
    source = project / "src"
    bad = (project / "other.py").read_text()
    for folder in (source / ".venv", source / "lib" / "site-packages", project / "srcother"):
        folder.mkdir(parents=True)
        (folder / "other.py").write_text(bad)
    (source / "pathshop" / "link.py").symlink_to(project / "other.py")
    (source / "linked").symlink_to(project)
    with pytest.raises(EntrypointNotAllowed):
        await in_folder(target, source)


async def test_what_a_file_took_from_elsewhere_is_not_opened(project: Path) -> None:
    (project / "src" / "taken.py").write_text("from os import system\nimport subprocess\n")
    for attribute in ("system", "subprocess", "__builtins__"):
        with pytest.raises(EntrypointNotAllowed):
            await in_folder(f"./src/taken.py:{attribute}", project / "src")


def test_on_the_command_line_a_project_with_a_langgraph_json_is_its_own(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from orcheo_agentensor.cli.app import app

    monkeypatch.delenv("AGENTENSOR_ALLOWED_MODULES", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    job = {
        "target": "./src/pathshop/graph.py:graph",
        "dataset": CASES,
        "evaluators": ["exact_match"],
    }
    (project / "job.json").write_text(json.dumps(job))
    refused = CliRunner().invoke(app, ["evaluate", "job.json"])
    assert refused.exit_code == 2
    assert "AGENTENSOR_ALLOWED_FOLDERS" in refused.stderr
    (project / "langgraph.json").write_text("{}")
    found = CliRunner().invoke(app, ["evaluate", "job.json", "--json"])
    assert found.exit_code == 0, found.output
    elsewhere = project / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)  # a job file brings no folder of its own
    refused = CliRunner().invoke(app, ["evaluate", "../job.json"])
    assert refused.exit_code == 2


class Chat(TypedDict, total=False):
    messages: Annotated[list[Any], add_messages]
    day: date
    at: datetime
    price: Decimal
    pair: tuple[int, int]


CALL = {"name": "find", "args": {"q": 1}, "id": "c1", "type": "tool_call"}
LIVE: dict[str, Any] = {
    "messages": [
        HumanMessage("hi", id="m1", additional_kwargs={"lang": "en"}),
        AIMessage("", tool_calls=[CALL]),
        ToolMessage("found", tool_call_id="c1"),
        ("user", "and?"),
    ],
    "day": date(2026, 1, 2),
    "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "price": Decimal("1.10"),
    "pair": (1, 2),
}


@pytest.mark.compat("targets", "inputs", "messages, tuples, dates, decimals")
async def test_messages_tuples_and_dates_reach_the_target_as_they_were_given() -> None:
    seen: list[Any] = []

    async def node(state: Chat) -> Any:
        seen.append(state)
        return {"messages": [AIMessage("done")]}

    graph = StateGraph(Chat)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    case = Case(inputs=LIVE)
    report = await aevaluate(
        graph,
        dataset=[case],
        evaluators=[lambda inputs: inputs["day"] == "2026-01-02"],
    )
    assert report.objective == 1.0, report.cases[0]
    (state,) = seen
    assert [type(one) for one in state["messages"]] == [
        HumanMessage,
        AIMessage,
        ToolMessage,
        HumanMessage,
    ]
    assert state["messages"][0].additional_kwargs == {"lang": "en"}
    assert state["messages"][1].tool_calls == [CALL]
    for key in ("day", "at", "price", "pair"):
        assert (type(state[key]), state[key]) == (type(LIVE[key]), LIVE[key])
    assert json.loads(json.dumps(case.to_json()))["inputs"]["day"] == "2026-01-02"


async def test_inputs_from_the_store_are_of_the_same_types(store: Store) -> None:
    seen: list[Any] = []
    fails = [True]

    async def target(inputs: dict[str, Any]) -> str:
        seen.append({**inputs})
        inputs["messages"].clear()  # its own copy
        if fails[0]:
            raise ConnectionResetError
        return "done"

    job: dict[str, Any] = {
        "evaluators": ["json_valid"],
        "store": store,
        "run_id": "r",
        "limits": {"retries": 0},
    }
    await aevaluate(target, dataset=[Case(inputs=LIVE)], **job)
    fails[0] = False
    record = await store.runs.get("r")
    stored = {"id": record.dataset_id, "version": record.dataset_version}
    await aevaluate(target, dataset=stored, retry_failed=True, **job)
    first, second = seen
    assert {key: type(value) for key, value in first.items()} == {
        key: type(value) for key, value in second.items()
    }
    assert first["day"] == second["day"] == LIVE["day"]


@pytest.mark.parametrize(
    "forms",
    [
        [[["nothing"], "date"]],
        [[["text"], "date"]],
        [[["text"], "pickle"]],
        ["date"],
        [[[], "os.system"]],
    ],
)
def test_forms_that_do_not_suit_the_inputs_are_refused(forms: Any) -> None:
    with pytest.raises(DatasetError, match="forms"):
        Case(inputs={"text": "hi"}, forms=forms)

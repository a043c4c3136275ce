"""`agentensor init` and `doctor`: from a stranger's langgraph.json to a first score."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cli_support import Project

from orcheo_agentensor.storage import Store

GRAPH = """
from dataclasses import dataclass, field
from pathlib import Path

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from typing_extensions import TypedDict

Path("imported").touch()

SUMMARY_PROMPT = "Summarise the conversation in three sentences."


class State(TypedDict, total=False):
    question: str
    answer: str


@dataclass
class Context:
    system_prompt: str = field(
        default="Answer in one word.", metadata={"langgraph_type": "prompt"}
    )
    model: str = "small"


def answer(state: State, runtime: Runtime[Context]) -> State:
    return {"answer": f"{runtime.context.system_prompt} {state['question']}"}


graph = (
    StateGraph(State, input_schema=State, context_schema=Context)
    .add_node("answer", answer)
    .add_edge(START, "answer")
    .add_edge("answer", END)
    .compile()
)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project that has never heard of us."""
    (tmp_path / "src" / "helper").mkdir(parents=True)
    (tmp_path / "src" / "helper" / "graph.py").write_text(GRAPH)
    (tmp_path / ".env").write_text("AGENT_MODE=test\n")
    document = {
        "graphs": {"helper": "src/helper/graph.py:graph"},
        "dependencies": ["."],
        "env": ".env",
    }
    (tmp_path / "langgraph.json").write_text(json.dumps(document))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("AGENT_MODE", "AGENTENSOR_DATABASE_URL", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    before = {*sys.modules}
    yield Project(tmp_path)
    for name in {*sys.modules} - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def test_a_stranger_has_a_score_after_two_commands_and_no_edit(project: Project) -> None:
    made = project.call("init", "--yes")
    assert made.exit_code == 0, made.output
    assert "prompt     system_prompt: 'Answer in one word.'" in made.stdout
    assert "SUMMARY_PROMPT" in made.stdout
    written = yaml.safe_load((project.folder / "agentensor.yaml").read_text())
    assert written["target"] == "./src/helper/graph.py:graph"
    assert written["project"]["env_file"] == ".env"
    assert written["prompts"] == {
        "system_prompt": {"text": "Answer in one word.", "bind": "context.system_prompt"}
    }
    cases = (project.folder / "agentensor_cases.jsonl").read_text().splitlines()
    assert [set(json.loads(case)["inputs"]) for case in cases] == [{"question", "answer"}] * 5
    report = project.ok("evaluate")
    assert report["summary"]["objective"] == 1.0
    assert (project.folder / ".agentensor" / "agentensor.db").exists()
    assert [run["status"] for run in project.ok("runs", "list")["runs"]] == ["finished"]
    assert "give it proposer=, or model=" in project.refused("train", "--dry-run")
    healthy = project.ok("doctor")
    assert all(one["ok"] for one in healthy["findings"]), healthy


KEPT = """
_PLANNER_PROMPT = "Plan the answer in three steps."
AGENT_PROMPT = "You are the agent of this house."
UNUSED_PROMPT = "Nobody reads this after the import."
THE_CLERK = "You are the clerk, who is read by nobody."
SIGNED = UNUSED_PROMPT + " Yours."
"""
FLOW = """
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph

from desk.texts import AGENT_PROMPT
from desk.texts import _PLANNER_PROMPT as PLAN
from orcheo_agentensor.testing import RuleChatModel


def search(query: str) -> str:
    \"\"\"Search the house.\"\"\"
    return query


model = RuleChatModel(rule=lambda messages: messages[0].text)
desk = create_agent(model, [search], system_prompt=AGENT_PROMPT, name="desk")


def plan(state: MessagesState) -> MessagesState:
    return {"messages": [model.invoke([HumanMessage(PLAN)])]}


graph = (
    StateGraph(MessagesState)
    .add_node("plan", plan)
    .add_node("desk", desk)
    .add_edge(START, "plan")
    .add_edge("plan", "desk")
    .compile()
)
"""


def test_every_kind_of_prompt_is_found_with_a_binding_that_works(project: Project) -> None:
    folder = project.folder / "src" / "desk"
    folder.mkdir()
    (folder / "texts.py").write_text(KEPT)
    (folder / "flow.py").write_text(FLOW)
    (project.folder / "langgraph.json").write_text(
        json.dumps({"graphs": {"desk": "./src/desk/flow.py:graph"}})
    )
    made = project.call("init", "--yes")
    assert "texts.py:THE_CLERK is read by nothing that runs" in made.stdout  # known by its text
    assert "./src/desk/texts.py:UNUSED_PROMPT is read by nothing that runs" in made.stdout
    assert 'get_prompt("unused_prompt", default=UNUSED_PROMPT)' in made.stdout
    path = project.folder / "agentensor.yaml"
    written = yaml.safe_load(path.read_text())
    assert written["prompts"] == {
        "desk_system_prompt": {
            "text": "You are the agent of this house.",
            "bind": "desk.system_prompt",
        },
        "planner_prompt": {
            "text": "Plan the answer in three steps.",
            "bind": "./src/desk/texts.py:_PLANNER_PROMPT",
        },
        "search_description": {
            "text": "Search the house.",
            "bind": "tools.search.description",
            "requires_grad": False,
        },
    }
    line = 'search_query: {text: "What query is.", bind: tools.search.args.query.description}'
    assert f"  {line}\n" in made.stdout
    written["prompts"] |= yaml.safe_load(line)
    for prompt in written["prompts"].values():
        prompt["text"] = "New text for " + prompt["bind"]
    written["evaluators"] = [{"type": "contains", "value": "New text for desk.system_prompt"}]
    path.write_text(yaml.safe_dump(written))
    report = project.ok("evaluate")
    assert report["summary"]["objective"] == 1.0
    assert report["summary"]["reads"] == dict.fromkeys(sorted(written["prompts"]), True)
    assert not any("no node read" in one for one in report["summary"].get("warnings", ()))
    written["prompts"]["lost"] = {"text": "x", "bind": "./src/desk/texts.py:UNUSED_PROMPT"}
    written["prompts"]["free"] = {"text": "Nobody asks for this by its name."}
    path.write_text(yaml.safe_dump(written))
    sick = project.call("doctor").stdout
    assert "nothing reads ./src/desk/texts.py:UNUSED_PROMPT once it is imported" in sick
    assert "wrong prompt: free binds nowhere, and nothing in the target names it" in sick


HIDDEN = """
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langgraph.graph import START, MessagesState, StateGraph

from orcheo_agentensor import get_prompt
from orcheo_agentensor.testing import RuleChatModel


def search(query: str) -> str:
    \"\"\"Search the whole house for it.\"\"\"
    return query


class Model(RuleChatModel):
    def bind_tools(self, tools, **kwargs):
        return self


model = Model(rule=lambda messages: messages[0].text)


def plan(state: MessagesState) -> MessagesState:
    \"\"\"A docstring is for people: it is no prompt at all, however long it goes on and on.\"\"\"

    def look(place: str) -> str:
        \"\"\"Look into a place.\"\"\"
        return place

    user = state["messages"][-1].text
    told = [SystemMessage("You are the planner."), HumanMessage(user)]
    told += [("system", f"Plan for {user} in {len(user)} {{steps}}.")]
    if not user:
        raise ValueError("There is nothing to plan, and so this is only what an error says of it.")
    get_prompt("known", default="This one is reached by its name, however long it goes on and on.")
    return {"messages": [model.bind_tools([search, look]).invoke(told)]}


def answering(prompt: str):
    def answer(state: MessagesState) -> MessagesState:
        return {"messages": [AIMessage(prompt)]}

    return answer


graph = (
    StateGraph(MessagesState)
    .add_node("plan", plan)
    .add_node("answer", answering("Answer in the voice of the house."))
    .add_edge(START, "plan")
    .add_edge("plan", "answer")
    .compile()
)
"""


def test_what_no_prompt_reaches_is_told_with_the_lines_that_make_it_reachable(
    project: Project,
) -> None:
    (project.folder / "hidden.py").write_text(HIDDEN)
    (project.folder / "langgraph.json").write_text(
        json.dumps({"graphs": {"hidden": "./hidden.py:graph"}})
    )
    made = project.ok("init", "--yes")
    told = {one["text"]: (one["node"], one["what"], *one["lines"]) for one in made["unreached"]}
    ask = "from orcheo_agentensor import get_prompt"
    tool = "from langchain_core.tools import tool"
    assert told == {
        "You are the planner.": (
            "plan",
            "a text",
            ask,
            "get_prompt('plan_prompt', default='You are the planner.')",
        ),
        "Plan for {user} in {x1} {{steps}}.": (
            "plan",
            "an f-string",
            ask,
            "get_prompt('plan_prompt_2', default='Plan for {user} in {x1} {{steps}}.')"
            ".format(user=user, x1=len(user))",
        ),
        "Search the whole house for it.": (
            "plan",
            "the tool search that bind_tools is given",
            tool,
            "@tool above def search",
        ),
        "look": (
            "plan",
            "the tool look that bind_tools is given",
            tool,
            "@tool above def look, at the top of the module",
        ),
        "Answer in the voice of the house.": (
            "answer",
            "the text 'prompt' that is closed over",
            ask,
            "get_prompt('answer_prompt', default='Answer in the voice of the house.')",
        ),
    }
    assert all(one["where"].startswith("hidden.py:") for one in made["unreached"])
    healthy = project.call("doctor")
    assert healthy.exit_code == 0
    assert "note  not reached: an f-string in node 'plan' (hidden.py:" in healthy.stdout


def test_nothing_is_imported_before_the_person_agrees(project: Project) -> None:
    assert project.call("init").exit_code == 0
    assert not (project.folder / "imported").exists()
    written = yaml.safe_load((project.folder / "agentensor.yaml").read_text())
    assert "prompts" not in written
    assert project.call("init", "--yes", "--force").exit_code == 0
    assert (project.folder / "imported").exists()


def test_the_environment_goes_over_the_project_file(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.ok("init", "--yes")
    monkeypatch.setenv("AGENTENSOR_DATABASE_URL", "sqlite:///other.db")
    project.ok("evaluate")
    assert (project.folder / "other.db").exists()


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (None, "there is no langgraph.json here; name the graph: agentensor init --target"),
        ({"graphs": {}}, "graphs must map names to './path.py:attribute'"),
        ({"graphs": {"a": 3}}, "graphs must map names to './path.py:attribute'"),
        (
            {"graphs": {"a": "./a.py:graph", "b": "./b.py:graph"}},
            "langgraph.json has several graphs; name one: agentensor init --target a",
        ),
    ],
)
def test_what_cannot_be_begun_is_told_and_nothing_is_written(
    project: Project, document: object, told: str
) -> None:
    path = project.folder / "langgraph.json"
    path.unlink()
    if document is not None:
        path.write_text(json.dumps(document))
    assert told in project.refused("init", "--yes")
    assert not (project.folder / "agentensor.yaml").exists()


def test_a_graph_that_does_not_import_still_gets_a_file_and_the_reason(project: Project) -> None:
    (project.folder / "src" / "helper" / "graph.py").write_text("import no_such_package\n")
    made = project.call("init", "--yes")
    assert made.exit_code == 0
    assert "No module named 'no_such_package'" in made.stdout
    sick = project.call("doctor")
    assert sick.exit_code == 2
    assert "no_such_package" in sick.stdout


def test_doctor_names_what_is_wrong_without_running_anything(project: Project) -> None:
    assert "make one with: agentensor init" in project.call("doctor").stdout
    assert "make one with: agentensor init" in project.refused("evaluate")
    project.ok("init", "--yes")
    path = project.folder / "agentensor.yaml"
    path.write_text(path.read_text().replace("type: length", "type: lenght"))
    sick = project.call("doctor")
    assert sick.exit_code == 2
    assert "lenght" in sick.stdout
    path.write_text("project: {colour: red}\n")
    assert "project must be a mapping of store, model" in project.refused("evaluate")
    assert not (project.folder / ".agentensor").exists()


FILE = "---\nname: planner\nmodel: small\n---\n\nPlan it.\n"


def test_a_prompt_in_a_file_keeps_its_front_matter(project: Project) -> None:
    path = project.folder / "prompts" / "planner.md"
    path.parent.mkdir()
    path.write_text(FILE)
    job = {
        "target": "./src/helper/graph.py:graph",
        "workflow_id": "helper",
        "dataset": [{"inputs": {"question": "Who?"}}],
        "evaluators": [{"type": "contains", "value": "Plan it. Who?"}],
        "prompts": {"p": {"file": "prompts/planner.md", "bind": "context.system_prompt"}},
        "project": {"store": "sqlite:///a.db"},
    }
    project.write("agentensor.yaml", job)
    assert project.ok("evaluate")["summary"]["objective"] == 1.0
    metadata = {"file": "prompts/planner.md"}
    tensor = {"type": "TextTensor", "text": "Plan it well.", "metadata": metadata}
    write_version(project.folder / "a.db", {"p": tensor})
    wrote = project.ok("checkpoints", "export", "helper", "latest", "--write-prompts")
    assert wrote["files"] == [{"prompt": "p", "file": str(path), "changed": True}]
    assert path.read_text() == FILE.replace("Plan it.", "Plan it well.")
    assert (
        "has the text already"
        in project.call("checkpoints", "export", "helper", "latest", "--write-prompts").stdout
    )
    path.unlink()
    lost = project.refused("checkpoints", "export", "helper", "latest", "--write-prompts")
    assert "prompts.p.metadata.file" in lost
    assert "job.prompts.p.file" in project.refused("evaluate")


def write_version(database: Path, prompts: dict[str, object]) -> None:
    async def write() -> None:
        store = Store.from_url(f"sqlite:///{database}")
        config = {"configurable": {"prompts": prompts}}
        await store.checkpoints.save(workflow_id="helper", runnable_config=config, metrics={})
        await store.close()

    asyncio.run(write())


@pytest.mark.parametrize(
    ("prompt", "rule"),
    [
        ({"file": "../outside.md"}, "must be a path inside"),
        ({"file": "/etc/hostname"}, "must be a path inside"),
        ({"file": 3}, "must be a path inside"),
        ({"file": "nowhere.md"}, "must be a file of at most 1 MiB"),
        ({"file": "empty.md"}, "must have a text"),
        ({"file": "empty.md", "text": "x"}, "stands in place of text"),
    ],
)
def test_a_file_that_is_no_prompt_is_refused(
    project: Project, prompt: dict[str, object], rule: str
) -> None:
    (project.folder / "empty.md").write_text("---\na: b\n---\n")
    job = {"target": "./src/helper/graph.py:graph", "prompts": {"p": prompt}}
    project.write("agentensor.yaml", job)
    told = project.refused("evaluate")
    assert "job.prompts.p.file" in told
    assert rule in told

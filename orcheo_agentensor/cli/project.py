"""`agentensor init` and `doctor`: a project file made from its graphs, and what is wrong with it.

A project file is a job file with a part more, `project`: what the environment would say otherwise.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orcheo_agentensor.cli import options
from orcheo_agentensor.cli.errors import ExitCode, message_of
from orcheo_agentensor.cli.jobfile import PROJECT_FILE, Overrides, load_job, read_document
from orcheo_agentensor.cli.output import (
    as_yaml,
    print_json,
    require_new,
    show,
    show_next,
    write_whole,
)
from orcheo_agentensor.errors import AgentensorError, BadInput, shorten

if TYPE_CHECKING:
    from orcheo_agentensor.settings import Settings
    from orcheo_agentensor.targets.code import Unreached

CASES_FILE = "agentensor_cases.jsonl"
_STUBS = 5
_MOST_SHOWN = 20
_UNREACHED = "not reached"
_KEYS = {
    "OPENAI_API_KEY": "openai:gpt-5-mini",
    "ANTHROPIC_API_KEY": "anthropic:claude-haiku-4-5",
    "GOOGLE_API_KEY": "google_genai:gemini-2.5-flash",
}
"""A key in the environment -> the model that a new project is given."""


@dataclass(kw_only=True)
class Found:
    """What a graph offers to a project file."""

    prompts: dict[str, dict[str, Any]] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    """Bind -> description of each argument of a tool; they are offered, and not made prompts."""
    constants: list[str] = field(default_factory=list)
    unreached: list[Unreached] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)
    chat: bool = False

    def add(self, name: str, text: str, bind: str, **more: Any) -> None:
        """Add a prompt under a name of its own, once for each place."""
        if all(one.get("bind") != bind for one in self.prompts.values()):
            name = free = re.sub(r"\W+", "_", name).strip("_").lower()
            for number in itertools.count(2):
                if free not in self.prompts:
                    break
                free = f"{name}_{number}"
            self.prompts[free] = {"text": text, "bind": bind, **more}


def graphs_of(folder: Path) -> dict[str, str]:
    """Graph name -> "./path.py:attribute" or "module:attribute", of the `langgraph.json` there.

    Raises `BadInput` where there is none, or what is there is none.
    """
    path = folder / "langgraph.json"
    if not path.is_file():
        raise BadInput(
            "there is no langgraph.json here; name the graph: agentensor init --target "
            "./flow.py:graph",
            field="langgraph.json",
            value=str(path),
        )
    document = read_document(path)
    graphs = document.get("graphs") if isinstance(document, Mapping) else None
    found = {
        name: entry.get("path") if isinstance(entry, Mapping) else entry
        for name, entry in (graphs.items() if isinstance(graphs, Mapping) else ())
    }
    if not found or not all(isinstance(entry, str) and ":" in entry for entry in found.values()):
        raise BadInput(
            "langgraph.json: graphs must map names to './path.py:attribute'",
            field="langgraph.json.graphs",
            value=graphs,
        )
    return {name: _relative(str(entry)) for name, entry in found.items()}


def _relative(entry: str) -> str:
    """A path as a job takes it, with its leading `./`; a dotted name as it is."""
    path, _, attribute = entry.rpartition(":")
    if not path.endswith(".py"):
        return entry
    return f"./{Path(path).as_posix().removeprefix('./')}:{attribute}"


def env_file_of(folder: Path) -> str | None:
    """The file of environment variables that `langgraph.json` names, if it is there."""
    path = folder / "langgraph.json"
    env = read_document(path).get("env") if path.is_file() else None
    return env if isinstance(env, str) and (folder / env).is_file() else None


async def look_at(target: str, *, settings: Settings, folder: Path) -> Found:
    """Import a graph, and say what it and the modules of its project in `folder` offer.

    Raises what importing or building it raises.
    """
    from orcheo_agentensor.targets import ConnectedTarget, resolve_target
    from orcheo_agentensor.targets.code import has_words, is_prompt, unreached_in
    from orcheo_agentensor.targets.constants import kept_texts
    from orcheo_agentensor.targets.context import bind_places, default_of, found_prompts
    from orcheo_agentensor.targets.placing import arguments_of, places_of

    resolved = await asyncio.to_thread(resolve_target, target, settings=settings)
    if isinstance(resolved, ConnectedTarget):  # a factory, which is built to see what it is
        resolved = await resolved.connect({"configurable": {}})
    found = Found()
    for name, tensor in found_prompts(resolved).items():
        at = {} if tensor.bind is None else {"bind": tensor.bind}
        frozen = {} if tensor.requires_grad else {"requires_grad": False}
        found.prompts[name] = {"text": tensor.text, **at, **frozen}
    inner = getattr(resolved, "built", None) or getattr(resolved, "inner", resolved)
    graph = getattr(inner, "runnable", inner)
    parts = places_of(graph)
    for place in bind_places(resolved, {}):
        where, _, name = place.partition(".")
        text = default_of(getattr(inner, "context_schema", None), name)
        if where == "context" and isinstance(text, str) and is_prompt(name, text):
            found.add(name, text, place)
    for bind, text in parts.items():
        if not bind.startswith("tools.") and has_words(text):
            found.add(bind, text, bind)
    for file, name, text, is_read in await asyncio.to_thread(kept_texts, folder):
        bind = f"./{file.as_posix()}:{name}"
        if not is_prompt(name, text) or any(one["text"] == text for one in found.prompts.values()):
            continue
        if is_read:
            found.add(name, text, bind)
        else:
            found.constants.append(bind)
    frozen = {"requires_grad": False} if found.prompts else {}
    for bind, text in parts.items():
        root, _, tool = bind.partition(".")
        if root == "tools" and tool.count(".") == 1:
            found.tools[tool.removesuffix(".description")] = text
            found.add(tool.replace(".", "_"), text, bind, **frozen)
    found.arguments = arguments_of(graph)
    reached = {str(one["text"]) for one in found.prompts.values()}
    found.unreached = [one for one in unreached_in(graph) if one.text not in reached]
    found.inputs, found.chat = _stub(await asyncio.to_thread(_input_schema, graph))
    return found


def _input_schema(graph: Any) -> Mapping[str, Any]:
    """The JSON Schema of what a graph takes; only names where Pydantic can make none.

    So it is with a `TypedDict` of `typing` before Python 3.12.
    """
    try:
        found: Mapping[str, Any] = graph.get_input_jsonschema()
    except Exception:  # noqa: BLE001 - the schema is for an example to begin with
        builder = getattr(graph, "builder", None)
        schemas, schema = getattr(builder, "schemas", {}), getattr(builder, "input_schema", None)
        return {"properties": {name: {} for name in schemas.get(schema, ())}}
    return found


def _stub(schema: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Inputs that fit a schema, with `{n}` where a text is wanted; and whether it is a chat."""
    properties: Mapping[str, Any] = schema.get("properties") or {}
    if "messages" in properties:
        return {"messages": [{"role": "user", "content": "Question {n}"}]}, True
    wanted = schema.get("required") or [*properties]
    return {name: _example(name, properties.get(name, {})) for name in wanted}, False


def _example(name: str, schema: Mapping[str, Any]) -> Any:
    if schema.get("default") is not None:
        return schema["default"]
    kinds = {"integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}
    options_of = schema.get("anyOf") or [schema]
    kind = next((one.get("type") for one in options_of if one.get("type") != "null"), None)
    return kinds.get(str(kind), f"{name} {{n}}")


def _numbered(value: Any, n: int) -> Any:
    if isinstance(value, str):
        return value.replace("{n}", str(n))
    if isinstance(value, list):
        return [_numbered(entry, n) for entry in value]
    if isinstance(value, dict):
        return {key: _numbered(entry, n) for key, entry in value.items()}
    return value


def init(
    target: Annotated[
        str | None,
        typer.Option(metavar="GRAPH", help="A graph of langgraph.json, or './flow.py:graph'."),
    ] = None,
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", help="Import the project's code without asking."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over files that exist.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Make a project file and a dataset to begin with, from the graphs of langgraph.json.

    Nothing is imported before you agree. Afterwards `agentensor evaluate` and `agentensor train`
    need no argument.
    """
    folder = Path.cwd()
    project_file, cases_file = folder / PROJECT_FILE, folder / CASES_FILE
    require_new(project_file, force=force)
    name, entry = _chosen(folder, target)
    project: dict[str, Any] = {"store": "sqlite:///.agentensor/agentensor.db"}
    if (env := env_file_of(folder)) is not None:
        project["env_file"] = env
        options.load_env_file(folder / env)
    if not entry.rpartition(":")[0].endswith(".py"):
        project["allowed_modules"] = [entry.rpartition(":")[0]]
    model = next((model for key, model in _KEYS.items() if os.environ.get(key)), None)
    if model is not None:
        project["model"] = model
    found, problem = Found(), None
    if yes or (sys.stdin.isatty() and typer.confirm(f"Import {entry} to look for its prompts?")):
        options.make_importable(folder)
        settings = options.load_settings()
        allowed = {
            "allowed_folders": (*settings.allowed_folders, folder),
            "allowed_modules": (*settings.allowed_modules, *project.get("allowed_modules", ())),
        }
        try:
            allowing = settings.model_copy(update=allowed)
            found = asyncio.run(look_at(entry, settings=allowing, folder=folder))
        except Exception as error:  # noqa: BLE001 - importing runs the project's own code
            problem = f"{type(error).__name__}: {error}"
    job = _job(name, entry, found, model=model)
    write_whole(project_file, [_HEAD, as_yaml({"project": project, **job})])
    if not cases_file.exists() or force:
        inputs = found.inputs or {"question": "Question {n}"}
        cases = ({"id": f"case-{n}", "inputs": _numbered(inputs, n)} for n in range(1, _STUBS + 1))
        write_whole(cases_file, (json.dumps(case) + "\n" for case in cases))
    if as_json:
        unreached = [asdict(one) for one in found.unreached]
        told = {**vars(found), "unreached": unreached}
        print_json({"project_file": PROJECT_FILE, "dataset": CASES_FILE, **told})
        return
    _tell(found, problem)
    show_next(f"edit {CASES_FILE}: your own inputs and expected outputs", "agentensor evaluate")


_HEAD = """\
# A job file (docs/reference/cli.md) for `agentensor evaluate` and `agentensor train`, which take it
# by default. `project` says what AGENTENSOR_* variables say otherwise; those go over it.
"""


def _chosen(folder: Path, target: str | None) -> tuple[str, str]:
    """The name and the entry point of the graph to begin with."""
    if target is not None and ":" in target:
        entry = _relative(target)
        return Path(entry.rpartition(":")[0]).stem.rpartition(".")[2], entry
    graphs = graphs_of(folder)
    if target is None:
        if len(graphs) > 1:
            raise BadInput(
                f"langgraph.json has several graphs; name one: agentensor init --target "
                f"{next(iter(graphs))} (there are: {', '.join(graphs)})",
                field="--target",
                value=None,
            )
        return next(iter(graphs.items()))
    if target not in graphs:
        raise BadInput(field="--target", value=target, rule=f"must be one of: {', '.join(graphs)}")
    return target, graphs[target]


def _job(name: str, entry: str, found: Found, *, model: str | None) -> dict[str, Any]:
    target: Any = {"entrypoint": entry, "output": "messages.-1.content"} if found.chat else entry
    evaluators: list[Any] = [{"type": "length", "at_least": 1}]
    if model is not None:
        rubric = "The output answers the request correctly and completely."
        evaluators = [{"type": "llm_judge", "rubric": rubric, "model": model}]
    job: dict[str, Any] = {
        "target": target,
        "workflow_id": re.sub(r"[^A-Za-z0-9_.-]", "-", name),
        "dataset": CASES_FILE,
        "evaluators": evaluators,
    }
    if found.prompts:
        job["prompts"] = found.prompts
    return job


def _tell(found: Found, problem: str | None) -> None:
    for name, prompt in found.prompts.items():
        frozen = "" if prompt.get("requires_grad", True) else ", frozen"
        where = f" ({prompt['bind']}{frozen})" if prompt.get("bind") else ""
        show(f"prompt     {name}: {shorten(prompt['text'])}{where}")
    for place in found.constants:
        show(f"constant   {place} is read by nothing that runs, if at all when it is imported")
    if found.constants:
        name = found.constants[0].rpartition(":")[2]
        show("To train such a text, read it in the node that uses it:")
        show("  from orcheo_agentensor import get_prompt")
        show(f'  get_prompt("{name.lower()}", default={name})')
    for one in found.unreached[:_MOST_SHOWN]:
        show(f"not reached {one.what} in node {one.node!r} ({one.where}): {shorten(one.text)}")
        show("  To train it, write:")
        for line in one.lines:
            show(f"  {line}")
    if found.arguments:
        show("To train what models are told of a tool's arguments, add lines to prompts:")
        for bind, text in [*found.arguments.items()][:_MOST_SHOWN]:
            _, tool, _, name, _ = bind.split(".")
            told = json.dumps(text or f"What {name} is.", ensure_ascii=False)
            show(f"  {tool}_{name}: {{text: {told}, bind: {bind}}}")
        if (more := len(found.arguments) - _MOST_SHOWN) > 0:
            show(f"  and {more} more, which --json names")
    if problem is not None:
        show(f"The graph could not be looked at: {problem}", style="yellow")
    elif not found.prompts:
        show("No prompt was found that a run reaches; see docs/howto/bind-prompts.md.")


# -- doctor ----------------------------------------------------------------------------------------


def doctor(
    job: options.JobFile = Path(PROJECT_FILE),
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> int:
    """Say what is wrong with a set-up: file, target, dataset, evaluators, models, keys, database.

    Nothing is run and nothing is paid.
    """
    findings = asyncio.run(_examined(job, store))
    wrong = any(not one["ok"] for one in findings)
    code = ExitCode.BAD_INPUT if wrong else ExitCode.OK
    if as_json:
        print_json({"findings": findings, "exit_code": int(code)})
        return code
    for one in findings:
        label = "note " if one["what"] == _UNREACHED else "ok   " if one["ok"] else "wrong"
        show(f"{label} {one['what']}: {one['found']}", style=None if one["ok"] else "red")
    if not wrong:
        show_next("agentensor evaluate", "agentensor train --dry-run")
    return code


async def _examined(path: Path, store_url: str | None) -> list[dict[str, Any]]:
    from orcheo_agentensor.cli.execution import JobRunner, Stopper, describe, for_evaluation
    from orcheo_agentensor.targets.code import unreached_in

    findings: list[dict[str, Any]] = []

    def note(what: str, found: str, *, ok: bool = True) -> None:
        findings.append({"what": what, "ok": ok, "found": found})

    try:
        settings = options.load_settings()
        document = load_job(path, Overrides())
        note("job file", f"{path}")
    except AgentensorError as error:
        note("job file", error.message, ok=False)
        return findings
    store = options.named_store(store_url, settings)
    try:
        revision = await options.revision_of(store)
        note("database", f"{store.target.shown}, {f'schema {revision}' if revision else 'new'}")
    except AgentensorError as error:
        note("database", error.message, ok=False)
    model = settings.model
    known = [key for key in _KEYS if os.environ.get(key)]
    note(
        "model", f"{model or 'none (only simulated ones run)'}; keys: {', '.join(known) or 'none'}"
    )
    options.make_importable(path.parent, Path.cwd())
    try:
        async with options.reading(store) as opened:
            runner = JobRunner(
                mode="evaluate", store=opened, settings=settings, stopper=Stopper(), silent=True
            )
            checked = await runner.manager(opened).check(for_evaluation(document))
    except AgentensorError as error:
        note("job", message_of(error), ok=False)
        return findings
    plan = describe(checked)
    note("target", str(plan["target"]))
    note("dataset", f"{plan['dataset']['id']}, {plan['dataset']['cases']} cases")
    for evaluator in checked.evaluators:
        note("evaluator", f"{evaluator.name}: {evaluator.binding}")
    for name in plan["unnamed_prompts"]:
        todo = f"read it by get_prompt({name!r}), or give it a bind"
        note(
            "prompt", f"{name} binds nowhere, and nothing in the target names it: {todo}", ok=False
        )
    inner = getattr(checked.target, "built", None) or getattr(
        checked.target, "inner", checked.target
    )
    for one in await asyncio.to_thread(unreached_in, getattr(inner, "runnable", inner)):
        note(_UNREACHED, str(one))
    for warning in plan.get("warnings", ()):
        note("warning", warning, ok=False)
    return findings

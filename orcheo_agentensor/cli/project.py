"""`agentensor init` and `doctor`: a project file made from its graphs, and what is wrong with it.

A project file is a job file with a part more, `project`: what the environment would say otherwise.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orcheo_agentensor.cli import options
from orcheo_agentensor.cli.errors import ExitCode, message_of
from orcheo_agentensor.cli.jobfile import PROJECT_FILE, Overrides, load_job, read_document
from orcheo_agentensor.cli.output import print_json, require_new, show, show_next, write_whole
from orcheo_agentensor.errors import AgentensorError, BadInput, shorten

if TYPE_CHECKING:
    from orcheo_agentensor.settings import Settings

CASES_FILE = "agentensor_cases.jsonl"
_STUBS = 5
_KEYS = {
    "OPENAI_API_KEY": "openai:gpt-5-mini",
    "ANTHROPIC_API_KEY": "anthropic:claude-haiku-4-5",
    "GOOGLE_API_KEY": "google_genai:gemini-2.5-flash",
}
"""A key in the environment -> the model that a new project is given."""
_CONSTANT = re.compile(r"[A-Z][A-Z0-9_]*(PROMPT|INSTRUCTIONS?|SYSTEM)[A-Z0-9_]*")


@dataclass(kw_only=True)
class Found:
    """What a graph offers to a project file."""

    prompts: dict[str, dict[str, Any]] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    constants: list[str] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)
    chat: bool = False


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


async def look_at(target: str, *, settings: Settings) -> Found:
    """Import a graph, and say what it offers; raises what importing or building it raises."""
    from orcheo_agentensor.targets import resolve_target
    from orcheo_agentensor.targets.context import bind_places, found_prompts

    resolved = await asyncio.to_thread(resolve_target, target, settings=settings)
    found = Found()
    for name, tensor in found_prompts(resolved).items():
        bind = {} if tensor.bind is None else {"bind": tensor.bind}
        frozen = {} if tensor.requires_grad else {"requires_grad": False}
        found.prompts[name] = {"text": tensor.text, **bind, **frozen}
    inner = getattr(resolved, "inner", resolved)
    graph = getattr(inner, "runnable", inner)
    schema = getattr(inner, "context_schema", None)
    for place in bind_places(resolved, {}):
        where, _, name = place.rpartition(".")
        text = getattr(schema, name, None) if where == "context" else None
        if name not in found.prompts and isinstance(text, str) and _is_prompt(name, text):
            found.prompts[name] = {"text": text, "bind": place}
    schema_of = getattr(graph, "get_input_jsonschema", None)
    if schema_of is not None:
        found.inputs, found.chat = _stub(await asyncio.to_thread(schema_of))
    for name, module in _modules(target):
        found.constants += [
            f"{name}:{key}"
            for key, value in vars(module).items()
            if isinstance(value, str) and _CONSTANT.fullmatch(key) and len(value) > 20
        ]
    for tool in _tools(graph):
        found.tools[tool.name] = tool.description
    return found


def _is_prompt(name: str, text: str) -> bool:
    return "prompt" in name.lower() or "instruction" in name.lower() or len(text) > 80


def _modules(target: str) -> Iterator[tuple[str, Any]]:
    """The loaded modules of the target's own folder, with their names."""
    path = target.rpartition(":")[0]
    file = Path(path).resolve() if path.endswith(".py") else None
    for name, module in [*sys.modules.items()]:
        where = getattr(module, "__file__", None)
        if where is None or name == "__main__":
            continue
        near = Path(where).resolve().parent == file.parent if file else name == path
        if near:
            yield name, module


def _tools(graph: Any) -> Iterator[Any]:
    """The tools of the tool nodes of a graph."""
    for node in getattr(graph, "nodes", {}).values():
        bound = getattr(node, "bound", None)
        yield from getattr(bound, "tools_by_name", {}).values()


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
        options.make_importable(folder, *([folder / "src"] if (folder / "src").is_dir() else []))
        settings = options.load_settings()
        allowed = {
            "allowed_folders": (*settings.allowed_folders, folder),
            "allowed_modules": (*settings.allowed_modules, *project.get("allowed_modules", ())),
        }
        try:
            found = asyncio.run(look_at(entry, settings=settings.model_copy(update=allowed)))
        except Exception as error:  # noqa: BLE001 - importing runs the project's own code
            problem = f"{type(error).__name__}: {error}"
    job = _job(name, entry, found, model=model)
    write_whole(project_file, [_HEAD, _yaml({"project": project, **job})])
    if not cases_file.exists() or force:
        inputs = found.inputs or {"question": "Question {n}"}
        cases = ({"id": f"case-{n}", "inputs": _numbered(inputs, n)} for n in range(1, _STUBS + 1))
        write_whole(cases_file, (json.dumps(case) + "\n" for case in cases))
    if as_json:
        print_json({"project_file": PROJECT_FILE, "dataset": CASES_FILE, **vars(found)})
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


def _yaml(document: Mapping[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=100)
    return text


def _tell(found: Found, problem: str | None) -> None:
    for name, prompt in found.prompts.items():
        show(f"prompt     {name}: {shorten(prompt['text'])}")
    for name, description in found.tools.items():
        show(f"tool       {name}: {shorten(description)}")
    for place in found.constants:
        show(f"constant   {place} is a text of the module, which no config reaches")
    if found.constants and not found.prompts:
        show("To train such a text, read it by its name where it is used:")
        show("  from orcheo_agentensor import get_prompt")
        show(f'  get_prompt("{found.constants[0].rpartition(":")[2].lower()}", config)')
    if problem is not None:
        show(f"The graph could not be looked at: {problem}", style="yellow")
    elif not found.prompts:
        show("No prompt was found that a config reaches; see docs/howto/bind-prompts.md.")


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
        show(
            f"{'ok   ' if one['ok'] else 'wrong'} {one['what']}: {one['found']}",
            style=None if one["ok"] else "red",
        )
    if not wrong:
        show_next("agentensor evaluate", "agentensor train --dry-run")
    return code


async def _examined(path: Path, store_url: str | None) -> list[dict[str, Any]]:
    from orcheo_agentensor.cli.execution import JobRunner, Stopper, describe, for_evaluation

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
    for warning in plan.get("warnings", ()):
        note("warning", warning, ok=False)
    return findings

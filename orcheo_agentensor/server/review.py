"""What a run of a served workflow gets: its request over a stored version over its defaults."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from langgraph.graph import StateGraph
from pydantic import BaseModel

from orcheo_agentensor.config.model import RunConfig, with_prompts
from orcheo_agentensor.config.overrides import model_trouble
from orcheo_agentensor.config.resolve import (
    ResolvedConfig,
    flag_in,
    merge_configs,
    resolve,
    version_refused,
)
from orcheo_agentensor.config.rules import (
    MAX_PROBLEMS,
    config_error,
    config_problems,
    is_runtime_key,
)
from orcheo_agentensor.errors import BadInput, ConfigError, Forbidden, NotFound, StoreError
from orcheo_agentensor.identity import Identity
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.prompts import put
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.runs.access import workflow_taken
from orcheo_agentensor.runs.job import parse_model
from orcheo_agentensor.runs.nodes import StrictGraph
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.targets.context import context_binds, context_problems
from orcheo_agentensor.targets.overriding import asked_models, unfollowed_overrides
from orcheo_agentensor.targets.served import RESOLVED_BY, ServedGraph
from orcheo_agentensor.upstream import served_graphs

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store, WorkflowRecord


@dataclass(frozen=True, kw_only=True)
class Served:
    """A served graph: its compiled form (None for a factory), and what kind of jobs it takes.

    `trains` says that it is the training graph, or has it in it.
    """

    graph: Any
    wrapped: bool
    takes: Literal["evaluate", "train"] | None = None
    trains: bool = False
    check_job: Callable[..., Awaitable[Any]] | None = None


def served(graph_id: str) -> Served | None:
    """The graph of this name; None where the server has no such graph."""
    graphs = served_graphs()
    return describe(graphs[graph_id]) if graph_id in graphs else None


def describe(value: Any) -> Served:
    """`value`, a graph or a factory of one, as requests see it."""
    from orcheo_agentensor.runs.nodes import JobGraph

    builder = value if isinstance(value, StateGraph) else getattr(value, "builder", None)
    if isinstance(builder, JobGraph):
        kind: Any = "train" if _is_training(builder) else "evaluate"
        return Served(
            graph=value,
            wrapped=False,
            takes=kind,
            trains=kind == "train",
            check_job=builder.check_job,
        )
    if isinstance(value, StateGraph):
        value = value.compile()
    known: Any = value if hasattr(value, "nodes") else None
    inner = known.get_subgraphs(recurse=True) if hasattr(known, "get_subgraphs") else ()
    trains = any(_is_training(getattr(graph, "builder", None)) for _name, graph in inner)
    return Served(graph=known, wrapped=isinstance(value, ServedGraph), trains=trains)


def _is_training(builder: Any) -> bool:
    from orcheo_agentensor.training import TrainingJob

    return getattr(builder, "input_schema", None) is TrainingJob


OWN_METADATA = "agentensor_"
Kind: TypeAlias = Literal["run", "cron", "cron_update", "assistant", "assistant_update", "command"]

_Problem = dict[str, Any]


class Problems:
    """Collects everything that is wrong with a request, and says it all at once."""

    def __init__(self) -> None:
        self.found: list[_Problem] = []
        self._said: dict[str, str] = {}

    def add(self, field: str, value: Any, rule: str) -> None:
        """One more problem."""
        self.found += config_error([(field, value, rule)], field).problems

    def of(self, error: BadInput) -> None:
        """The problems of an error."""
        if isinstance(error, ConfigError):
            self.found += error.problems
        else:
            field = error.field or "input"
            self.add(field, error.value, error.rule or error.message)
            self._said[field] = error.message

    def settle(self, what: str) -> None:
        """Raise one `ConfigError` with all problems, if there are any."""
        unique = list({problem["field"]: problem for problem in self.found}.values())
        if not unique:
            return
        lines = [
            self._said.get(p["field"]) or f"{p['field']}: {p['value']} {p['rule']}" for p in unique
        ]
        text = lines[0] if len(lines) == 1 else f"{len(lines)} problems in {what}: "
        raise ConfigError(
            text if len(lines) == 1 else text + "; ".join(lines),
            field=unique[0]["field"],
            value=unique[0]["value"],
            rule=unique[0]["rule"],
            problems=unique,
        )


async def check_request(
    item: Mapping[str, Any],
    *,
    endpoint: RunEndpoint,
    workflow_id: str,
    graph: Served,
    assistant: Mapping[str, Any] | None,
    trusted: bool,
    store: Store,
    settings: Settings,
) -> tuple[dict[str, Any], Problems]:
    """`item` with its config merged and its metadata written, and what is wrong with it.

    `assistant` is the stored one that the run is for; its config goes under the request's.
    `trusted` says that the server asks itself, so that LangGraph's own keys are left out instead
    of refused.
    """
    problems = Problems()
    item = _without_own_metadata(item)
    request = _request_config(item, problems, endpoint=endpoint, trusted=trusted)
    _check_metadata(item.get("metadata"), problems)
    if request is None or problems.found:
        return dict(item), problems
    if graph.takes is not None:  # its own job holds the config of what it runs
        return _without_concurrency(item, request), problems
    if endpoint.starts_run and item.get("input") is not None:
        _check_input(item["input"], graph, problems)
    _check_against_graph(request, graph, workflow_id, problems)
    await _check_models(request, graph, problems)
    try:
        resolved = await _resolved(request, assistant, workflow_id, graph, store, settings)
        plain = _as_sent(resolved.config)
        _check_context(item, plain, graph, problems, whole=endpoint.starts_run)
    except ConfigError as error:
        problems.of(error)
        return dict(item), problems
    if problems.found or not endpoint.starts_run:
        return dict(item), problems
    if endpoint.is_cron and graph.wrapped:
        return dict(item), problems  # resolved when it runs: an alias may have moved by then
    metadata = _run_metadata(resolved, workflow_id)
    changed = {**item, "metadata": {**(item.get("metadata") or {}), **metadata}}
    if resolved.config != request:
        changed["config"] = _kept(item, endpoint, plain)
        changed.pop("context", None)  # the server gives `configurable` to graphs that read it
    return changed, problems


async def _resolved(
    request: RunConfig,
    assistant: Mapping[str, Any] | None,
    workflow_id: str,
    graph: Served,
    store: Store,
    settings: Settings,
) -> ResolvedConfig:
    """The config of a run; raises `ConfigError` where the version it asks for is not stored."""
    workflow = graph.graph.workflow if isinstance(graph.graph, ServedGraph) else None
    try:
        return await resolve(
            request,
            workflow_id=workflow_id,
            store=store,
            settings=settings,
            defaults=workflow.defaults if workflow else None,
            assistant=_assistant_config(assistant),
        )
    except NotFound as error:
        raise version_refused(error, workflow_id) from None


def _request_config(
    item: Mapping[str, Any], problems: Problems, *, endpoint: RunEndpoint, trusted: bool
) -> RunConfig | None:
    """The config and the context of a request as one config; None where one is wrong."""
    config, context = item.get("config"), item.get("context")
    if isinstance(config, dict) and isinstance(config.get("configurable"), dict):
        own = config["configurable"]
        if endpoint.kind == "command":
            own = {key: value for key, value in own.items() if key != "checkpoint_id"}
        if trusted:
            own = {key: value for key, value in own.items() if not is_runtime_key(key)}
        config = {**config, "configurable": own}
        if own and context:
            problems.add(
                "context",
                list(context) if isinstance(context, dict) else context,
                "cannot be given together with config.configurable: LangGraph takes one of them",
            )
    parts = []
    try:
        parts.append(RunConfig.parse(config))
    except ConfigError as error:
        problems.of(error)
    if context is not None and not isinstance(context, dict):
        problems.add("context", context, "must be an object")
    elif context:
        try:
            parts.append(RunConfig.parse({"configurable": context}, field="context"))
        except ConfigError as error:
            for found in error.problems:
                field = str(found["field"]).replace("context.configurable", "context", 1)
                problems.found.append({**found, "field": field})
    return None if problems.found else merge_configs(*parts)


def _check_metadata(metadata: Any, problems: Problems) -> None:
    if metadata is None:
        return
    found = config_problems({"metadata": metadata}, field="", callbacks=())
    for path, value, rule in islice(found, MAX_PROBLEMS):
        problems.add(path.removeprefix("."), value, rule)
    if isinstance(metadata, dict):
        for key in metadata:
            if _is_own(key):
                problems.add(f"metadata.{key}", metadata[key], "is a key that the server sets")


def _check_input(given: Any, graph: Served, problems: Problems) -> None:
    """The input of a graph that refuses what it does not know, where a model says what that is."""
    builder = getattr(graph.graph, "builder", None)
    if not isinstance(builder, StrictGraph) or not issubclass(builder.input_schema, BaseModel):
        return
    if not isinstance(given, dict):
        problems.add("input", given, "must be an object")
        return
    try:
        asked = {key: value for key, value in given.items() if value is not None}
        parse_model(builder.input_schema, asked, where="input")
    except ConfigError as error:
        problems.of(error)


def _check_against_graph(
    request: RunConfig, graph: Served, workflow_id: str, problems: Problems
) -> None:
    if request.callbacks and not graph.wrapped:
        problems.add(
            "config.callbacks",
            list(request.callbacks),
            f"cannot be attached: {workflow_id!r} is not served by `serve`",
        )
    if graph.graph is None:
        if "node_overrides" in request.configurable:
            problems.add(
                "config.configurable.node_overrides",
                list(request.configurable["node_overrides"]),
                f"cannot be checked: {workflow_id!r} is served by a factory",
            )
        return
    for path, value, rule in unfollowed_overrides(
        graph.graph, request, field="config", wrapped=graph.wrapped
    ):
        problems.add(path, value, rule)


def _check_context(
    item: Mapping[str, Any],
    plain: Mapping[str, Any],
    graph: Served,
    problems: Problems,
    *,
    whole: bool,
) -> None:
    """Hold what a run's context will be to its schema; `whole` says that nothing may be missing."""
    given = plain.get("configurable") or {}
    schema = getattr(graph.graph, "context_schema", None)
    for path, value, rule in context_problems(schema, given):
        key = path.split(".")[0]
        if key in given or whole:
            told = "context" if key in (item.get("context") or {}) else "config.configurable"
            problems.add(f"{told}.{path}", value, rule)


async def _check_models(request: RunConfig, graph: Served, problems: Problems) -> None:
    if graph.graph is None:
        return
    for path, name in asked_models(graph.graph, request, field="config"):
        trouble = await asyncio.to_thread(model_trouble, name)
        if trouble is not None:
            problems.add(path, name, f"cannot be used on this server: {trouble}")


def _assistant_config(assistant: Mapping[str, Any] | None) -> RunConfig:
    stored = (assistant or {}).get("config") or {}
    known = {key: value for key, value in stored.items() if key in RunConfig.model_fields}
    context = (assistant or {}).get("context") or {}
    configurable = {**context, **(known.get("configurable") or {})}
    known["configurable"] = {
        key: value for key, value in configurable.items() if not is_runtime_key(key)
    }
    return RunConfig.parse(known, field="assistant.config")


def _as_sent(config: RunConfig) -> dict[str, Any]:
    """A config for the server, with the texts of prompts where they bind.

    What binds to the context goes to `configurable` as well: the server gives the graph's context
    the fields that it has from there.
    """
    plain = config.to_plain()
    if config.prompts:
        placed = with_prompts(plain.get("configurable", {}), config.prompts)
        for name, path, text in context_binds(config.prompts):
            placed = put(placed, path, text, field=f"prompts.{name}.bind")
        plain["configurable"] = placed
    return plain


def _run_metadata(resolved: ResolvedConfig, workflow_id: str) -> dict[str, Any]:
    """What LangGraph keeps with the run; prompts by their hashes, because every checkpoint of the
    run holds a copy."""
    shown = resolved.config.to_json()
    prompts = (shown.get("configurable") or {}).get("prompts")
    if prompts:
        hashes = {name: content_hash(prompt)[:12] for name, prompt in prompts.items()}
        shown["configurable"] = {**shown["configurable"], "prompts": hashes}
    found = {
        RESOLVED_BY: workflow_id,
        "agentensor_workflow": workflow_id,
        "agentensor_config": shown,
        "agentensor_use": resolved.use,
        "agentensor_version": resolved.base_version,
        "agentensor_defaults_version": resolved.defaults_version,
    }
    return {key: value for key, value in found.items() if value is not None}


def _kept(item: Mapping[str, Any], endpoint: RunEndpoint, config: dict[str, Any]) -> dict[str, Any]:
    """`config` with what a command says in it that is none of a config's business."""
    if endpoint.kind != "command":
        return config
    own = (item.get("config") or {}).get("configurable") or {}
    if "checkpoint_id" in own:
        config = {
            **config,
            "configurable": {
                **config.get("configurable", {}),
                "checkpoint_id": own["checkpoint_id"],
            },
        }
    return config


def _without_concurrency(item: Mapping[str, Any], request: RunConfig) -> dict[str, Any]:
    """`max_concurrency` would gate the checkpoint writes of a job's own graph."""
    if request.max_concurrency is None:
        return dict(item)
    config = {key: value for key, value in item["config"].items() if key != "max_concurrency"}
    return {**item, "config": config}


def _without_own_metadata(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Notes about the run that a request hands on with its own config would pass for ours."""
    config = item.get("config")
    metadata = config.get("metadata") if isinstance(config, dict) else None
    if not isinstance(metadata, dict) or not any(map(_is_own, metadata)):
        return item
    kept = {key: value for key, value in metadata.items() if not _is_own(key)}
    return {**item, "config": {**item["config"], "metadata": kept}}


def _is_own(key: Any) -> bool:
    return isinstance(key, str) and key.startswith(OWN_METADATA)


async def check_job(
    graph: Served, job: Mapping[str, Any], *, identity: Identity, problems: Problems
) -> Any:
    """A job checked and resolved as its run would; None, and why, where it cannot run."""
    assert graph.check_job is not None
    try:
        return await graph.check_job(job, caller=identity)
    except NotFound as error:
        problems.add("input", None, error.message)
    except StoreError:
        raise
    except BadInput as error:
        problems.of(error)
    return None


def job_metadata(checked: Any) -> dict[str, Any]:
    """What LangGraph keeps with the run of a job; the whole of it is our run record."""
    run = checked.record
    found = {
        "agentensor_run_id": run.run_id,
        "agentensor_workflow": run.workflow_id,
        "agentensor_version": run.refs.get("base_version"),
        "agentensor_dataset_id": run.dataset_id,
        "agentensor_dataset_version": run.dataset_version,
        "agentensor_evaluator_set": run.evaluator_set,
        "agentensor_config": redact(checked.config.to_json()),
    }
    return {key: value for key, value in found.items() if value not in (None, {})}


@dataclass(frozen=True)
class RunEndpoint:
    """A matched endpoint; `id` is that of the assistant or cron in its path."""

    kind: Kind
    id: str | None = None

    @property
    def starts_run(self) -> bool:
        """Whether a run comes of it, at once or by a schedule."""
        return self.is_cron or self.kind in ("run", "command")

    @property
    def is_cron(self) -> bool:
        """Whether runs come of it by a schedule."""
        return self.kind in ("cron", "cron_update")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A run request as it came, with the graph and the assistant it is for.

    `resumes` says that it answers an interrupt, `asked` that its thread waits for the approval of a
    promotion, `begun` that its thread has a state to go on from.
    """

    endpoint: RunEndpoint
    item: dict[str, Any]
    graph_id: str
    assistant: Mapping[str, Any] | None
    identity: Identity
    trusted: bool
    resumes: bool = False
    asked: bool = False
    begun: bool = False


@dataclass(frozen=True)
class Reviewed:
    """A request as it is handed on, the very one that came where nothing changes; and the workflow
    that its job works on."""

    item: dict[str, Any]
    workflow_id: str | None = None


class RequestReviewer:
    """Reviews run requests against what the operator and the store say."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.settings = settings

    async def workflow(self, request: Request) -> WorkflowRecord | None:
        """What is stored of the workflow that this request is for."""
        return await self.store.workflows.get(request.graph_id)

    def opted_in(self, record: WorkflowRecord | None) -> bool:
        """Whether a workflow has `runnable_config_enabled`."""
        return flag_in(record, "runnable_config_enabled", self.settings)

    async def review(
        self,
        request: Request,
        *,
        record: WorkflowRecord | None,
        odd: Sequence[tuple[str, Any, str]],
        prefix: str,
    ) -> Reviewed:
        """The request as the server is to see it; writes nothing, see `claim`.

        `record` is what `workflow` gives, `odd` what is odd about the text of the body, `prefix`
        where in a batch the request is. Raises `ConfigError` with every problem, `Forbidden` and
        `NotFound`.
        """
        identity, item = request.identity, request.item
        identity.require("run")
        if record is not None and not identity.may_see(record.owner):
            raise NotFound(f"there is no assistant of a graph {request.graph_id!r}")
        graph = served(request.graph_id)
        if graph is None:
            return Reviewed(item)
        if graph.trains:
            identity.require("train")
        if (request.asked or graph.takes == "train") and _approves(_answer(request)):
            identity.require("promote")
        problems = Problems()
        enabled = self.opted_in(record)
        prepared = None
        if request.endpoint.starts_run:
            if graph.takes and (enabled or identity.name is not None or graph.trains):
                prepared = await self._reviewed_job(request, graph, problems)
            if graph.trains:
                workflow = prepared.record.workflow_id if prepared else None
                await self._require_trainer(workflow or request.graph_id)
        if enabled:
            item = await self._checked(request, graph, prepared, problems, odd, prefix)
        return Reviewed(item, workflow_id=prepared.record.workflow_id if prepared else None)

    async def claim(self, identity: Identity, workflow_id: str) -> None:
        """Make a workflow that nothing is known of that of who first works on it."""
        if identity.name is not None and served(workflow_id) is None:  # one served is shared
            record = await self.store.workflows.claim(workflow_id, identity.name)
            if record is not None and not identity.may_see(record.owner):
                raise workflow_taken(workflow_id)

    async def _checked(
        self,
        request: Request,
        graph: Served,
        prepared: Any,
        problems: Problems,
        odd: Sequence[tuple[str, Any, str]],
        prefix: str,
    ) -> dict[str, Any]:
        """The request merged and noted, where nothing is wrong with it."""
        for path, value, rule in odd:
            problems.add(path, value, rule)
        checked, found = await check_request(
            request.item,
            endpoint=request.endpoint,
            workflow_id=request.graph_id,
            graph=graph,
            assistant=request.assistant,
            trusted=request.trusted,
            store=self.store,
            settings=self.settings,
        )
        problems.found += found.found
        for problem in problems.found:
            problem["field"] = f"{prefix}{problem['field']}"
        problems.settle("the request")
        if prepared is None or request.endpoint.is_cron:  # each of a cron's runs is a run anew
            return checked
        metadata = {**(checked.get("metadata") or {}), **job_metadata(prepared)}
        job = {**checked["input"], "run_id": prepared.record.run_id}
        return {**checked, "metadata": metadata, "input": job}

    async def _require_trainer(self, workflow_id: str) -> None:
        record = await self.store.workflows.get(workflow_id)
        if not flag_in(record, "agent_trainer_enabled", self.settings):
            raise Forbidden(
                f"training of {workflow_id!r} is not enabled on this server "
                "(feature flag agent_trainer_enabled)"
            )

    # -- Jobs ------------------------------------------------------------------------------------

    async def _reviewed_job(self, request: Request, graph: Served, problems: Problems) -> Any:
        """What the run of a job will be, if it may run; None where that is not known."""
        identity, job = request.identity, request.item.get("input")
        is_command = request.endpoint.kind == "command"
        command = request.item if is_command else request.item.get("command")
        for key in ("update", "goto"):
            if isinstance(command, dict) and command.get(key):
                problems.add(f"command.{key}", command[key], "is not for a graph that takes a job")
        if request.endpoint.kind == "cron_update" and "input" not in request.item:
            return None
        if (request.resumes and is_command) or (job is None and (request.resumes or request.begun)):
            return None
        if not isinstance(job, dict):
            problems.add("input", job, "must be a job, which is an object")
            return None
        if job.get("promote") == "auto":
            identity.require("promote")
        return await check_job(graph, job, identity=identity, problems=problems)


def _answer(request: Request) -> Any:
    """What a request answers an interrupt with, or several."""
    if not request.resumes:
        return None
    if request.endpoint.kind == "command":
        return [request.item.get(key) for key in ("input", "response", "responses")]
    return (request.item.get("command") or {}).get("resume")


def _approves(answer: Any) -> bool:
    """Whether an answer to an approval, or one of several by interrupt, is a yes."""
    if isinstance(answer, list):
        return any(map(_approves, answer))
    if not isinstance(answer, Mapping):
        return answer is True or answer == "approve"
    if "approve" in answer:
        return answer["approve"] is True
    return any(map(_approves, answer.values()))

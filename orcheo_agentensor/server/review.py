"""Reviews a run request: may its sender do this, is all of it right, and what does its run get."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from langgraph.graph import StateGraph
from pydantic import BaseModel

from orcheo_agentensor.config.model import (
    MAX_PROBLEMS,
    RunConfig,
    config_error,
    config_problems,
    is_runtime_key,
)
from orcheo_agentensor.config.overrides import model_trouble
from orcheo_agentensor.config.resolve import (
    ResolvedConfig,
    flag_in,
    merge_configs,
    refuse_use,
    resolve,
    version_refused,
)
from orcheo_agentensor.errors import BadInput, ConfigError, Forbidden, NotFound, StoreError
from orcheo_agentensor.evaluation.paid_calls import LABELS
from orcheo_agentensor.identity import Identity
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.prompts import put, with_prompts
from orcheo_agentensor.redaction import REDACTED, redact
from orcheo_agentensor.runs.access import (
    MODEL_RULE,
    TRAINER,
    USER_RULE,
    models_refused,
    user_refused,
    workflow_taken,
)
from orcheo_agentensor.runs.active import CheckedJob
from orcheo_agentensor.runs.job import parse_model
from orcheo_agentensor.runs.nodes import JobGraph, StrictGraph
from orcheo_agentensor.server.http import TextProblems
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.targets.context import context_binds, context_problems, field_names
from orcheo_agentensor.targets.offered import OWN_CONTEXT, Offer
from orcheo_agentensor.targets.overriding import asked_models, unfollowed_overrides
from orcheo_agentensor.targets.served import RESOLVED_BY, SOURCES, ServedGraph
from orcheo_agentensor.upstream import served_graphs

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store, WorkflowRecord

Kind: TypeAlias = Literal["run", "cron", "cron_update", "assistant", "assistant_update", "command"]
MOST_VALUES = 10_000
"""Values in a run request without its cases; each is looked at several times on the event loop."""
_OWN = "agentensor_"
"""How the keys of a run's metadata begin that only the review writes."""


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """A run request, with the graph and the assistant it is for.

    `resumes`: it answers an interrupt. `awaits_approval`: the interrupt asks to approve a
    promotion. `begun`: its thread has a state to go on from. `trusted`: the server asks itself, so
    LangGraph's own keys are left out instead of refused.
    """

    kind: Kind
    item: dict[str, Any]
    graph_id: str
    assistant: Mapping[str, Any] | None
    identity: Identity
    trusted: bool
    resumes: bool = False
    awaits_approval: bool = False
    begun: bool = False

    @property
    def is_cron(self) -> bool:
        """Whether it starts runs by a schedule."""
        return self.kind in ("cron", "cron_update")

    @property
    def starts_run(self) -> bool:
        """Whether it starts a run, at once or by a schedule."""
        return self.is_cron or self.kind in ("run", "command")

    def approves(self) -> bool:
        """Whether it approves what an interrupt asks."""
        if not self.resumes:
            return False
        if self.kind == "command":
            return _approves([self.item.get(key) for key in ("input", "response", "responses")])
        return _approves((self.item.get("command") or {}).get("resume"))


def _approves(answer: Any) -> bool:
    """Whether an answer to an approval, or one of several by interrupt, is a yes."""
    if isinstance(answer, list):
        return any(map(_approves, answer))
    if not isinstance(answer, Mapping):
        return answer is True or answer == "approve"
    if "approve" in answer:
        return answer["approve"] is True
    return any(map(_approves, answer.values()))


class Served:
    """A graph of the server: `graph` is None for a factory, `jobs` for a graph that takes no jobs.

    `trains`: it is the training graph, or has it as a subgraph.
    """

    def __init__(self, value: Any) -> None:
        from orcheo_agentensor.training import TrainingJob

        builder = value if isinstance(value, StateGraph) else getattr(value, "builder", None)
        self.jobs = builder if isinstance(builder, JobGraph) else None
        if isinstance(value, StateGraph) and self.jobs is None:
            value = value.compile()
        self.graph = value if hasattr(value, "nodes") else None
        self.wrapped = isinstance(value, ServedGraph)
        self.workflow = value.workflow if isinstance(value, ServedGraph) else None
        inner = value.get_subgraphs(recurse=True) if hasattr(value, "get_subgraphs") else ()
        builders = [self.jobs, *(getattr(graph, "builder", None) for _name, graph in inner)]
        self.trains = any(getattr(one, "input_schema", None) is TrainingJob for one in builders)

    @property
    def offer(self) -> Offer | None:
        """What a form may set of it."""
        return None if self.workflow is None else self.workflow.forms.offer(self.workflow)


def served(graph_id: str) -> Served | None:
    """The graph of this name; None where the server has no such graph."""
    graphs = served_graphs()
    return Served(graphs[graph_id]) if graph_id in graphs else None


class Problems:
    """Collects everything that is wrong with a request, to say it all at once."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self._messages: dict[str, str] = {}

    def add(self, field: str, value: Any, rule: str) -> None:
        """Add a problem."""
        self.found += config_error([(field, value, rule)], field).problems

    def of(self, error: BadInput, *, prefix: str = "") -> None:
        """Add the problems of an error, with `prefix` before their fields."""
        if isinstance(error, ConfigError):
            found = [{**one, "field": f"{prefix}{one['field']}"} for one in error.problems]
            self.found += found
        else:
            field = error.field or "input"
            self.add(field, error.value, error.rule or error.message)
            self._messages[field] = error.message

    def settle(self, what: str) -> None:
        """Raise one `ConfigError` with all problems, if there are any."""
        unique = list({problem["field"]: problem for problem in self.found}.values())
        if not unique:
            return
        lines = [
            self._messages.get(p["field"]) or f"{p['field']}: {p['value']} {p['rule']}"
            for p in unique
        ]
        text = lines[0] if len(lines) == 1 else f"{len(lines)} problems in {what}: "
        raise ConfigError(
            text if len(lines) == 1 else text + "; ".join(lines), **unique[0], problems=unique
        )


class RequestReviewer:
    """Reviews run requests against the settings and the store."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.settings = settings

    async def workflow(self, request: RunRequest) -> WorkflowRecord | None:
        """The record of the workflow that this request is for."""
        return await self.store.workflows.get(request.graph_id)

    async def look_at(self, graph_id: str) -> None:
        """See what the store has of a served graph, before a form is made of it."""
        graph = served(graph_id)
        if graph is not None and graph.workflow is not None:
            await graph.workflow.forms.look(graph.workflow)

    def opted_in(self, record: WorkflowRecord | None) -> bool:
        """Whether a workflow has `runnable_config_enabled`."""
        return flag_in(record, "runnable_config_enabled", self.settings)

    async def review(
        self, request: RunRequest, *, record: WorkflowRecord | None, text_problems: TextProblems
    ) -> tuple[dict[str, Any], str | None]:
        """The request to hand on, and the workflow that its job works on; see `claim`.

        `record` is what `workflow` returns, `text_problems` are those with the text of the body.
        Writes nothing. Raises `ConfigError` with every problem, `Forbidden` and `NotFound`.
        """
        identity, graph = request.identity, served(request.graph_id)
        identity.require("run")
        if record is not None and not identity.may_see(record.owner):
            raise NotFound(f"there is no assistant of a graph {request.graph_id!r}")
        if graph is None:
            return request.item, None
        _require_few_values(request, graph)
        if graph.trains:
            identity.require("train")
        asks = request.awaits_approval or (graph.trains and graph.jobs is not None)
        if asks and request.approves():
            identity.require("promote")
        enabled, problems = self.opted_in(record), Problems()
        if graph.workflow is not None:
            graph.workflow.forms.take(record, self.settings)
        checked = None
        must_check = enabled or identity.name is not None or graph.trains
        if request.starts_run and graph.jobs is not None and must_check:
            checked = await _checked_job(request, graph.jobs, problems)
        workflow_id = checked.record.workflow_id if checked else None
        if request.starts_run and graph.trains:
            await self._require_trainer(workflow_id or request.graph_id)
        request = _without_secrets(request, graph, problems)
        if not enabled:
            if graph.jobs is None and isinstance(config := request.item.get("config"), Mapping):
                off = f"runnable_config_enabled is off for {request.graph_id!r}"
                refuse_use(config, "config", off)
            return request.item, workflow_id if graph.trains else None
        for path, value, rule in text_problems:
            problems.add(path, value, rule)
        item, found = await self._merged(request, graph)
        problems.found += found.found
        problems.settle("the request")
        if checked is None or request.is_cron:  # each of a cron's runs is a run of its own
            return item, workflow_id if graph.trains else None
        metadata = {**(item.get("metadata") or {}), **_job_metadata(checked)}
        job = {**item["input"], "run_id": checked.record.run_id}
        return {**item, "metadata": metadata, "input": job}, workflow_id if graph.trains else None

    async def claim(self, identity: Identity, workflow_id: str) -> None:
        """Make `identity` the owner of a workflow that has no record yet."""
        if identity.name is not None and served(workflow_id) is None:  # one served is shared
            record = await self.store.workflows.claim(workflow_id, identity.name)
            if record is not None and not identity.may_see(record.owner):
                raise workflow_taken(workflow_id)

    async def _require_trainer(self, workflow_id: str) -> None:
        record = await self.store.workflows.get(workflow_id)
        if not flag_in(record, "agent_trainer_enabled", self.settings):
            raise Forbidden(
                f"training of {workflow_id!r} is not enabled on this server "
                "(feature flag agent_trainer_enabled)"
            )

    async def _merged(self, request: RunRequest, graph: Served) -> tuple[dict[str, Any], Problems]:
        """The request with its config merged and its metadata written, and its problems."""
        problems = Problems()
        item = _without_own_metadata(request.item)
        config = _request_config(request, item, problems)
        _check_metadata(item.get("metadata"), problems)
        if config is None or problems.found:
            return item, problems
        if not request.trusted and user_refused(config.configurable, request.identity):
            field = "config.configurable.user_id"
            problems.add(field, config.configurable["user_id"], USER_RULE)
        if graph.jobs is not None:  # the job itself holds the config of its target
            return _without_concurrency(item, config), problems
        if request.starts_run and item.get("input") is not None:
            _check_input(item["input"], graph, problems)
        try:
            config = config if graph.offer is None else graph.offer.folded(config)
        except ConfigError as error:
            problems.of(error)
            return item, problems
        await _check_against_graph(config, graph, request.graph_id, problems)
        for path, name in models_refused(
            {"config": config.to_plain()}, self.settings, request.identity
        ):
            problems.add(path, name, MODEL_RULE)
        try:
            resolved = await self._resolved(config, request, graph)
            plain = _as_sent(resolved.config)
        except ConfigError as error:
            problems.of(error)
            return item, problems
        _check_context(request, plain, graph, problems)
        if problems.found or not request.starts_run:
            return item, problems
        if request.is_cron and graph.wrapped:
            return item, problems  # resolved when it runs: an alias may have moved by then
        metadata = _run_metadata(resolved, request.graph_id)
        changed = {**item, "metadata": {**(item.get("metadata") or {}), **metadata}}
        if resolved.config != config or (graph.offer is not None and item.get("context")):
            at = "checkpoint_id"  # of a command, which no config holds
            own = (item.get("config") or {}).get("configurable") or {}
            if request.kind == "command" and at in own:
                plain["configurable"] = {**plain.get("configurable", {}), at: own[at]}
            changed["config"] = plain
            changed.pop("context", None)  # the server gives `configurable` to graphs that read it
        return changed, problems

    async def _resolved(
        self, config: RunConfig, request: RunRequest, graph: Served
    ) -> ResolvedConfig:
        """The config of a run; raises `ConfigError` where the version it asks for is not stored."""
        workflow, offer = graph.workflow, graph.offer
        assistant = _assistant_config(request.assistant)
        try:
            return await resolve(
                config,
                workflow_id=request.graph_id,
                store=self.store,
                settings=self.settings,
                defaults=workflow.defaults if workflow else None,
                assistant=assistant if offer is None else offer.folded(assistant),
                over_binds=None if offer is None else offer.over_binds,
            )
        except NotFound as error:
            raise version_refused(error, request.graph_id) from None


def _require_few_values(request: RunRequest, graph: Served) -> None:
    """Refuse, before anything walks it, what would keep the event loop from other callers.

    Not counted are the cases of a job, which are read in a thread, and the input of another graph,
    which only the server reads.
    """
    job = request.item.get("input")
    parts: list[tuple[str, Mapping[str, Any], str]] = [("", request.item, "input")]
    if graph.jobs is not None and isinstance(job, Mapping):
        parts.append(("input.", job, "dataset"))
    left = MOST_VALUES
    for prefix, part, uncounted in parts:
        level: list[tuple[str, Any]] = [(prefix, part)]
        while level:
            field, value = level.pop()
            inner = value.values() if isinstance(value, Mapping) else value
            if not isinstance(value, Mapping | list):
                continue
            left -= len(inner)
            if left < 0:
                raise ConfigError(
                    field=field.rstrip(".") or "body",
                    value=f"<more than {MOST_VALUES:,} values>",
                    rule=f"may hold no more than {MOST_VALUES:,} values together with the rest "
                    "of the request but its cases",
                )
            if value is part:
                level += [(f"{field}{key}", one) for key, one in part.items() if key != uncounted]
            else:
                level += [(field, one) for one in inner if isinstance(one, Mapping | list)]


def _without_secrets(request: RunRequest, graph: Served, problems: Problems) -> RunRequest:
    """The request whose job refers to its secrets: the server stores what it is given, and a
    schedule outlives every reference."""
    if graph.jobs is None or "input" not in request.item:
        return request
    job = graph.jobs.secrets.conceal(request.item["input"])
    if job is request.item["input"]:
        return request
    if request.is_cron:
        rule = "holds a secret, which a schedule would store; name the variable that holds it"
        problems.add("input", REDACTED, rule)
        problems.settle("the request")
    return replace(request, item={**request.item, "input": job})


async def _checked_job(
    request: RunRequest, graph: JobGraph[Any, Any, Any], problems: Problems
) -> CheckedJob[Any] | None:
    """The job, checked and resolved as its run would; None where it cannot run, or is not known."""
    identity, job = request.identity, request.item.get("input")
    is_command = request.kind == "command"
    command = request.item if is_command else request.item.get("command")
    for key in ("update", "goto"):
        if isinstance(command, dict) and command.get(key):
            problems.add(f"command.{key}", command[key], "is not for a graph that takes a job")
    if request.kind == "cron_update" and "input" not in request.item:
        return None
    if (request.resumes and is_command) or (job is None and (request.resumes or request.begun)):
        return None
    if not isinstance(job, dict):
        problems.add("input", job, "must be a job, which is an object")
        return None
    if job.get("promote") == "auto":
        identity.require("promote")
    try:
        return await graph.check_job(job, caller=identity)
    except NotFound as error:
        named = error.value if isinstance(error.value, dict) and error.value else {"input": job}
        for field, value in named.items():
            problems.add(field, value, error.message)
    except StoreError:
        raise
    except BadInput as error:
        if error.field == TRAINER:
            raise Forbidden(error.message) from None
        problems.of(error)
    return None


def _request_config(
    request: RunRequest, item: Mapping[str, Any], problems: Problems
) -> RunConfig | None:
    """The config and the context of a request as one config; None where one is wrong."""
    config, context = item.get("config"), item.get("context")
    if isinstance(config, dict) and isinstance(config.get("configurable"), dict):
        own = {
            key: value
            for key, value in config["configurable"].items()
            if not (request.kind == "command" and key == "checkpoint_id")
            and not (request.trusted and is_runtime_key(key))
        }
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
    for key in filter(_is_own, metadata if isinstance(metadata, dict) else ()):
        if key in LABELS:  # of a rollout whose target is served here
            continue
        problems.add(f"metadata.{key}", metadata[key], "is a key that the server sets")


def _check_input(given: Any, graph: Served, problems: Problems) -> None:
    """Check the input of a graph that refuses unknown keys and has a model for its input."""
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


async def _check_against_graph(
    config: RunConfig, graph: Served, workflow_id: str, problems: Problems
) -> None:
    """Check that the graph follows what the config asks of it."""
    if config.callbacks and not graph.wrapped:
        problems.add(
            "config.callbacks",
            list(config.callbacks),
            f"cannot be attached: {workflow_id!r} is not served by `serve`",
        )
    if graph.graph is None:
        if "node_overrides" in config.configurable:
            problems.add(
                "config.configurable.node_overrides",
                list(config.configurable["node_overrides"]),
                f"cannot be checked: {workflow_id!r} is served by a factory",
            )
        return
    for path, value, rule in unfollowed_overrides(
        graph.graph, config, field="config", wrapped=graph.wrapped
    ):
        problems.add(path, value, rule)
    for path, name in asked_models(graph.graph, config, field="config"):
        trouble = await asyncio.to_thread(model_trouble, name)
        if trouble is not None:
            problems.add(path, name, f"cannot be used on this server: {trouble}")


def _check_context(
    request: RunRequest, plain: Mapping[str, Any], graph: Served, problems: Problems
) -> None:
    """Check the context of a run against its schema; an assistant's may leave things out."""
    given = plain.get("configurable") or {}
    schema = getattr(graph.graph, "context_schema", None)
    known = field_names(schema) if schema is not None else ()
    if known and graph.offer is not None:
        known = (*known, *graph.offer.fields)
    for key in request.item.get("context") or {} if known else ():
        if key not in known and key not in OWN_CONTEXT:
            near = ", ".join(sorted(known))
            problems.add(f"context.{key}", key, f"is not a field of the context; known: {near}")
    for path, value, rule in context_problems(schema, given):
        key = path.split(".")[0]
        if key in given or request.starts_run:
            in_context = key in (request.item.get("context") or {})
            field = "context" if in_context else "config.configurable"
            problems.add(f"{field}.{path}", value, rule)


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

    What binds to the context goes to `configurable` as well: the server fills the graph's context
    from there.
    """
    plain = config.to_plain()
    if config.prompts:
        placed = with_prompts(plain.get("configurable", {}), config.prompts)
        for name, path, text in context_binds(config.prompts):
            placed = put(placed, path, text, field=f"prompts.{name}.bind")
        plain["configurable"] = placed
    return plain


def _run_metadata(resolved: ResolvedConfig, workflow_id: str) -> dict[str, Any]:
    """The metadata of a run; prompts as hashes, because each of its checkpoints holds a copy."""
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
        SOURCES: resolved.sources(),
    }
    return {key: value for key, value in found.items() if value is not None}


def _job_metadata(checked: CheckedJob[Any]) -> dict[str, Any]:
    """The metadata of a job's run; our run record holds the whole of it."""
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


def _without_concurrency(item: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    """`max_concurrency` would gate the checkpoint writes of a job's own graph."""
    if config.max_concurrency is None:
        return item
    kept = {key: value for key, value in item["config"].items() if key != "max_concurrency"}
    return {**item, "config": kept}


def _without_own_metadata(item: dict[str, Any]) -> dict[str, Any]:
    """Drop our notes about another run, which hands its own config on; they would pass for ours."""
    config = item.get("config")
    metadata = config.get("metadata") if isinstance(config, dict) else None
    if not isinstance(metadata, dict) or not any(map(_is_own, metadata)):
        return item
    kept = {key: value for key, value in metadata.items() if not _is_own(key)}
    return {**item, "config": {**item["config"], "metadata": kept}}


def _is_own(key: Any) -> bool:
    return isinstance(key, str) and key.startswith(_OWN)

"""One run request: checked, merged and noted before the server makes a run of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from orcheo_agentensor.callers import Caller
from orcheo_agentensor.config import RunConfig, merge_configs, with_prompts
from orcheo_agentensor.config_rules import MAX_PROBLEMS, config_error, config_problems
from orcheo_agentensor.errors import BadInput, ConfigError, NotFound, StoreError
from orcheo_agentensor.evaluation.job import parse_model
from orcheo_agentensor.evaluation.job_graph import StrictGraph
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.overrides import model_trouble
from orcheo_agentensor.places import put
from orcheo_agentensor.redaction import redact
from orcheo_agentensor.server.endpoints import Endpoint
from orcheo_agentensor.server.graphs import Served
from orcheo_agentensor.server.merging import Resolved, resolve
from orcheo_agentensor.server.served import RESOLVED_BY
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.targets.context import context_binds, context_problems
from orcheo_agentensor.targets.overriding import asked_models, unfollowed_overrides

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store

OWN_METADATA = "agentensor_"
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
    endpoint: Endpoint,
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
        under = _assistant_config(assistant)
        merged = merge_configs(under, request)
        resolved = await resolve(merged, workflow_id, store, settings)
        plain = _as_sent(resolved.config)
        _check_context(item, plain, graph, problems, whole=endpoint.starts_run)
    except ConfigError as error:
        problems.of(error)
        return dict(item), problems
    if problems.found or not endpoint.starts_run:
        return dict(item), problems
    if endpoint.is_cron and graph.wrapped:
        return dict(item), problems  # resolved when it runs: an alias may have moved by then
    metadata = _run_metadata(resolved, merged, workflow_id)
    changed = {**item, "metadata": {**(item.get("metadata") or {}), **metadata}}
    if resolved.config != request:
        changed["config"] = _kept(item, endpoint, plain)
        changed.pop("context", None)  # the server gives `configurable` to graphs that read it
    return changed, problems


def _request_config(
    item: Mapping[str, Any], problems: Problems, *, endpoint: Endpoint, trusted: bool
) -> RunConfig | None:
    """The config and the context of a request as one config; None where one is wrong."""
    config, context = item.get("config"), item.get("context")
    if isinstance(config, dict) and isinstance(config.get("configurable"), dict):
        own = config["configurable"]
        if endpoint.kind == "command":
            own = {key: value for key, value in own.items() if key != "checkpoint_id"}
        if trusted:
            own = {key: value for key, value in own.items() if not _is_langgraphs(key)}
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
        key: value for key, value in configurable.items() if not _is_langgraphs(key)
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


def _run_metadata(resolved: Resolved, request: RunConfig, workflow_id: str) -> dict[str, Any]:
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
        "agentensor_use": request.use,
        "agentensor_version": resolved.base,
        "agentensor_defaults_version": resolved.defaults_version,
    }
    return {key: value for key, value in found.items() if value is not None}


def _kept(item: Mapping[str, Any], endpoint: Endpoint, config: dict[str, Any]) -> dict[str, Any]:
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
    """Notes about the run that a caller hands on with its own config would pass for ours."""
    config = item.get("config")
    metadata = config.get("metadata") if isinstance(config, dict) else None
    if not isinstance(metadata, dict) or not any(map(_is_own, metadata)):
        return item
    kept = {key: value for key, value in metadata.items() if not _is_own(key)}
    return {**item, "config": {**item["config"], "metadata": kept}}


def _is_own(key: Any) -> bool:
    return isinstance(key, str) and key.startswith(OWN_METADATA)


def _is_langgraphs(key: Any) -> bool:
    return isinstance(key, str) and key.startswith(("__", "checkpoint_", "langgraph_"))


async def check_job(
    graph: Served, job: Mapping[str, Any], *, caller: Caller, problems: Problems
) -> Any:
    """A job checked and resolved as its run would; None, and why, where it cannot run."""
    assert graph.check_job is not None
    try:
        return await graph.check_job(job, caller=caller)
    except NotFound as error:
        problems.add("input", None, error.message)
    except StoreError:
        raise
    except BadInput as error:
        problems.of(error)
    return None


def job_metadata(prepared: Any) -> dict[str, Any]:
    """What LangGraph keeps with the run of a job; the whole of it is our run record."""
    run = prepared.run
    found = {
        "agentensor_run_id": run.run_id,
        "agentensor_workflow": run.workflow_id,
        "agentensor_version": run.refs.get("base_version"),
        "agentensor_dataset_id": run.dataset_id,
        "agentensor_dataset_version": run.dataset_version,
        "agentensor_evaluator_set": run.evaluator_set,
        "agentensor_config": redact(prepared.config.to_json()),
    }
    return {key: value for key, value in found.items() if value not in (None, {})}

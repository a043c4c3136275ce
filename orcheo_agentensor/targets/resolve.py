"""What a caller may name as `target`, and the `Target` that is made of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig

from orcheo_agentensor.entrypoints import load_entrypoint
from orcheo_agentensor.errors import BadInput
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.targets.context import compiled
from orcheo_agentensor.targets.local import CallableTarget, RunnableTarget, Target, check_target
from orcheo_agentensor.targets.output import pick, to_json_output

_FORMS = (
    'a LangGraph graph, a Runnable, a function (inputs, config), "module:attribute", '
    '{"entrypoint": "module:attribute", "output": "path"}, or {"url": ..., "assistant": ...}'
)
_REMOTE = frozenset({"url", "assistant"})


@dataclass(frozen=True)
class PickedTarget:
    """A target whose output is the part of `inner`'s at the dotted path `output`."""

    inner: Target
    output: str
    name: str
    fingerprint: str
    edges: tuple[tuple[str, str], ...]

    def check(self, configurable: Mapping[str, Any], prompts: Mapping[str, Any]) -> None:
        check_target(self.inner, configurable, prompts)

    async def run(self, inputs: Any, config: RunnableConfig, *, rollout_id: str) -> Any:
        result = await self.inner.run(inputs, config, rollout_id=rollout_id)
        return pick(to_json_output(result), self.output)


def resolve_target(spec: Any, *, settings: Settings) -> Target:
    """The target that `spec` names or is.

    `spec` is one of: a compiled or uncompiled LangGraph graph, any `Runnable` (a `RemoteGraph`
    too), an async or sync function `(inputs, config) -> output`, a `"module:attribute"` string, or
    a mapping with `entrypoint` and, to keep a part of the output, `output` (a dotted path). A
    no-argument factory that returns a graph is called. A mapping with `url` and `assistant` is a
    workflow on LangGraph servers; without `url` it is one of the server that we run on.

    Raises `BadInput`, `EntrypointNotAllowed` or `EntrypointNotFound`.
    """
    if isinstance(spec, str):
        found = load_entrypoint(spec, settings=settings, what="target")
        return _from_object(_called(found, spec), spec)
    if isinstance(spec, Mapping) and "entrypoint" not in spec and not _REMOTE.isdisjoint(spec):
        from orcheo_agentensor.targets.remote import RemoteTarget

        return RemoteTarget.parse(spec, settings=settings)
    if isinstance(spec, Mapping):
        unknown = set(spec) - {"entrypoint", "output"}
        if unknown or not isinstance(spec.get("entrypoint"), str):
            raise BadInput(field="target", value=dict(spec), rule=f"must be {_FORMS}")
        inner = resolve_target(spec["entrypoint"], settings=settings)
        if not spec.get("output"):
            return inner
        output = str(spec["output"])
        known_as = f"{inner.fingerprint}#{output}"
        return PickedTarget(inner, output, inner.name, known_as, inner.edges)
    return _from_object(spec, None)


def _called(found: Any, spec: str) -> Any:
    """What a graph factory returns; anything else as it is."""
    if not inspect.isfunction(found) or inspect.signature(found).parameters:
        return found
    try:
        return found()
    except Exception as error:  # whatever a user's factory raises
        raise BadInput(
            f"target: {spec!r} could not be built: {type(error).__name__}: {error}",
            field="target",
            value=spec,
            rule="must build without an error",
        ) from error


def _from_object(value: Any, name: str | None) -> Target:
    from langgraph.graph import StateGraph

    if isinstance(value, StateGraph):
        return RunnableTarget.of(compiled(value), name=name)
    if isinstance(value, Runnable):
        return RunnableTarget.of(value, name=name)
    if isinstance(value, Target):
        return value
    if callable(value):
        return CallableTarget.of(value, name=name)
    raise BadInput(field="target", value=value, rule=f"must be {_FORMS}")

"""A graph whose input is a job: unknown keys are refused, and what is left out is empty."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from pydantic import BaseModel

from orcheo_agentensor.errors import ConfigError, shorten

if TYPE_CHECKING:
    from orcheo_agentensor.evaluation.resolve import Prepared

StateT = TypeVar("StateT", bound=Any)
InputT = TypeVar("InputT", bound=Any)
OutputT = TypeVar("OutputT", bound=Any)


class StrictGraph(StateGraph[StateT, None, InputT, OutputT]):
    """A `StateGraph` that does not drop unknown input keys, as LangGraph does, but refuses them.

    As a node of a host that shares its state, it takes from that state what it knows. Each input is
    a job of its own: nothing of an earlier one on the same thread is left in what it leaves out.
    Inside a host's node the run id, where none is given, is that of the node's execution, so that
    the node, executed again on a resume, goes on with its run instead of paying for another.
    """

    def compile(
        self, *args: Any, **kwargs: Any
    ) -> CompiledStateGraph[StateT, None, InputT, OutputT]:
        """As `StateGraph.compile`."""
        known = set(self.schemas[self.input_schema])

        def check(job: Any, config: RunnableConfig) -> Any:
            if not isinstance(job, Mapping):
                return job
            configurable = config.get("configurable", {})
            inside, _, _start = configurable.get("checkpoint_ns", "").rpartition("|")
            if not inside:
                refuse_unknown(job, known)
            whole = {**dict.fromkeys(known), **job}
            if "run_id" in known and whole["run_id"] is None and ":" in inside:
                whole["run_id"] = run_id_inside(configurable.get("thread_id"), inside, job)
            return whole

        compiled = super().compile(*args, **kwargs)
        start = compiled.nodes[START]
        compiled.nodes[START] = start.copy({"bound": RunnableLambda(check), "subgraphs": []})
        return compiled


class JobGraph(StrictGraph[StateT, InputT, OutputT]):
    """A graph that works on jobs; `check_job` checks and resolves one as a run would, and writes
    nothing."""

    check_job: Callable[..., Awaitable[Prepared[Any]]]


def emptied(state: Mapping[str, Any], job: type[BaseModel], output: type[Any]) -> dict[str, Any]:
    """The update that takes a job, which is stored by now, and an earlier job's output away."""
    left = [key for key in output.__annotations__ if state.get(key) is not None]
    return dict.fromkeys([*job.model_fields, *left])


def run_id_inside(thread_id: Any, namespace: str, job: Mapping[str, Any]) -> str:
    """The run id of `job` in the execution of a host's node: the same when that is repeated."""
    parts = json.dumps([str(thread_id), namespace, dict(job)], default=repr, sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def refuse_unknown(job: Mapping[str, Any], known: set[str]) -> None:
    """Raise `ConfigError` naming every key of `job` that is not `known`."""
    rule = f"no such field; known: {', '.join(sorted(known))}"
    problems = [
        {"field": f"job.{key}", "value": shorten(value), "rule": rule}
        for key, value in job.items()
        if key not in known
    ]
    if problems:
        fields = ", ".join(str(problem["field"]) for problem in problems)
        raise ConfigError(f"{fields}: {rule}", problems=problems)

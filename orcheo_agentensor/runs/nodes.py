"""Running a built graph from start or resume to its end, for the doors that are not LangGraph's."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.errors import GraphDrained
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command

from orcheo_agentensor.errors import ConfigError, shorten
from orcheo_agentensor.evaluators.threads import run_sync
from orcheo_agentensor.events import EventWriter, discard, listening
from orcheo_agentensor.runs.active import Draining, Invocation
from orcheo_agentensor.runs.front import (
    INTERRUPTED,
    done_once,
    heard_by,
    note_interrupted,
    stored_job,
)
from orcheo_agentensor.runs.job import JobSecrets, without_references
from orcheo_agentensor.targets.context import compiled
from orcheo_agentensor.upstream import is_streamed_by_host

if TYPE_CHECKING:
    from typing import Self

    from langgraph.runtime import RunControl

    from orcheo_agentensor.runs.active import CheckedJob
    from orcheo_agentensor.storage import Store


T = TypeVar("T")

log = logging.getLogger(__name__)

AWAITING_APPROVAL = "awaiting_approval"


async def drive(
    graph: JobGraph[Any, Any, Any],
    job: Mapping[str, Any] | None,
    *,
    store: Store,
    run_id: str,
    on_event: EventWriter = discard,
    control: RunControl | None = None,
    answer: Any = None,
) -> dict[str, Any]:
    """Run `job`, or go on with the run where `job` is None, and return the graph's last state.

    A job whose run id is known goes on from what the store holds. Of a graph that `pauses`,
    LangGraph's checkpoints are kept beside `store` on the thread named `run_id`; any other goes on
    by its job, submitted again. `answer` resumes a run that waits for approval. A run that pauses
    has the status `awaiting_approval` and its `request`; one stopped through `control` has the
    status `interrupted`.
    """
    async with store.checkpointer() if graph.pauses else contextlib.nullcontext() as saver:
        compiled = graph.compile(checkpointer=saver)
        config: Any = {**WITH_STEPS, "configurable": {"thread_id": run_id}}
        given: Any = None
        if answer is not None:
            given = Command(resume=answer)
        elif job is not None:
            given = {**job, "run_id": run_id}
        elif saver is None or not (await compiled.aget_state(config)).next:
            given = await stored_job(store, run_id)
        try:
            with heard_by(on_event):
                found: dict[str, Any] = await compiled.ainvoke(given, config, control=control)
        except (Draining, GraphDrained, asyncio.CancelledError) as stopped:
            await note_interrupted(store, run_id)
            if isinstance(stopped, asyncio.CancelledError):
                raise
            return {"run_id": run_id, "status": INTERRUPTED}
        if saver is None:
            return found
        snapshot = await compiled.aget_state(config)
        found = dict(snapshot.values)
        if snapshot.interrupts:
            found |= {"status": AWAITING_APPROVAL, "request": snapshot.interrupts[0].value}
        return found


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

        async def acheck(job: Any, config: RunnableConfig) -> Any:
            return check(job, config)  # a sync function would be run in a thread

        compiled = super().compile(*args, **kwargs)
        bound = RunnableLambda(check, afunc=acheck)
        compiled.nodes[START] = compiled.nodes[START].copy({"bound": bound, "subgraphs": []})
        return compiled


class JobGraph(StrictGraph[StateT, InputT, OutputT]):
    """A graph that works on jobs; `check_job` checks and resolves one as a run would, and writes
    nothing. Only one that `pauses`, for an approval, needs LangGraph's checkpoints to go on: what
    any has paid for is in the ledger. `secrets` holds those of jobs at work."""

    check_job: Callable[..., Awaitable[CheckedJob[Any]]]
    secrets: JobSecrets
    pauses: bool = False

    def compile(
        self, *args: Any, **kwargs: Any
    ) -> CompiledStateGraph[StateT, None, InputT, OutputT]:
        """As `StateGraph.compile`; LangGraph sees no secret of the job that is the input."""
        compiled = super().compile(*args, **kwargs)
        compiled.__class__ = _CompiledJobGraph
        return compiled

    def add_node(self, node: Any, action: Any = None, **options: Any) -> Self:
        """As `StateGraph.add_node`, for an async function of the state."""
        return super().add_node(node, JobNode(action, name=node), **options)


class _CompiledJobGraph(CompiledStateGraph[Any, None, Any, Any]):
    """A compiled graph whose checkpoints and writes hold references instead of a job's secrets, and
    whose nodes, streamed async, work on one run after the other without opening it again."""

    def stream(self, input: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """As of any graph."""
        return super().stream(self._concealed(input), *args, **kwargs)

    def astream(self, input: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """As of any graph."""
        return Invocation().stream(super().astream(self._concealed(input), *args, **kwargs))

    def _concealed(self, job: Any) -> Any:
        return cast("JobGraph[Any, Any, Any]", self.builder).secrets.conceal(job)


class JobNode(Runnable[Any, Any]):
    """A node made of an async function of the state.

    It works in `invoke` and `stream` as well, on an event loop of its own. (LangChain reads the
    source of a function to find out which graphs it calls; these call none.)
    """

    def __init__(self, action: Callable[[Any], Awaitable[Any]], *, name: str) -> None:
        self.name = name
        self._action = action

    async def ainvoke(self, input: Any, config: Any = None, **_: Any) -> Any:
        """Run once; returns the update of the state."""
        return await done_once(self._action, input)

    def invoke(self, input: Any, config: Any = None, **_: Any) -> Any:
        """As `ainvoke`, for sync callers."""
        return run_sync(self.ainvoke(input))


def run_id_inside(thread_id: Any, namespace: str, job: Mapping[str, Any]) -> str:
    """The run id of `job` in the execution of a host's node: the same when that is repeated."""
    parts = json.dumps([str(thread_id), namespace, dict(job)], default=repr, sort_keys=True)
    return hashlib.sha256(without_references(parts).encode()).hexdigest()[:32]


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


MapInput = Callable[[Any], Mapping[str, Any]]
MapOutput = Callable[[dict[str, Any]], Any]


HostNode: TypeAlias = Runnable[Any, Any]
"""A node, as `StateGraph.add_node` takes it."""

WITH_STEPS: RunnableConfig = {"recursion_limit": 10_000_000}
"""The recursion limit of our subgraphs: a host's is for its own loops, and budgets end ours."""


def subgraph_node(
    graph: Any, *, map_input: MapInput | None = None, map_output: MapOutput | None = None
) -> HostNode:
    """A host node that runs `graph`, compiled or not, as a subgraph.

    `map_input` makes the job from the host's state (by default the state's keys that are job
    fields), `map_output` makes the host's update from the result (by default the result itself).
    Events, interrupts and checkpoints pass through the host. A node that is executed again, on a
    resume or a retry, goes on with the run it had begun.
    """
    inner = compiled(graph)
    fields = set(inner.get_input_jsonschema().get("properties", {}))

    def job_of(state: Any) -> Mapping[str, Any]:
        given = _as_mapping(state)
        job = map_input(state) if map_input else {k: v for k, v in given.items() if k in fields}
        refuse_unknown(job, fields)
        return job

    def update_of(result: dict[str, Any]) -> Any:
        return map_output(result) if map_output else result

    async def node(state: Any) -> Any:
        return update_of(await run_inside(inner, job_of(state)))

    def sync_node(state: Any) -> Any:
        with _as_execution(job_of(state)) as job:
            return update_of(inner.invoke(job, WITH_STEPS))

    return RunnableLambda(sync_node, afunc=node, name=str(inner.get_name()))


async def run_inside(inner: Any, job: Mapping[str, Any]) -> dict[str, Any]:
    """Run the compiled `inner` on `job` inside a node of a host, once; returns its output."""
    with _as_execution(job) as known:
        result: dict[str, Any] = await inner.ainvoke(known, WITH_STEPS)
    return result


@contextmanager
def _as_execution(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """`job` with the run id of the node's execution; its events reach the host."""
    configurable = (var_child_runnable_config.get() or {}).get("configurable", {})
    namespace = configurable.get("checkpoint_ns", "")
    if namespace and job.get("run_id") is None:
        # LangGraph counts attempts of a node into the namespace of what the node calls.
        run_id = run_id_inside(configurable.get("thread_id"), namespace, job)
        job = {**job, "run_id": run_id}
    with _heard_by_host(configurable):
        yield dict(job)


@contextmanager
def _heard_by_host(configurable: Mapping[str, Any]) -> Iterator[None]:
    """Hand the events on to the host's own custom stream, where it does not stream its subgraphs.

    LangGraph drops what subgraphs write unless they are streamed too.
    """
    from langgraph.config import get_stream_writer

    if not configurable.get("checkpoint_ns") or is_streamed_by_host(configurable):
        yield
        return
    with listening(get_stream_writer()):
        yield


def evaluation_node(
    graph: Any, *, map_input: MapInput | None = None, map_output: MapOutput | None = None
) -> HostNode:
    """A host node that runs an evaluation graph as a subgraph.

    Events, interrupts and checkpoints pass through the host. A node that is executed again, on a
    resume or a retry, goes on with the run it had begun.

    Args:
        graph: What `create_evaluation_graph` returned, compiled or not.
        map_input: Makes the job from the host's state; by default the state's keys that are job
            fields.
        map_output: Makes the host's update from the result; by default the result itself.

    Returns:
        A node, as `StateGraph.add_node` takes it.

    Raises:
        ConfigError: The job has a field that is not known, at the call.

    Example:
        >>> from typing import TypedDict
        >>> from langgraph.graph import START, StateGraph
        >>> from orcheo_agentensor import create_evaluation_graph, evaluation_node
        >>> class Release(TypedDict, total=False):
        ...     tickets: list
        ...     accuracy: float
        >>> graph = create_evaluation_graph(
        ...     lambda inputs: inputs.upper(), evaluators=["exact_match"]
        ... )
        >>> node = evaluation_node(
        ...     graph,
        ...     map_input=lambda state: {"dataset": state["tickets"]},
        ...     map_output=lambda found: {"accuracy": found["summary"]["objective"]},
        ... )
        >>> host = StateGraph(Release).add_node("evaluate", node).add_edge(START, "evaluate")
        >>> host.compile().invoke({"tickets": [{"inputs": "hi", "expected_output": "HI"}]})
        {'tickets': [{'inputs': 'hi', 'expected_output': 'HI'}], 'accuracy': 1.0}
    """
    return subgraph_node(graph, map_input=map_input, map_output=map_output)


def _as_mapping(state: Any) -> Mapping[str, Any]:
    if isinstance(state, Mapping):
        return state
    return dict(state) if hasattr(state, "__iter__") else vars(state)

"""The evaluation subgraph: START -> prepare -> run_cases -> summarize -> END."""

import uuid
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from langgraph.graph import END, START
from langgraph.types import Command
from typing_extensions import TypedDict

from orcheo_agentensor.evaluation.results import CaseResult
from orcheo_agentensor.evaluation.work import EvaluationOutput, EvaluationWork
from orcheo_agentensor.prompts import ContentTensor, TextTensor
from orcheo_agentensor.runs.job import EvaluationJob, Job, shown_as
from orcheo_agentensor.runs.nodes import JobGraph
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.upstream import allow_in_checkpoints

for _kind in (TextTensor, ContentTensor):
    allow_in_checkpoints(_kind)


class JobState(TypedDict, total=False):
    """The fields that every job has, in the state of the graph that works on it."""

    target: Annotated[Any, shown_as(Job, "target")]
    workflow_id: Annotated[str | None, shown_as(Job, "workflow_id")]
    dataset: Annotated[Any, shown_as(Job, "dataset")]
    evaluators: Annotated[Any, shown_as(Job, "evaluators")]
    prompts: Annotated[dict[str, TextTensor | str | dict[str, Any]], shown_as(Job, "prompts")]
    config: Annotated[Any, shown_as(Job, "config")]
    limits: Annotated[Any, shown_as(Job, "limits")]
    min_coverage: Annotated[float, shown_as(Job, "min_coverage")]
    replicates: Annotated[int, shown_as(Job, "replicates")]
    seed: Annotated[int, shown_as(Job, "seed")]
    memory_store: Annotated[str, shown_as(Job, "memory_store")]
    accept_drift: Annotated[bool, shown_as(Job, "accept_drift")]
    retry_failed: Annotated[bool, shown_as(Job, "retry_failed")]
    reuse: Annotated[str | None, shown_as(Job, "reuse")]
    cache: Annotated[bool, shown_as(Job, "cache")]


class EvaluationState(EvaluationOutput, JobState, total=False):
    """The job's fields until `prepare` has stored them, then prompts, ids and numbers."""


def create_evaluation_graph(
    target: Any = None,
    *,
    dataset: Any = None,
    evaluators: Sequence[Any] | None = None,
    prompts: Any = None,
    config: Any = None,
    context: Any = None,
    store: Any = None,
    settings: Settings | None = None,
    new_run_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    on_results: Callable[[str, list[CaseResult]], None] | None = None,
    taped: bool = False,
) -> JobGraph[EvaluationState, EvaluationJob, EvaluationOutput]:
    """The evaluation subgraph, uncompiled: compile it, or add it to a host with `evaluation_node`.

    Its input is an `EvaluationJob`; whatever is given here, the job may leave out. Its output is an
    `EvaluationOutput`. Progress leaves through the custom stream.

    Args:
        target: As for `aevaluate`.
        dataset: As for `aevaluate`.
        evaluators: As for `aevaluate`.
        prompts: As for `aevaluate`.
        config: As for `aevaluate`.
        context: A live object for the graph's context.
        store: A `Store`, a database URL, or None for a store in memory.
        settings: The operator's settings; those of the environment when left out.
        new_run_id: Names runs whose job does not.
        on_results: Given the run id and all results before they are added up, for callers in this
            process.
        taped: Whether every rollout is taped, for a backward pass.

    Returns:
        A `StateGraph`.

    Example:
        >>> from orcheo_agentensor import create_evaluation_graph
        >>> graph = create_evaluation_graph(
        ...     lambda inputs: inputs.upper(), evaluators=["exact_match"]
        ... ).compile()
        >>> found = graph.invoke({"dataset": [{"inputs": "hi", "expected_output": "HI"}]})
        >>> found["status"], found["summary"]["objective"]
        ('finished', 1.0)
    """
    return graph_of(
        EvaluationWork(
            target,
            dataset=dataset,
            evaluators=evaluators,
            prompts=prompts,
            config=config,
            context=context,
            store=store,
            settings=settings,
            new_run_id=new_run_id,
            on_results=on_results,
            taped=taped,
        )
    )


def graph_of(
    work: EvaluationWork,
) -> JobGraph[EvaluationState, EvaluationJob, EvaluationOutput]:
    """The evaluation graph whose nodes do `work`."""

    async def prepare(state: EvaluationState) -> Command[str]:
        update = await work.prepare(state)
        return Command(update=update, goto="run_cases" if update["status"] == "running" else END)

    graph = JobGraph(EvaluationState, input_schema=EvaluationJob, output_schema=EvaluationOutput)
    graph.check_job = work.manager.check
    graph.secrets = work.manager.secrets
    graph.add_node(
        "prepare", prepare, destinations=("run_cases", END), input_schema=EvaluationState
    )
    graph.add_node("run_cases", work.run_cases)
    graph.add_node("summarize", work.summarize)
    graph.add_edge(START, "prepare")
    graph.add_edge("run_cases", "summarize")
    graph.add_edge("summarize", END)
    return graph

"""`aevaluate` and `evaluate`: the evaluation subgraph as a function call."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from orcheo_agentensor.datasets import Case, Dataset
from orcheo_agentensor.evaluation.graph import create_evaluation_graph
from orcheo_agentensor.evaluation.report import EvaluationReport
from orcheo_agentensor.evaluation.results import (
    CaseResult,
    case_result,
    merged,
    outcome_of,
    settled,
)
from orcheo_agentensor.evaluators import BoundEvaluator, bind_evaluator
from orcheo_agentensor.evaluators.dialects import LangSmithSummary
from orcheo_agentensor.evaluators.threads import run_sync
from orcheo_agentensor.events import EventWriter, discard
from orcheo_agentensor.prompts import PromptsLike, as_prompts, prompts_to_json
from orcheo_agentensor.runs.arguments import DatasetLike, EvaluatorLike, Target, check_arguments
from orcheo_agentensor.runs.driver import as_data, drive, require_result, split_live
from orcheo_agentensor.runs.job import Limits
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.usage import Usage

if TYPE_CHECKING:
    from orcheo_agentensor.storage import CaseRow, Store


async def aevaluate(
    target: Target,
    *,
    dataset: DatasetLike,
    evaluators: Sequence[EvaluatorLike] | EvaluatorLike,
    summary_evaluators: Sequence[EvaluatorLike] = (),
    prompts: PromptsLike | None = None,
    config: Mapping[str, Any] | None = None,
    context: Any = None,
    limits: Limits | Mapping[str, Any] | None = None,
    min_coverage: float = 1.0,
    replicates: int = 1,
    store: Store | str | None = None,
    run_id: str | None = None,
    workflow_id: str | None = None,
    reuse: str | None = None,
    memory_store: Literal["fresh", "shared", "seeded"] = "fresh",
    accept_drift: bool = False,
    settings: Settings | None = None,
    on_event: EventWriter = discard,
) -> EvaluationReport:
    """Evaluate `target` on `dataset` with `evaluators`.

    A case that fails raises nothing: it is counted in the summary and explained in `cases`.

    Args:
        target: A LangGraph graph, a Runnable, a function `(inputs, config) -> output`, a
            "module:attribute" string, or the mapping of a remote target.
        dataset: A `Dataset`, a list of cases, a path, or `{"path": …, "split": …}`.
        evaluators: One or several, of any known form.
        summary_evaluators: These score all cases together.
        prompts: Prompt name to text or `TextTensor`; nodes read them by `get_prompt` or where they
            bind.
        config: The `RunnableConfig` that the target runs with.
        context: The context of a graph that needs live objects there; all rollouts share it.
        limits: Concurrency, timeout and retries.
        min_coverage: The share of cases that must be scored for the run to count.
        replicates: How often each case is run and judged, where results are noisy; its score is the
            mean, and intervals are over cases as before.
        store: A `Store`, a database URL, or None for memory.
        run_id: Submitting one again resumes that run and runs nothing twice.
        workflow_id: The name under which the run is stored; that of the target when left out.
        reuse: A run whose recorded rollouts are used where they fit.
        memory_store: What the LangGraph `Store` of a rollout holds: nothing ("fresh"), what other
            rollouts left ("shared"), or a copy of what the graph's own held ("seeded").
        accept_drift: Go on although the target's code has changed since the run, or the one to
            `reuse`, was started.
        settings: The operator's settings; those of the environment when left out.
        on_event: A plain function that hears of the progress.

    Returns:
        The report: scores by evaluator, coverage, latency, usage, and every case.

    Raises:
        BadInput: The job cannot run.
        RunFailed: The run broke; submit its `run_id` again.

    Example:
        >>> import asyncio
        >>> from orcheo_agentensor import aevaluate
        >>> async def shout(inputs):
        ...     return inputs.upper()
        >>> dataset = [{"inputs": "hi", "expected_output": "HI"}]
        >>> asyncio.run(aevaluate(shout, dataset=dataset, evaluators=["exact_match"])).objective
        1.0
    """
    check_arguments("aevaluate", locals())
    from orcheo_agentensor.storage import Store

    opened = store if isinstance(store, Store) else Store.from_url(store)
    try:
        plain, live = split_live(
            target=target,
            dataset=dataset,
            evaluators=[*_listed(evaluators), *map(_for_all_cases, summary_evaluators)],
            config=config,
        )
        job = {
            **plain,
            "prompts": prompts_to_json(as_prompts(prompts)) or None,
            "limits": as_data(limits),
            "min_coverage": min_coverage,
            "replicates": replicates,
            "workflow_id": workflow_id,
            "reuse": reuse,
            "memory_store": memory_store,
            "accept_drift": accept_drift,
        }
        measured: dict[str, Sequence[CaseResult]] = {}
        graph = create_evaluation_graph(
            **live,
            context=context,
            store=opened,
            settings=settings,
            on_results=measured.__setitem__,
        )
        run_id = run_id or uuid.uuid4().hex
        found = await drive(graph, job, store=opened, run_id=run_id, on_event=on_event)
        require_result(found, run_id)
        return EvaluationReport(
            run_id=run_id,
            status=found["status"],
            summary=found["summary"],
            usage=Usage.from_json(found["usage"]),
            cases=tuple(measured.get(run_id) or await stored_cases(opened, run_id)),
        )
    finally:
        if opened is not store:
            await opened.close()


def evaluate(
    target: Target,
    *,
    dataset: DatasetLike,
    evaluators: Sequence[EvaluatorLike] | EvaluatorLike,
    summary_evaluators: Sequence[EvaluatorLike] = (),
    prompts: PromptsLike | None = None,
    config: Mapping[str, Any] | None = None,
    context: Any = None,
    limits: Limits | Mapping[str, Any] | None = None,
    min_coverage: float = 1.0,
    replicates: int = 1,
    store: Store | str | None = None,
    run_id: str | None = None,
    workflow_id: str | None = None,
    reuse: str | None = None,
    memory_store: Literal["fresh", "shared", "seeded"] = "fresh",
    accept_drift: bool = False,
    settings: Settings | None = None,
    on_event: EventWriter = discard,
) -> EvaluationReport:
    """`aevaluate` for sync code, with the same arguments and errors; works in notebooks, too.

    Example:
        >>> from orcheo_agentensor import evaluate
        >>> report = evaluate(
        ...     lambda inputs: inputs["text"].upper(),
        ...     dataset=[{"id": "a", "inputs": {"text": "hi"}, "expected_output": "HI"}],
        ...     evaluators=["exact_match"],
        ... )
        >>> report.objective
        1.0
    """
    check_arguments("evaluate", locals())
    return run_sync(
        aevaluate(
            target,
            dataset=dataset,
            evaluators=evaluators,
            summary_evaluators=summary_evaluators,
            prompts=prompts,
            config=config,
            context=context,
            limits=limits,
            min_coverage=min_coverage,
            replicates=replicates,
            store=store,
            run_id=run_id,
            workflow_id=workflow_id,
            reuse=reuse,
            memory_store=memory_store,
            accept_drift=accept_drift,
            settings=settings,
            on_event=on_event,
        )
    )


async def stored_cases(store: Store, run_id: str) -> list[CaseResult]:
    """The cases of a finished evaluation from the store, in dataset order."""
    record = await store.runs.get(run_id)
    _metadata, cases = await store.datasets.load(str(record.dataset_id), record.dataset_version)
    rows = await store.runs.case_rows(run_id, phase="evaluation", limit=None)
    by_id: dict[str, list[CaseRow]] = {}
    for row in rows:  # in order of replicates
        by_id.setdefault(row.rollout.case_id, []).append(row)
    return settled(
        merged([stored_case(case, row) for row in by_id[case.id]], {})
        for case in Dataset.from_cases(cases).cases
        if case.id in by_id
    )


def stored_case(case: Case, row: CaseRow) -> CaseResult:
    """A stored case as the `CaseResult` it was."""
    usage = Usage.total([row.rollout.usage, *(score.usage for score in row.scores)])
    return case_result(case, row.rollout, map(outcome_of, row.scores), usage, replayed=True)


def _for_all_cases(evaluator: Any) -> Any:
    if isinstance(evaluator, BoundEvaluator):
        return evaluator
    if isinstance(evaluator, str | Mapping):
        named = {"entrypoint": evaluator} if isinstance(evaluator, str) else evaluator
        return {**named, "kind": LangSmithSummary.kind}
    return bind_evaluator(evaluator, kind=LangSmithSummary.kind)


def _listed(evaluators: Any) -> list[Any]:
    return list(evaluators) if isinstance(evaluators, list | tuple) else [evaluators]

"""`atrain` and `train`: the training subgraph as a function call."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from orcheo_agentensor.evaluation import Limits, evaluation_node
from orcheo_agentensor.evaluators.threads import run_sync
from orcheo_agentensor.events import EventWriter, discard
from orcheo_agentensor.prompts import FeedbackRecord, PromptsLike, as_prompts, prompts_to_json
from orcheo_agentensor.runs.arguments import (
    DatasetLike,
    EvaluatorLike,
    OptimizerLike,
    Target,
    check_arguments,
)
from orcheo_agentensor.runs.driver import as_data, drive, require_result, split_live
from orcheo_agentensor.runs.nodes import HostNode, MapInput, MapOutput
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.training.budget import Budget
from orcheo_agentensor.training.graph import create_training_graph
from orcheo_agentensor.training.job import Guardrail, StopCondition
from orcheo_agentensor.training.report import Decision, TrainingResult

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store


async def atrain(
    target: Target,
    *,
    prompts: PromptsLike,
    dataset: DatasetLike,
    evaluators: Sequence[EvaluatorLike] | EvaluatorLike,
    optimizer: OptimizerLike | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
    stop: Sequence[StopCondition | Mapping[str, Any]] | StopCondition = (),
    checkpoint_every: int = 1,
    promote: Literal["auto", "ask", "never"] = "never",
    guardrail: Guardrail | Mapping[str, Any] | None = None,
    publish: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    context: Any = None,
    limits: Limits | Mapping[str, Any] | None = None,
    min_coverage: float = 1.0,
    replicates: int = 1,
    seed: int = 0,
    workflow_id: str | None = None,
    run_id: str | None = None,
    reuse: str | None = None,
    memory_store: Literal["fresh", "shared", "seeded"] = "fresh",
    accept_drift: bool = False,
    store: Store | str | None = None,
    settings: Settings | None = None,
    on_event: EventWriter = discard,
    answer: Any = None,
) -> TrainingResult:
    """Train the `prompts` of `target` on `dataset`; frozen ones stay as they are, to the byte.

    The splits `train`, `validation` and `holdout` of the dataset are used: the search learns from
    the first, chooses on the second, and proves the gain on the third.

    Args:
        target: As for `aevaluate`.
        prompts: Prompt name to text or `TextTensor`; `requires_grad=False` freezes one.
        dataset: As for `aevaluate`, with splits.
        evaluators: One or several, of any known form; their scores are what is maximised.
        optimizer: Such as `Reflective(…)`, the name of one, or a mapping with its name.
        budget: What the run may spend; computed from the split sizes when left out.
        stop: Conditions such as `TargetScore(1.0)`; the first that holds ends the search.
        checkpoint_every: After how many steps a version is stored, beside those at each new best.
        promote: Who moves `production`: "auto" (where the gain is proved), "ask" (a person) or
            "never".
        guardrail: What forbids a promotion by itself.
        publish: The assistant that a promoted version is published to.
        config: The `RunnableConfig` that the target runs with.
        context: The context of a graph that needs live objects there; all rollouts share it.
        limits: Concurrency, timeout and retries.
        min_coverage: The share of cases that must be scored for the run to count.
        replicates: How often each case is run and judged, where results are noisy.
        seed: The same seed, data and target give the same search.
        workflow_id: The name under which versions are stored; that of the target when left out.
        run_id: Submitting one again resumes that run and repeats no recorded call.
        reuse: A run whose recorded rollouts are used where they fit.
        memory_store: As for `aevaluate`.
        accept_drift: As for `aevaluate`.
        store: A `Store`, a database URL, or None for memory.
        settings: The operator's settings; those of the environment when left out.
        on_event: A plain function that hears of the progress.
        answer: To a run that is `awaiting_approval`, with its `run_id`:
            `{"approve": True, "actor": …, "reason": …}`.

    Returns:
        The result: baseline and best as stored versions, the proof on holdout, and the decision.

    Raises:
        BadInput: The job cannot run; a budget that is too small is such a job.
        RunFailed: The run broke; submit its `run_id` again.

    Example:
        >>> import asyncio
        >>> from orcheo_agentensor import Reflective, atrain, get_prompt
        >>> class Yes:
        ...     async def propose(self, request):
        ...         return {component.name: "yes" for component in request.components}
        >>> async def main():
        ...     return await atrain(
        ...         lambda inputs: get_prompt("answer"),
        ...         prompts={"answer": "no"},
        ...         dataset=[{"inputs": "?", "expected_output": "yes"}],
        ...         evaluators=["exact_match"],
        ...         optimizer=Reflective(proposer=Yes()),
        ...     )
        >>> asyncio.run(main()).best.prompts["answer"].text
        'yes'
    """
    check_arguments("atrain", locals())
    from orcheo_agentensor.storage import Store

    opened = store if isinstance(store, Store) else Store.from_url(store)
    try:
        listed = list(evaluators) if isinstance(evaluators, list | tuple) else [evaluators]
        plain, live = split_live(
            target=target, dataset=dataset, evaluators=listed, config=config, optimizer=optimizer
        )
        job: dict[str, Any] = {
            **plain,
            "prompts": prompts_to_json(as_prompts(prompts)),
            "budget": as_data(budget),
            "stop": _plain_stops(stop),
            "checkpoint_every": checkpoint_every,
            "promote": promote,
            "guardrail": as_data(guardrail),
            "publish": publish,
            "limits": as_data(limits),
            "min_coverage": min_coverage,
            "replicates": replicates,
            "seed": seed,
            "workflow_id": workflow_id,
            "reuse": reuse,
            "memory_store": memory_store,
            "accept_drift": accept_drift,
        }
        graph = create_training_graph(**live, context=context, store=opened, settings=settings)
        run_id = run_id or uuid.uuid4().hex
        found = await drive(
            graph, job, store=opened, run_id=run_id, on_event=on_event, answer=answer
        )
        require_result(found, run_id)
        return await read_result(opened, run_id, found)
    finally:
        if opened is not store:
            await opened.close()


def _plain_stops(stop: Any) -> list[Any]:
    conditions = [stop] if isinstance(stop, BaseModel | Mapping) else list(stop)
    return [as_data(condition) for condition in conditions]


def train(
    target: Target,
    *,
    prompts: PromptsLike,
    dataset: DatasetLike,
    evaluators: Sequence[EvaluatorLike] | EvaluatorLike,
    optimizer: OptimizerLike | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
    stop: Sequence[StopCondition | Mapping[str, Any]] | StopCondition = (),
    checkpoint_every: int = 1,
    promote: Literal["auto", "ask", "never"] = "never",
    guardrail: Guardrail | Mapping[str, Any] | None = None,
    publish: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    context: Any = None,
    limits: Limits | Mapping[str, Any] | None = None,
    min_coverage: float = 1.0,
    replicates: int = 1,
    seed: int = 0,
    workflow_id: str | None = None,
    run_id: str | None = None,
    reuse: str | None = None,
    memory_store: Literal["fresh", "shared", "seeded"] = "fresh",
    accept_drift: bool = False,
    store: Store | str | None = None,
    settings: Settings | None = None,
    on_event: EventWriter = discard,
    answer: Any = None,
) -> TrainingResult:
    """`atrain` for sync code, with the same arguments and errors; works in notebooks, too.

    Example:
        >>> from orcheo_agentensor import Reflective, get_prompt, train
        >>> class Yes:
        ...     async def propose(self, request):
        ...         return {component.name: "yes" for component in request.components}
        >>> result = train(
        ...     lambda inputs: get_prompt("answer"),
        ...     prompts={"answer": "no"},
        ...     dataset=[{"inputs": "?", "expected_output": "yes"}],
        ...     evaluators=["exact_match"],
        ...     optimizer=Reflective(proposer=Yes()),
        ... )
        >>> result.best.prompts["answer"].text, result.decision.status
        ('yes', 'kept')
    """
    check_arguments("train", locals())
    return run_sync(
        atrain(
            target,
            prompts=prompts,
            dataset=dataset,
            evaluators=evaluators,
            optimizer=optimizer,
            budget=budget,
            stop=stop,
            checkpoint_every=checkpoint_every,
            promote=promote,
            guardrail=guardrail,
            publish=publish,
            config=config,
            context=context,
            limits=limits,
            min_coverage=min_coverage,
            replicates=replicates,
            seed=seed,
            workflow_id=workflow_id,
            run_id=run_id,
            reuse=reuse,
            memory_store=memory_store,
            accept_drift=accept_drift,
            store=store,
            settings=settings,
            on_event=on_event,
            answer=answer,
        )
    )


async def read_result(store: Store, run_id: str, found: Mapping[str, Any]) -> TrainingResult:
    """The result of a training from the store and the graph's last state."""
    record = await store.runs.get(run_id)
    workflow_id = record.workflow_id
    versions = await store.checkpoints.list(workflow_id, run_id=run_id, limit=None)
    by_version = {version.config_version: version for version in versions}
    best = by_version[found["best"]["config_version"]]
    request = found.get("request") or {}
    decision = found.get("decision") or {
        "status": found["status"],
        "reasons": request.get("reasons", []),
        "stopped": None,
        "target_gain": {},
    }
    return TrainingResult(
        run_id=run_id,
        status=found["status"],
        best=best,
        baseline=by_version[found["baseline"]["config_version"]],
        checkpoints=tuple(sorted(versions, key=lambda version: version.config_version)),
        holdout=found.get("holdout"),
        summary=found.get("summary") or best.metrics,
        decision=Decision(
            status=decision["status"],
            reasons=tuple(decision["reasons"]),
            stopped=decision["stopped"],
            target_gain=decision["target_gain"],
            published=tuple(decision.get("published", ())),
        ),
        usage=await store.runs.usage(run_id),
        gradients={
            name: tuple(FeedbackRecord(**one) for one in taught)
            for name, taught in found["best"].get("gradients", {}).items()
        },
    )


def training_node(
    graph: Any, *, map_input: MapInput | None = None, map_output: MapOutput | None = None
) -> HostNode:
    """A host node that runs a training graph as a subgraph; see `evaluation_node`.

    Args:
        graph: What `create_training_graph` returned, compiled or not.
        map_input: As for `evaluation_node`.
        map_output: As for `evaluation_node`.

    Returns:
        A node, as `StateGraph.add_node` takes it.

    Raises:
        ConfigError: The job has a field that is not known, at the call.

    Example:
        >>> from typing import TypedDict
        >>> from langgraph.graph import START, StateGraph
        >>> from orcheo_agentensor import MaxSteps, TextGrad, create_training_graph, get_prompt
        >>> from orcheo_agentensor import training_node
        >>> class Yes:
        ...     async def propose(self, request):
        ...         return {component.name: "yes" for component in request.components}
        >>> class Release(TypedDict, total=False):
        ...     answer: str
        >>> graph = create_training_graph(
        ...     lambda inputs: get_prompt("answer"),
        ...     dataset=[{"inputs": "?", "expected_output": "yes"}],
        ...     evaluators=["exact_match"],
        ...     optimizer=TextGrad(proposer=Yes()),
        ... )
        >>> host = StateGraph(Release)
        >>> node = training_node(
        ...     graph,
        ...     map_input=lambda state: {
        ...         "prompts": {"answer": state["answer"]},
        ...         "stop": [MaxSteps(1).model_dump()],
        ...     },
        ...     map_output=lambda found: {"answer": found["best"]["prompts"]["answer"]["text"]},
        ... )
        >>> host.add_node("train", node).add_edge(START, "train").compile().invoke({"answer": "no"})
        {'answer': 'yes'}
    """
    return evaluation_node(graph, map_input=map_input, map_output=map_output)

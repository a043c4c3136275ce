"""`TrainingResult`: what a training found, typed, and as tables for people."""

from __future__ import annotations

import html
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import BaseModel

from orcheo_agentensor.display import (
    Row,
    clean,
    compared,
    html_table,
    interval,
    milliseconds,
    p_equals,
    rich_table,
)
from orcheo_agentensor.errors import BadInput
from orcheo_agentensor.evaluation.api import listed, measures
from orcheo_agentensor.evaluators.threads import run_sync
from orcheo_agentensor.events import EventWriter, discard
from orcheo_agentensor.prompts import (
    SHOWN_FIELDS,
    FeedbackRecord,
    PromptsLike,
    as_prompts,
    prompts_to_json,
)
from orcheo_agentensor.runs.arguments import (
    DatasetLike,
    EvaluatorLike,
    OptimizerLike,
    Target,
    check_arguments,
    name_call,
)
from orcheo_agentensor.runs.front import as_data, require_result, split_live
from orcheo_agentensor.runs.job import Limits
from orcheo_agentensor.runs.manifest import stored_manifest
from orcheo_agentensor.runs.nodes import (
    HostNode,
    MapInput,
    MapOutput,
    drive,
    evaluation_node,
)
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.training.budget import Budget
from orcheo_agentensor.training.decision import prompt_diff
from orcheo_agentensor.training.graph import create_training_graph
from orcheo_agentensor.training.job import Goal, Guardrail, StopCondition
from orcheo_agentensor.training.objective import Objective, front_lines
from orcheo_agentensor.usage import Usage

if TYPE_CHECKING:
    from orcheo_agentensor.storage import ConfigCheckpoint, Store


DecisionStatus: TypeAlias = Literal["promoted", "kept", "rejected", "awaiting_approval"]
TrainingStatus: TypeAlias = Literal["finished", "missed_threshold", "awaiting_approval"]
"""`awaiting_approval`: a person has to answer; `missed_threshold`: see `summary["missed"]`."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What follows from a training, with the reasons.

    Args:
        status: "promoted", "kept", "rejected" or "awaiting_approval".
        reasons: Why, in sentences.
        stopped: Why the search ended.
        target_gain: Whether the mean on validation rose by the share aimed for, and `by_split`.
        published: Where the promoted version was published to.
        objective: What the job's objective came to: the measures that it limits, and the front of
            the validated candidates; empty where the job states none.
        cross_validation: The gain over the folds, with its interval; empty without any.

    Example:
        >>> from orcheo_agentensor import MaxSteps, TextGrad, get_prompt, train
        >>> class Yes:
        ...     async def propose(self, request):
        ...         return {component.name: "yes" for component in request.components}
        >>> result = train(
        ...     lambda inputs: get_prompt("answer"),
        ...     prompts={"answer": "no"},
        ...     dataset=[{"inputs": "?", "expected_output": "yes"}],
        ...     evaluators=["exact_match"],
        ...     optimizer=TextGrad(proposer=Yes()),
        ...     stop=[MaxSteps(1)],
        ... )
        >>> result.decision.status, result.decision.reasons
        ('kept', ('the dataset has no holdout split: the gain is unproved',))
    """

    status: DecisionStatus
    reasons: tuple[str, ...]
    stopped: str | None
    target_gain: dict[str, Any]
    published: tuple[dict[str, Any], ...] = ()
    objective: dict[str, Any] = field(default_factory=dict)
    cross_validation: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a training found.

    Args:
        run_id: The run.
        status: "finished", "awaiting_approval", or "missed_threshold" where too few cases were
            scored.
        best: A stored version with its validation metrics; `baseline` where nothing was better.
        baseline: The version of the prompts that the search started from.
        checkpoints: All versions of the run, oldest first.
        holdout: The paired comparison on cases the search never saw; None where the dataset has
            none.
        summary: The summary of `best` on the validation cases.
        decision: What follows from it, with the reasons.
        usage: What was spent.
        gradients: What the last trial that began at `best` learnt about its prompts: the worst few,
            without inputs and outputs; empty where no trial began there.
        manifest: What the run was made of, as JSON (`docs/reference/manifest.md`).

    Example:
        >>> from orcheo_agentensor import MaxSteps, TextGrad, get_prompt, train
        >>> class Yes:
        ...     async def propose(self, request):
        ...         return {component.name: "yes" for component in request.components}
        >>> result = train(
        ...     lambda inputs: get_prompt("answer"),
        ...     prompts={"answer": "no"},
        ...     dataset=[{"inputs": "?", "expected_output": "yes"}],
        ...     evaluators=["exact_match"],
        ...     optimizer=TextGrad(proposer=Yes()),
        ...     stop=[MaxSteps(1)],
        ... )
        >>> result.baseline.metrics["objective"], result.best.metrics["objective"]
        (0.0, 1.0)
        >>> print(result.diff)
        --- answer (before)
        +++ answer (after)
        @@ -1 +1 @@
        -no
        +yes
    """

    run_id: str
    status: TrainingStatus
    best: ConfigCheckpoint
    baseline: ConfigCheckpoint
    checkpoints: tuple[ConfigCheckpoint, ...]
    holdout: dict[str, Any] | None
    summary: dict[str, Any]
    decision: Decision
    usage: Usage
    gradients: Mapping[str, tuple[FeedbackRecord, ...]] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def diff(self) -> str:
        """The prompts of `best` against those of `baseline`, as a unified diff."""
        before, after = (
            {name: tensor.text for name, tensor in version.prompts.items()}
            for version in (self.baseline, self.best)
        )
        return prompt_diff(before, after)

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON."""
        return {
            "run_id": self.run_id,
            "status": self.status,
            "best": self.best.model_dump(mode="json"),
            "baseline": self.baseline.model_dump(mode="json"),
            "checkpoints": [version.model_dump(mode="json") for version in self.checkpoints],
            "holdout": self.holdout,
            "summary": self.summary,
            "decision": {
                **asdict(self.decision),
                "reasons": list(self.decision.reasons),
                "published": list(self.decision.published),
            },
            "usage": self.usage.to_json(),
            "manifest": dict(self.manifest),
            "gradients": {
                name: [{key: getattr(one, key) for key in SHOWN_FIELDS} for one in found]
                for name, found in self.gradients.items()
            },
        }

    def print(self, *, file: IO[str] | None = None) -> None:
        """Print baseline and best, the proof, the decision and the diff of the prompts."""
        from rich.console import Console

        console = Console(file=file)
        console.print(rich_table(COMPARISON_COLUMNS, self._rows()))
        for line in self._lines():
            console.print(clean(line), markup=False, highlight=False)

    def _repr_html_(self) -> str:
        """The result in a notebook."""
        text = html.escape("\n".join(self._lines()))
        return f"{html_table(COMPARISON_COLUMNS, self._rows())}<pre>{text}</pre>"

    def _rows(self) -> list[Row]:
        shown = [
            {
                "config_version": version.config_version,
                "objective": version.metrics["objective"],
                "scores": {
                    name: entry["mean"] for name, entry in version.metrics["evaluators"].items()
                },
            }
            for version in (self.baseline, self.best)
        ]
        return comparison_table(shown[0], shown[1], self.holdout)

    def _lines(self) -> list[str]:
        return [
            gain_sentence(self.holdout),
            *measures(self.summary, self.usage.to_json()),
            f"decision: {self.decision.status}",
            *(f"  - {reason}" for reason in self.decision.reasons),
            *front_lines(self.decision.objective),
            *([self.diff] if self.diff else []),
        ]


COMPARISON_COLUMNS = ("", ">baseline", ">best", ">change", ">95 % interval")
"""Heads of the table of baseline and best; `>` marks a column of numbers."""


def comparison_table(
    baseline: Mapping[str, Any], best: Mapping[str, Any], holdout: Mapping[str, Any] | None
) -> list[Row]:
    """Baseline beside best: on validation, on holdout, and what a case takes.

    Both are mappings with `config_version`, `objective` and `scores` (means by evaluator).
    """
    names = sorted({*baseline["scores"], *best["scores"]})
    rows: list[Row] = [
        ("version", baseline["config_version"], best["config_version"], "", ""),
        ("validation", *compared(baseline["objective"], best["objective"]), ""),
    ]
    if len(names) > 1:
        rows += [
            (f"  {name}", *compared(baseline["scores"].get(name), best["scores"].get(name)), "")
            for name in names
        ]
    if holdout is not None:
        before, after = holdout["baseline"], holdout["best"]
        change = compared(before["objective"], after["objective"])
        rows.append(("holdout", *change, interval(holdout["ci95"])))
        if len(names) > 1:
            rows += [
                (f"  {name}", *compared(_mean(before, name), _mean(after, name)), "")
                for name in names
            ]
        p95 = (milliseconds(side["latency_ms"]["p95"]) for side in (before, after))
        rows.append(("holdout p95", *p95, "", ""))
        rows += _costs(holdout.get("deltas") or {})
    return rows


def _costs(deltas: Mapping[str, Any]) -> Iterator[Row]:
    """What a holdout case takes: time, tokens and money."""
    shown = {"latency_ms": milliseconds, "tokens": "{:.0f}".format, "cost": "${:.2g}".format}
    for name, text in shown.items():
        found = deltas.get(name) or {}
        change = found.get("difference")
        if change is None or (name != "latency_ms" and not (found["baseline"] or found["best"])):
            continue
        ends = [_signed(end, text, plus="") for end in found.get("ci95") or ()]
        yield (
            f"holdout {name.removesuffix('_ms')} per case",
            text(found["baseline"]),
            text(found["best"]),
            _signed(change, text, plus="+"),
            f"[{', '.join(ends)}]" if ends else "",
        )


def _signed(value: float, text: Any, *, plus: str) -> str:
    return f"{'-' if value < 0 else plus}{text(abs(value))}"


def gain_sentence(holdout: Mapping[str, Any] | None) -> str:
    """The gain on held-out cases."""
    if holdout is None:
        return "nothing was measured on held-out cases: the gain is unproved"
    return (
        f"holdout gain {holdout['gain']:+.4f} {interval(holdout['ci95'])} "
        f"on {holdout['n']} cases, {p_equals(holdout['p_value'])}"
    )


def _mean(summary: Mapping[str, Any], name: str) -> float | None:
    found: float | None = summary["evaluators"].get(name, {}).get("mean")
    return found


async def atrain(
    target: Target,
    *,
    prompts: PromptsLike | None = None,
    dataset: DatasetLike,
    evaluators: Sequence[EvaluatorLike] | EvaluatorLike,
    optimizer: OptimizerLike | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
    stop: Sequence[StopCondition | Mapping[str, Any]] | StopCondition = (),
    checkpoint_every: int | Literal["none"] | None = None,
    steps_per_node: int = 1,
    promote: Literal["auto", "ask", "never"] = "never",
    guardrail: Guardrail | Mapping[str, Any] | None = None,
    goal: Goal | Mapping[str, Any] | None = None,
    objective: Objective | Mapping[str, Any] | None = None,
    exclude_nodes: Sequence[str] = (),
    task: str | None = None,
    cross_validation: int | None = None,
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
    cache: bool = False,
    memory_store: Literal["fresh", "shared", "seeded"] = "fresh",
    accept_drift: bool = False,
    retry_failed: bool = False,
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
        prompts: Prompt name to text, `TextTensor` or `ContentTensor`; `requires_grad=False` freezes
            one. Left out, those that the graph holds: fields of our nodes and `TrainablePrompt`s
            with a text, and fields of its context that are marked `langgraph_type: "prompt"`.
        dataset: As for `aevaluate`, with splits.
        evaluators: One or several, of any known form; their scores are what is maximised.
        optimizer: Such as `Reflective(…)`, the name of one, or a mapping with its name.
        budget: What the run may spend; computed from the split sizes when left out.
        stop: Conditions such as `TargetScore(1.0)`; the first that holds ends the search.
        checkpoint_every: After so many steps what the search stands at is validated, out of the
            budget, and stored; None stores only the baseline and each new best.
        steps_per_node: Optimizer steps in one execution of the graph's node `step`.
        promote: Who moves `production`: "auto" (where the gain is proved), "ask" (a person) or
            "never".
        guardrail: What forbids a promotion by itself.
        goal: The gain to aim at, and the splits on which it must be met.
        objective: The best score within limits, such as `{"cost": "<= 1.1x"}`.
        exclude_nodes: Nodes in which no prompt is to blame; one read only there is not trained.
        task: What the workflow is for, in words; the proposer is shown it, with the dataset's
            metadata.
        cross_validation: Where cases are few: so many trainings beside this one, each without one
            fold of the training and validation cases, tell in `decision.cross_validation` what such
            a training gains on cases that it has not seen. The budget is shared evenly.
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
        cache: As for `aevaluate`.
        memory_store: As for `aevaluate`.
        accept_drift: As for `aevaluate`.
        retry_failed: As for `aevaluate`; the decision follows, and what is tried again has its
            budget back.
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
        plain, live = split_live(
            target=target,
            dataset=dataset,
            evaluators=listed(evaluators),
            config=config,
            optimizer=optimizer,
        )
        named = await opened.media.kept(as_prompts(prompts))
        # A model that is an object stays in this process.
        kept = any(tensor.model and not isinstance(tensor.model, str) for tensor in named.values())
        live["prompts"] = named
        job: dict[str, Any] = {
            **plain,
            "prompts": None if kept or not named else prompts_to_json(named),
            "budget": as_data(budget),
            "stop": _plain_stops(stop),
            "checkpoint_every": checkpoint_every,
            "steps_per_node": steps_per_node,
            "promote": promote,
            "guardrail": as_data(guardrail),
            "goal": as_data(goal),
            "objective": as_data(objective),
            "exclude_nodes": list(exclude_nodes),
            "task": task,
            "cross_validation": cross_validation,
            "publish": publish,
            "limits": as_data(limits),
            "min_coverage": min_coverage,
            "replicates": replicates,
            "seed": seed,
            "workflow_id": workflow_id,
            "reuse": reuse,
            "cache": cache,
            "memory_store": memory_store,
            "accept_drift": accept_drift,
            "retry_failed": retry_failed,
        }
        graph = create_training_graph(**live, context=context, store=opened, settings=settings)
        run_id = run_id or uuid.uuid4().hex
        found = await drive(
            graph, job, store=opened, run_id=run_id, on_event=on_event, answer=answer
        )
        require_result(found, run_id)
        return await read_result(opened, run_id, found)
    except BadInput as error:
        name_call("atrain", error)
        raise
    finally:
        if opened is not store:
            await opened.close()


def _plain_stops(stop: Any) -> list[Any]:
    conditions = [stop] if isinstance(stop, BaseModel | Mapping) else list(stop)
    return [as_data(condition) for condition in conditions]


def train(
    target: Target,
    *,
    prompts: PromptsLike | None = None,
    dataset: DatasetLike,
    evaluators: Sequence[EvaluatorLike] | EvaluatorLike,
    optimizer: OptimizerLike | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
    stop: Sequence[StopCondition | Mapping[str, Any]] | StopCondition = (),
    checkpoint_every: int | Literal["none"] | None = None,
    steps_per_node: int = 1,
    promote: Literal["auto", "ask", "never"] = "never",
    guardrail: Guardrail | Mapping[str, Any] | None = None,
    goal: Goal | Mapping[str, Any] | None = None,
    objective: Objective | Mapping[str, Any] | None = None,
    exclude_nodes: Sequence[str] = (),
    task: str | None = None,
    cross_validation: int | None = None,
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
    cache: bool = False,
    memory_store: Literal["fresh", "shared", "seeded"] = "fresh",
    accept_drift: bool = False,
    retry_failed: bool = False,
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
    try:
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
                steps_per_node=steps_per_node,
                promote=promote,
                guardrail=guardrail,
                goal=goal,
                objective=objective,
                exclude_nodes=exclude_nodes,
                task=task,
                cross_validation=cross_validation,
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
                cache=cache,
                memory_store=memory_store,
                accept_drift=accept_drift,
                retry_failed=retry_failed,
                store=store,
                settings=settings,
                on_event=on_event,
                answer=answer,
            )
        )
    except BadInput as error:
        name_call("train", error)
        raise


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
            objective=decision.get("objective", {}),
            cross_validation=decision.get("cross_validation", {}),
        ),
        usage=await store.runs.usage(run_id),
        gradients={
            name: tuple(FeedbackRecord(**one) for one in taught)
            for name, taught in found["best"].get("gradients", {}).items()
        },
        manifest=await stored_manifest(store, run_id),
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

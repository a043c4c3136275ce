"""The training subgraph:
START -> prepare -> baseline -> step <-> checkpoint -> holdout -> decide -> END."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

from langgraph.graph import END, START
from langgraph.types import Command, interrupt

from orcheo_agentensor.errors import RunFailed, shorten
from orcheo_agentensor.evaluation.graph import missed_by
from orcheo_agentensor.evaluation.runner import Runner
from orcheo_agentensor.identity import identity_of_run
from orcheo_agentensor.publishing import require_publishable
from orcheo_agentensor.runs.manager import CheckedJob, Given, RunManager
from orcheo_agentensor.runs.nodes import JobGraph, emptied
from orcheo_agentensor.settings import Settings, read_settings
from orcheo_agentensor.storage.records import RETRIED
from orcheo_agentensor.training import decision, search
from orcheo_agentensor.training.active import Training
from orcheo_agentensor.training.budget import ASKED, BudgetMeter
from orcheo_agentensor.training.job import TrainingJob, make_plan
from orcheo_agentensor.training.state import (
    CandidateStore,
    SearchState,
    TrainingOutput,
    TrainingState,
)

log = logging.getLogger(__name__)


def create_training_graph(
    target: Any = None,
    *,
    dataset: Any = None,
    evaluators: Sequence[Any] | None = None,
    prompts: Any = None,
    config: Any = None,
    optimizer: Any = None,
    context: Any = None,
    store: Any = None,
    settings: Settings | None = None,
    new_run_id: Callable[[], str] = lambda: uuid.uuid4().hex,
) -> JobGraph[TrainingState, TrainingJob, TrainingOutput]:
    """The training subgraph, uncompiled: compile it, or add it to a host with `training_node`.

    Its input is a `TrainingJob`; whatever is given here, the job may leave out. Its output is a
    `TrainingOutput`. Progress leaves through the custom stream. With `promote: ask` the graph
    pauses by `interrupt()` before it ends; compile it with a checkpointer for that.

    Args:
        target: As for `atrain`.
        dataset: As for `atrain`.
        evaluators: As for `atrain`.
        prompts: As for `atrain`.
        config: As for `atrain`.
        optimizer: As for `atrain`.
        context: A live object for the graph's context.
        store: A `Store`, a database URL, or None for a store in memory.
        settings: The operator's settings; those of the environment when left out.
        new_run_id: Names runs whose job does not.

    Returns:
        A `StateGraph`.

    Example:
        >>> from orcheo_agentensor import TextGrad, create_training_graph, get_prompt
        >>> class Yes:
        ...     async def propose(self, request):
        ...         return {component.name: "yes" for component in request.components}
        >>> graph = create_training_graph(
        ...     lambda inputs: get_prompt("answer"),
        ...     evaluators=["exact_match"],
        ...     optimizer=TextGrad(proposer=Yes()),
        ... ).compile()
        >>> job = {
        ...     "prompts": {"answer": "no"},
        ...     "dataset": [{"inputs": "?", "expected_output": "yes"}],
        ...     "stop": [{"type": "max_steps", "steps": 1}],
        ... }
        >>> graph.invoke(job)["best"]["prompts"]["answer"]["text"]
        'yes'
    """
    from orcheo_agentensor.storage import Store

    settings = settings or read_settings()

    async def require_publishing(checked: CheckedJob[TrainingJob]) -> None:
        """Refuse a place to publish to that cannot work, before anything is paid for."""
        if checked.plan.publish is not None:
            try:
                await require_publishable(checked.plan.publish, checked.prompts, settings=settings)
            except RunFailed as away:  # it may be back once there is a version to publish
                log.warning("%s; the training goes on", away.message)

    manager = RunManager(
        TrainingJob,
        mode="train",
        given=Given(
            target=target,
            dataset=dataset,
            evaluators=evaluators,
            prompts=prompts,
            config=config,
            context=context,
            optimizer=optimizer,
        ),
        store=store if isinstance(store, Store) else Store.from_url(store),
        settings=settings,
        new_run_id=new_run_id,
        make_plan=lambda job, cases, tensors: make_plan(
            job, cases, tensors, optimizer=optimizer, settings=settings
        ),
        require=require_publishing,
    )
    known: dict[str, tuple[int, SearchState, CandidateStore]] = {}

    @asynccontextmanager
    async def opened(run_id: str, *, running: bool = True) -> AsyncIterator[Training]:
        async with manager.open(run_id, running=running) as run:
            meter = BudgetMeter(
                run.plan.budget,
                spent=await run.ledger.usage(without=RETRIED),  # which has its budget back
                asked=await run.ledger.usage(*ASKED),
                clock=run.store.clock,
            )
            token, search_state, candidates = known.pop(
                run_id, (-1, SearchState(), CandidateStore({}))
            )
            if run.lease.token != token + 1:  # this process has not done what came last
                candidates = await CandidateStore(run.prompts).load(run)
                search_state = await SearchState.load(run)
            training = Training(
                run=run,
                runner=Runner(run, meter=meter, taped=True),
                plan=run.plan,
                meter=meter,
                state=search_state,
                candidates=candidates,
            )
            await training.open_budget()
            yield training
            known[run_id] = run.lease.token, training.state, candidates

    async def prepare(state: TrainingState) -> Command[str]:
        """Check the job, store its dataset, make the run record."""
        caller = identity_of_run()
        caller.require("train")
        if state.get("promote") == "auto":
            caller.require("promote")
        checked = await manager.record({k: state.get(k) for k in TrainingJob.model_fields})
        run = checked.record
        update = emptied(state, TrainingJob, TrainingOutput)
        update |= {"run_id": run.run_id, "workflow_id": run.workflow_id, "dataset": run.dataset}
        if run.status == "finished" and run.result is not None:
            manager.forget(run.run_id)
            return Command(update=update | run.result, goto=END)
        return Command(update=update | {"status": "running"}, goto="baseline")

    async def baseline(state: TrainingState) -> dict[str, Any]:
        """Begin at the prompts of the job; they are measured as far as the search needs it."""
        async with opened(state["run_id"]) as training:
            _announce(training)
            await search.follow_retry(training)
            if not training.state.baseline:
                training.state = await search.begin(training)
            return _mirror(training)

    async def step(state: TrainingState) -> dict[str, Any]:
        """Optimizer steps until a checkpoint is due; after a resume, from the stored state on."""
        async with opened(state["run_id"]) as training:
            await search.take_steps(training)
            return _mirror(training)

    async def checkpoint(state: TrainingState) -> dict[str, Any]:
        """Store what is due as versions."""
        async with opened(state["run_id"]) as training:
            await search.store_versions(training)
            return _mirror(training)

    async def holdout(state: TrainingState) -> dict[str, Any]:
        """Measure baseline and best on cases the search never saw."""
        async with opened(state["run_id"]) as training:
            return {
                "holdout": await decision.measure_holdout(training),
                "baseline": await search.version_record(training, training.state.baseline),
                "best": await search.version_record(training, training.state.best),
            }

    async def decide(state: TrainingState) -> dict[str, Any]:
        """Promote, keep or reject the best version, or ask a person; end the run."""
        run_id, found, caller = state["run_id"], state.get("holdout"), identity_of_run()
        async with opened(run_id, running=False) as training:
            run = training.run
            summary = await search.validate(training, training.candidates[training.state.best])
            status, reasons = decision.assess(training, found, summary)
            if not summary["n_ok"] and summary.get("warnings") and not training.state.blocked:
                reasons = summary["warnings"][:1]
            measured = [state["baseline"]["objective"], state["best"]["objective"]]
            goals = await decision.goals_of(training, found, validation=measured)
            missed = decision.goals_missed(run.job.goal, goals)
            if missed and status == "eligible":
                status = "kept"
            reasons = [*reasons, *missed]
            actor, why = f"run {run_id}", "; ".join(reasons)
            if run.job.promote == "ask" and state["best"] != state["baseline"]:
                request = decision.approval_request(training, status, reasons, found)
                if (await run.store.runs.get(run_id)).status != "paused":  # or it is asked again
                    await run.update(status="paused")
                    run.events.emit("decision", status="awaiting_approval", reasons=reasons)
                answer = decision.read_answer(given := interrupt(request))
                while answer is None:
                    rule = "is no answer: give {'approve': True or False, 'actor': …, 'reason': …}"
                    problem = f"{shorten(given)} {rule}"
                    answer = decision.read_answer(
                        given := interrupt({**request, "problem": problem})
                    )
                approved, actor, why = answer
                actor = caller.name or actor
                reasons = [*reasons, f"{'approved' if approved else 'declined'} by {actor}: {why}"]
                status = "eligible" if approved else "kept"
            elif status == "eligible" and run.job.promote != "auto":
                status = "kept"
                reasons = [*reasons, f"promotion is {run.job.promote!r}: promote it by hand"]
            if status == "eligible":
                caller.require("promote")
                status, moved = await decision.promote(training, actor=actor, reason=why)
                reasons = [*reasons, *moved]
            published: list[dict[str, Any]] = []
            if status == "promoted":
                published, told = await decision.publish(
                    training, actor=actor, reason=why, settings=settings
                )
                reasons = [*reasons, *told]
            outcome: dict[str, Any] = {
                "status": status,
                "reasons": reasons,
                "stopped": training.state.stopped,
                "target_gain": {"split": "validation", **goals["validation"], "by_split": goals},
            }
            if published:
                outcome["published"] = published
            result = await _finish(training, state, outcome, missed)
        manager.forget(run_id)
        known.pop(run_id, None)
        return result

    graph = JobGraph(TrainingState, input_schema=TrainingJob, output_schema=TrainingOutput)
    graph.check_job, graph.secrets, graph.pauses = manager.check, manager.secrets, True
    graph.add_node("prepare", prepare, destinations=("baseline", END), input_schema=TrainingState)
    graph.add_node("baseline", baseline)
    graph.add_node("step", step)
    graph.add_node("checkpoint", checkpoint)
    graph.add_node("holdout", holdout)
    graph.add_node("decide", decide)
    graph.add_edge(START, "prepare")
    for node in ("baseline", "step", "checkpoint"):
        graph.add_conditional_edges(node, _next, ["step", "checkpoint", "holdout"])
    graph.add_edge("holdout", "decide")
    graph.add_edge("decide", END)
    return graph


def _next(state: TrainingState) -> Literal["step", "checkpoint", "holdout"]:
    if state["status"] != "running":  # it has ended already: the nodes to come say the same
        return "holdout"
    if state.get("checkpoint_due"):
        return "checkpoint"
    return "holdout" if state.get("stopped") else "step"


def _mirror(training: Training) -> dict[str, Any]:
    """What the graph's state shows of the search state."""
    known = training.state
    best = training.candidates[known.best]
    return {
        "prompts": {name: tensor.to_json() for name, tensor in best.prompts.items()},
        "step": known.step,
        "epoch": known.epoch,
        "objective": known.objective,
        "checkpoint_due": bool(known.due),
        "stopped": known.stopped if known.settled else None,
    }


def _announce(training: Training) -> None:
    plan, run = training.plan, training.run
    run.events.emit(
        "run_started",
        mode="train",
        workflow_id=run.record.workflow_id,
        target=run.target.name,
        optimizer=plan.optimizer.name,
        prompts=list(plan.trainable),
        templates=dict(plan.templates),
        evaluators=[evaluator.name for evaluator in run.evaluators],
        bindings=run.bindings,
        splits=plan.counts,
        budget={**plan.budget.model_dump(), "computed": not plan.budget_given},
    )
    for warning in run.warnings:
        run.events.emit("warning", message=warning)


async def _finish(
    training: Training, state: TrainingState, decision: dict[str, Any], missed: list[str]
) -> dict[str, Any]:
    run = training.run
    known = training.state
    summary = await search.validate(training, training.candidates[known.best])
    usage = (await run.ledger.usage()).to_json()
    summary |= missed_by(run, summary, *missed)
    result: dict[str, Any] = {
        "status": "missed_threshold" if "missed" in summary else "finished",
        "summary": summary,
        "baseline": state["baseline"],
        "best": state["best"],
        "holdout": state.get("holdout"),
        "decision": decision,
        "usage": usage,
    }
    for warning in summary.get("warnings", ()):
        if warning != known.blocked:
            run.events.emit("warning", message=warning)
    if run.warnings:  # which were told at the start
        summary["warnings"] = [*run.warnings, *summary.get("warnings", ())]
    run.events.emit("decision", **decision)
    await run.update(status="finished", result=result, usage=usage, ended_at=run.store.clock())
    run.events.emit("run_finished", status=result["status"], decision=decision["status"])
    return result

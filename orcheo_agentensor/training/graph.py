"""The training subgraph:
START -> prepare -> baseline -> step <-> checkpoint -> holdout -> decide -> END.

A cross-validation makes its trainings between `prepare` and `baseline`, in the node `folds`."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

from langgraph.config import get_stream_writer
from langgraph.graph import END, START
from langgraph.types import Command, interrupt

from orcheo_agentensor.errors import ConfigError, RunFailed, shorten
from orcheo_agentensor.evaluation.results import MANY_RETRIES, many_retries
from orcheo_agentensor.evaluation.runner import Runner
from orcheo_agentensor.evaluation.work import add_blocks, missed_by
from orcheo_agentensor.events import EventSink
from orcheo_agentensor.identity import identity_of_run
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.prompts import Candidate, TextTensor, as_prompts
from orcheo_agentensor.publishing import require_publishable
from orcheo_agentensor.runs.access import RunEnded
from orcheo_agentensor.runs.active import ActiveRun, CheckedJob
from orcheo_agentensor.runs.front import emptied, stored_job
from orcheo_agentensor.runs.manager import Given, RunManager
from orcheo_agentensor.runs.nodes import JobGraph
from orcheo_agentensor.settings import Settings, read_settings
from orcheo_agentensor.storage.records import CANCELLED, RETRIED
from orcheo_agentensor.training import decision, search
from orcheo_agentensor.training.active import Training
from orcheo_agentensor.training.budget import ASKED, BudgetMeter, unknown
from orcheo_agentensor.training.comparison import paired_objectives
from orcheo_agentensor.training.folds import over_folds, run_id_of, sentence
from orcheo_agentensor.training.job import TrainingJob, checkpoint_plan, fold_job, make_plan
from orcheo_agentensor.training.state import (
    CandidateStore,
    SearchState,
    TrainingOutput,
    TrainingState,
)

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store

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
    overrides_flag: str | None = None,
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
        overrides_flag: Who trains although the flag `agent_trainer_enabled` of the workflow is off;
            noted in the run's record.

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
            overrides_flag=overrides_flag,
        ),
        store=store if isinstance(store, Store) else Store.from_url(store),
        settings=settings,
        new_run_id=new_run_id,
        make_plan=lambda job, cases, tensors: make_plan(
            job, cases, tensors, optimizer=optimizer, settings=settings
        ),
        require=require_publishing,
    )
    known: dict[str, Training] = {}  # as this process has left them after their last node

    @asynccontextmanager
    async def opened(state: TrainingState, *, running: bool = True) -> AsyncIterator[Training]:
        run_id = state["run_id"]
        async with (
            _telling_of_replays(state, manager.store),
            manager.open(run_id, running=running) as run,
        ):
            before = known.pop(run_id, None)
            if before is not None and run.lease.token - before.run.lease.token in (0, 1):
                training = replace(before, run=run)
                training.meter.resume()
                if run.ledger is before.run.ledger:  # it was kept open
                    training.runner.draining = run.draining
                else:
                    run.ledger.remember(before.run.ledger)
                    training.runner = Runner(run, meter=training.meter, taped=True)
                    training.unmeasured = None
            else:  # another process may have done what came last
                training = await _read_back(run)
            await training.open_budget()
            yield training
            known[run_id] = training

    async def prepare(state: TrainingState) -> Command[str]:
        """Check the job, store its dataset, make the run record."""
        caller = identity_of_run()
        caller.require("train")
        if state.get("promote") == "auto":
            caller.require("promote")
        checked = await manager.record({k: state.get(k) for k in TrainingJob.model_fields})
        run = checked.record
        known.pop(run.run_id, None)  # submitted anew: the job may have changed rows of the ledger
        update = emptied(state, TrainingJob, TrainingOutput)
        update |= {"run_id": run.run_id, "workflow_id": run.workflow_id, "dataset": run.dataset}
        if run.status == "finished" and run.result is not None:
            manager.forget(run.run_id)
            return Command(update=update | run.result, goto=END)
        return Command(
            update=update | {"status": "running"},
            goto="folds" if checked.plan.folds else "baseline",
        )

    async def folds(state: TrainingState) -> dict[str, Any]:
        """Make the trainings of a cross-validation, one after another, each a run of its own that
        stores no version."""
        run_id, found = state["run_id"], list[Mapping[str, Any]]()
        checked = await manager.recall(run_id)
        try:
            for held in range(len(checked.plan.folds)):
                named = {"run_id": run_id_of(run_id, held)}
                there = cast("TrainingState", {**state, **named})
                told = checked.dataset.metadata
                job = fold_job(checked.job, checked.plan, held, metadata=told) | named
                job["workflow_id"] = state["workflow_id"]
                record = (await manager.record(job)).record
                if record.status == "finished" and record.result is not None:
                    found.append(record.result["fold"])
                else:
                    async with opened(there) as training:
                        found.append(await _fold(training, of=run_id, held=held))
                manager.forget(there["run_id"])
                known.pop(there["run_id"], None)
        except Exception:
            async with manager.open(run_id):  # it is noted in the record of the run, too
                raise
        seed = checked.job.seed
        return {"cross_validated": await asyncio.to_thread(over_folds, found, seed=seed)}

    async def baseline(state: TrainingState) -> dict[str, Any]:
        """Begin at the prompts of the job; they are measured as far as the search needs it."""
        async with opened(state) as training:
            _announce(training)
            await search.follow_retry(training)
            if not training.state.baseline:
                training.state = await search.begin(training)
            return _mirror(training, state)

    async def step(state: TrainingState) -> dict[str, Any]:
        """One optimizer step, or as many as `steps_per_node` says, from the stored state on.

        In a state that somebody has changed, on a way back through its history, these are steps of
        a run of its own.
        """
        changed = _changed(state)
        if changed:
            return await fork(state, changed)
        async with opened(state) as training:
            _check_prompts(state, training.candidates)
            ahead = training.state.step - (state.get("step") or 0)
            if ahead > training.run.job.steps_per_node:
                training.run.events.emit("replayed", steps=ahead, rollouts=0, message=_AHEAD)
            await search.take_steps(training)
            return _mirror(training, state)

    async def fork(state: TrainingState, changed: dict[str, Any]) -> dict[str, Any]:
        """Begin a run that goes on from the step of another one with changed fields of its job.

        What the other run has paid for costs nothing; the same change gives the same run again.
        """
        origin, until = state["run_id"], state["step"]
        identity_of_run().require("train")
        if changed.get("promote") == "auto":
            identity_of_run().require("promote")
        before = await manager.recall(origin)
        _check_prompts(state, await CandidateStore(before.prompts).read(manager.store, origin))
        if before.record.job.get("redacted"):
            rule = "had secrets in its job, which are not stored: submit a job of its own"
            raise ConfigError(field="run_id", value=origin, rule=rule)
        job = {**await stored_job(manager.store, origin), **changed, "reuse": origin}
        job["run_id"] = content_hash([origin, until, changed])[:32]
        run = (await manager.record(job)).record
        update = {**dict.fromkeys(changed), "run_id": run.run_id}
        if run.status == "finished" and run.result is not None:
            manager.forget(run.run_id)
            return update | run.result
        there = cast("TrainingState", {**state, "run_id": run.run_id})
        async with opened(there) as training:
            if not training.state.baseline:
                await training.candidates.take_over(training.run, of=origin, until=until)
                training.state = await SearchState.load(training.run, of=origin, until=until)
                await search.begin_again(training, seed="seed" in changed)
            spent = (await manager.store.runs.usage(origin)).rollouts
            training.run.events.emit(
                "forked",
                from_run=origin,
                from_step=until,
                changed=changed,
                rollouts_recorded=spent,
                rollouts_at_most=training.plan.budget.rollouts,
                message=f"goes on from step {until} of run {origin}; the {spent} rollouts that it "
                "has recorded cost nothing where they are needed again",
            )
            _announce(training)
            await search.take_steps(training)
            return update | _mirror(training, state)

    async def checkpoint(state: TrainingState) -> dict[str, Any]:
        """Store what is due as versions."""
        async with opened(state) as training:
            await search.store_versions(training)
            return _mirror(training, state)

    async def holdout(state: TrainingState) -> dict[str, Any]:
        """Measure baseline and best on cases the search never saw."""
        _refuse_changes(state)
        async with opened(state) as training:
            return {
                "holdout": await decision.measure_holdout(training),
                "baseline": await search.version_record(training, training.state.baseline),
                "best": await search.version_record(training, training.state.best),
            }

    async def decide(state: TrainingState) -> dict[str, Any]:
        """Promote, keep or reject the best version, or ask a person; end the run."""
        run_id, found, caller = state["run_id"], state.get("holdout"), identity_of_run()
        async with opened(state, running=False) as training:
            run = training.run
            summary = await search.validate(training, training.candidates[training.state.best])
            weighed = await decision.weigh(training, found)
            status, reasons = decision.assess(training, found, summary, weighed)
            if not summary["n_ok"] and summary.get("warnings") and not training.state.blocked:
                reasons = summary["warnings"][:1]
            measured = [state["baseline"]["objective"], state["best"]["objective"]]
            goals = await decision.goals_of(training, found, validation=measured)
            missed = decision.goals_missed(run.job.goal, goals)
            if missed and status == "eligible":
                status = "kept"
            reasons = [*reasons, *missed]
            if crossed := state.get("cross_validated"):
                reasons = [*reasons, sentence(crossed)]
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
            if weighed:
                outcome["objective"] = weighed
            if crossed:
                outcome["cross_validation"] = crossed
            if published:
                outcome["published"] = published
            result = await _finish(training, state, outcome, missed)
        manager.forget(run_id)
        known.pop(run_id, None)
        return result

    graph = JobGraph(TrainingState, input_schema=TrainingJob, output_schema=TrainingOutput)
    graph.check_job, graph.secrets, graph.pauses = manager.check, manager.secrets, True
    graph.add_node(
        "prepare", prepare, destinations=("folds", "baseline", END), input_schema=TrainingState
    )
    graph.add_node("folds", folds)
    graph.add_node("baseline", baseline)
    graph.add_node("step", step)
    graph.add_node("checkpoint", checkpoint)
    graph.add_node("holdout", holdout)
    graph.add_node("decide", decide)
    graph.add_edge(START, "prepare")
    graph.add_edge("folds", "baseline")
    for node in ("baseline", "step", "checkpoint"):
        graph.add_conditional_edges(node, _next, ["step", "checkpoint", "holdout"])
    graph.add_edge("holdout", "decide")
    graph.add_edge("decide", END)
    return graph


_SHOWN = (
    "the dataset has no validation split: candidates are validated on the training cases, and "
    "those that a prompt shows as examples count as solved"
)
_AHEAD = "the run has made these steps already: they are read from its record, and cost nothing"
_ENDED = (
    "the run has ended: what follows is read from its record, and costs nothing; to search on from "
    "here in another way, change a field of the job in this state (update_state, at the node step)"
)
_CHANGEABLE = (
    "budget",
    "checkpoint_every",
    "goal",
    "guardrail",
    "limits",
    "min_coverage",
    "promote",
    "publish",
    "seed",
    "steps_per_node",
    "stop",
)


@asynccontextmanager
async def _telling_of_replays(state: TrainingState, store: Store) -> AsyncIterator[None]:
    """Say so where a run has ended that the state, from its history, takes to be at work."""
    try:
        yield
    except RunEnded:
        if state["status"] == "running":
            prompts, run_id = as_prompts(state.get("prompts")), state["run_id"]
            _check_prompts(state, await CandidateStore(prompts).read(store, run_id))
            events = EventSink(state["run_id"], get_stream_writer())
            events.emit("replayed", steps=None, rollouts=0, message=_ENDED)
        raise


def _check_prompts(state: TrainingState, candidates: CandidateStore) -> None:
    """Raise `ConfigError` where somebody has changed the prompts in the state."""
    given = state.get("prompts")
    if given and Candidate.of(as_prompts(given)).hash not in candidates:
        rule = "cannot be changed in the middle of a search: start a run with them"
        raise ConfigError(field="prompts", value=sorted(given), rule=rule)


def _refuse_changes(state: TrainingState) -> None:
    """Raise `ConfigError` for fields of the job that are changed where the search is over."""
    if changed := _changed(state):
        rule = "can be changed where `step` comes next, and not after the search"
        raise ConfigError(field=", ".join(changed), value=list(changed.values()), rule=rule)


def _changed(state: TrainingState) -> dict[str, Any]:
    """The job's fields that somebody has put into the state of a run at work.

    Raises `ConfigError` for one that cannot be changed in the middle of a search.
    """
    left = TrainingJob.model_fields.keys() - {"run_id", "workflow_id", "dataset", "prompts"}
    changed = {name: state[name] for name in sorted(left) if state.get(name) is not None}  # type: ignore[literal-required]
    for name in changed.keys() - {*_CHANGEABLE}:
        raise ConfigError(
            field=name,
            value=changed[name],
            rule="cannot be changed in the middle of a search: start a run with it; these can: "
            + ", ".join(_CHANGEABLE),
        )
    return changed


async def _read_back(run: ActiveRun[TrainingJob]) -> Training:
    """A run as the store has it, in a process that has not done its last step."""
    spent = await run.ledger.usage(without=RETRIED)  # which has its budget back
    if lost := unknown(run.ledger.noted.get("rollouts", 0), spent):
        await run.ledger.put_call(f"died:{run.lease.token}", CANCELLED, {"failed": True}, lost)
        spent = spent + lost
    meter = BudgetMeter(
        run.plan.budget,
        spent=spent,
        asked=await run.ledger.usage(*ASKED),
        clock=run.store.clock,
    )
    return Training(
        run=run,
        runner=Runner(run, meter=meter, taped=True),
        plan=run.plan,
        meter=meter,
        state=await SearchState.load(run),
        candidates=await CandidateStore(run.prompts).load(run),
    )


def _next(state: Mapping[str, Any]) -> Literal["step", "checkpoint", "holdout"]:
    if state["status"] != "running":  # it has ended already: the nodes to come say the same
        return "holdout"
    if state.get("checkpoint_due"):
        return "checkpoint"
    return "holdout" if state.get("stopped") else "step"


def _mirror(training: Training, state: TrainingState) -> dict[str, Any]:
    """What the graph's state shows of the search state, as far as it is not there yet."""
    known = training.state
    found: dict[str, Any] = {
        "scores": {"best": known.scores(known.best), "current": known.scores(known.current)},
        "step": known.step,
        "epoch": known.epoch,
        "best_objective": known.objective,
        "checkpoint_due": bool(known.due),
        "stopped": known.stopped if known.settled else None,
    }
    there: Mapping[str, Any] = state
    found = {k: value for k, value in found.items() if k not in there or value != there[k]}
    shown: dict[str, dict[str, TextTensor]] = {}
    for key, candidate in (("prompts", known.best), ("current", known.current)):
        if candidate not in shown:
            taught = known.gradients.get(candidate, {}).get("prompts", {})
            prompts = training.candidates[candidate].prompts
            shown[candidate] = {
                name: one.taught(taught.get(name, ())) for name, one in prompts.items()
            }
        if not _shows(there.get(key), shown[candidate]):
            found[key] = dict(shown[candidate])
    return found


def _shows(there: Any, prompts: Mapping[str, TextTensor]) -> bool:
    """Whether tensors in the state are these prompts with these gradients."""
    return bool(there) and all(
        isinstance(tensor := there.get(name), TextTensor)
        and tensor.text == prompt.text
        and tensor.gradients == prompt.gradients
        for name, prompt in prompts.items()
    )


async def _fold(training: Training, *, of: str, held: int) -> dict[str, Any]:
    """Search without a fold, and measure baseline and best on it; what is stored with the run."""
    run, plan = training.run, training.plan
    told = {"of": of, "fold": held + 1, "splits": plan.counts}
    run.events.emit("fold_started", **told, budget=plan.budget.model_dump())
    if not training.state.baseline:
        training.state = await search.begin(training)
    while not training.state.settled:
        await search.take_steps(training)
        training.state.due = []  # a fold makes no versions
        await training.state.save(run, training.candidates)
    known, holdout = training.state, await decision.measure_holdout(training)
    both = [training.candidates[known.baseline], training.candidates[known.best]]
    scores: Sequence[Sequence[float]] = [(), ()]
    if holdout is not None:
        before, after = [
            await training.measure_all(plan.holdout, one, phase="holdout") for one in both
        ]
        scores = paired_objectives(before, after, training.weights)
    usage = (await run.ledger.usage()).to_json()
    fold = {
        "run_id": run.record.run_id,
        "n": len(scores[0]),
        "gain": None if holdout is None else holdout["gain"],
        "changed": known.best != known.baseline,
        "rollouts": usage["rollouts"],
        "before": list(scores[0]),
        "after": list(scores[1]),
    }
    reasons = [f"fold {held + 1} of the cross-validation of run {of}: it makes no version"]
    result = {
        "status": "finished",
        "summary": await search.validate(training, both[1]),
        "baseline": await search.version_record(training, known.baseline),
        "best": await search.version_record(training, known.best),
        "holdout": holdout,
        "decision": {"status": "kept", "reasons": reasons, "stopped": known.stopped},
        "usage": usage,
        "fold": fold,
    }
    await run.update(status="finished", result=result, usage=usage, ended_at=run.store.clock())
    run.events.emit("fold_finished", **told, gain=fold["gain"], n=fold["n"])
    return fold


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
        objective=run.job.objective.model_dump(exclude_none=True),
        checkpoints=checkpoint_plan(run.job, plan),
    )
    for warning in run.warnings:
        run.events.emit("warning", message=warning)
    if plan.demonstrates and {case.id for case in plan.validation} == {c.id for c in plan.train}:
        run.events.emit("warning", message=_SHOWN)


async def _finish(
    training: Training, state: TrainingState, decision: dict[str, Any], missed: list[str]
) -> dict[str, Any]:
    run = training.run
    known = training.state
    summary = await search.validate(training, training.candidates[known.best])
    usage = (await run.ledger.usage()).to_json()
    # Those of all rollouts, and not of the validation of the best candidate alone.
    again = summary["retries"] = await run.ledger.made_again()
    if again > MANY_RETRIES * (usage["rollouts"] - again):
        told = many_retries(again, f"{usage['rollouts'] - again} rollouts")
        summary["warnings"] = [*summary.get("warnings", ()), told]
    await add_blocks(run, summary)
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

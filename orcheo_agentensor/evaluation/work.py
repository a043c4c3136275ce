"""The work of an evaluation: what the nodes of its graph do, with LangGraph or without."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from orcheo_agentensor.evaluation.paid_calls import CANDIDATE, PHASE, traced
from orcheo_agentensor.evaluation.results import (
    CaseProgress,
    CaseResult,
    context_of,
    outcome_to_json,
    settled,
    summarize,
    thresholds_missed,
    with_media,
    with_outputs,
)
from orcheo_agentensor.evaluation.runner import Runner, shared_thread
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.prompts import Candidate, as_prompts, prompts_to_json
from orcheo_agentensor.runs.active import ActiveRun
from orcheo_agentensor.runs.blocked import BLOCKED, block_warning
from orcheo_agentensor.runs.front import NodeWork, emptied
from orcheo_agentensor.runs.job import EvaluationJob
from orcheo_agentensor.runs.manager import Given, RunManager
from orcheo_agentensor.seeds import RUN_ID
from orcheo_agentensor.settings import Settings, read_settings
from orcheo_agentensor.tape import prompt_reads, unread_warning
from orcheo_agentensor.targets.context import bind_places

RESULT_KEYS = ("status", "summary", "usage")


class JobOutput(TypedDict, total=False):
    """What every job gives back."""

    run_id: Annotated[str, Field(title="Run", description="Under which everything else is stored.")]
    status: Annotated[
        str,
        Field(
            title="Status",
            description="finished, or missed_threshold where too few cases could be scored.",
        ),
    ]
    usage: Annotated[
        dict[str, Any], Field(title="Usage", description="Rollouts, model calls, tokens, cost.")
    ]


class EvaluationOutput(JobOutput, total=False):
    """What an evaluation gives back; everything larger is in the side store under `run_id`."""

    summary: Annotated[
        dict[str, Any],
        Field(title="Summary", description="Scores with intervals, latency, failures, coverage."),
    ]


class EvaluationWork:
    """What the nodes of one evaluation graph do: each takes the state and gives its update.

    Args are those of `create_evaluation_graph`.
    """

    def __init__(
        self,
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
    ) -> None:
        from orcheo_agentensor.storage import Store

        self.manager = RunManager(
            EvaluationJob,
            mode="evaluate",
            given=Given(
                target=target,
                dataset=dataset,
                evaluators=evaluators,
                prompts=prompts,
                config=config,
                context=context,
            ),
            store=store if isinstance(store, Store) else Store.from_url(store),
            settings=settings or read_settings(),
            new_run_id=new_run_id,
        )
        self._on_results = on_results
        self._taped = taped
        self._measured: dict[str, list[CaseResult]] = {}
        self._shared: dict[str, set[str]] = {}

    @property
    def nodes(self) -> tuple[NodeWork, ...]:
        """The work of all nodes, in order."""
        return self.prepare, self.run_cases, self.summarize

    async def prepare(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Check the job, store its dataset, make the run record; "running" where there is more to
        do."""
        checked = await self.manager.record({k: state.get(k) for k in EvaluationJob.model_fields})
        run = checked.record
        update = emptied(state, EvaluationJob, EvaluationOutput)
        update |= {"run_id": run.run_id, "workflow_id": run.workflow_id, "dataset": run.dataset}
        update |= {"prompts": as_prompts(prompts_to_json(checked.prompts))}
        if run.status == "finished" and run.result is not None:
            self.manager.forget(run.run_id)
            return update | run.result
        return update | {"status": "running"}

    async def run_cases(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Run every case through the target and the evaluators; all results go to the ledger."""
        async with self.manager.open(state["run_id"]) as run:
            cases = run.dataset.cases
            run.events.emit(
                "run_started",
                mode="evaluate",
                workflow_id=run.record.workflow_id,
                target=run.target.name,
                cases=len(cases),
                evaluators=[e.name for e in run.evaluators],
                bindings=run.bindings,
            )
            for warning in run.warnings:
                run.events.emit("warning", message=warning)
            runner = Runner(run, settling=True, taped=self._taped)
            progress = CaseProgress(run.events, runner.weights, total=len(cases))
            self._measured[state["run_id"]] = await runner.run(
                cases,
                Candidate.of(run.prompts),
                phase="evaluation",
                on_case=progress.case_finished,
            )
            self._shared[state["run_id"]] = runner.shared_threads
        return {"status": "running"}

    async def summarize(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Add up the results, from the ledger after a resume, and end the run."""
        async with self.manager.open(state["run_id"]) as run:
            results = self._measured.pop(state["run_id"], None)
            if results is None:  # this process has not run the cases
                results = await Runner(run, taped=self._taped).run(
                    run.dataset.cases, Candidate.of(run.prompts), phase="evaluation"
                )
            found, results = results, settled(results)
            if results != found:
                await run.store.runs.fail_texts(run.record.run_id, lease=run.lease)
            if self._on_results is not None:
                self._on_results(state["run_id"], results)
            summary = await summary_of(run, results)
            await add_blocks(run, summary)
            for warning in summary.get("warnings", ()):
                run.events.emit("warning", message=warning)
            told = [*run.warnings, *map(shared_thread, self._shared.pop(state["run_id"], ()))]
            if told:  # when it was seen
                summary["warnings"] = [*told, *summary.get("warnings", ())]
            if run.summary_evaluators:
                runner = Runner(run)
                labels = runner.labels(Candidate.of(run.prompts), "summary")
                with traced(labels, config=runner.calls_config):
                    summary["summary_evaluators"] = await over_all_cases(run, results)
            summary |= missed_by(run, summary)
            usage = (await run.ledger.usage()).to_json()
            result = {
                "status": "missed_threshold" if "missed" in summary else "finished",
                "summary": summary,
                "usage": usage,
            }
            run.events.emit("evaluation_summary", summary=summary)
            await run.update(
                status="finished", result=result, usage=usage, ended_at=run.store.clock()
            )
            run.events.emit("run_finished", status=result["status"])
        self.manager.forget(state["run_id"])
        return result


async def over_all_cases(
    run: ActiveRun[Any], results: Sequence[CaseResult]
) -> dict[str, dict[str, Any]]:
    """What each summary evaluator says about all cases on which the target did its part, by metric.

    `n` counts these cases. An answer is recorded, and not asked for again after a resume.
    """
    results = await with_outputs(run.store, run.record.run_id, results)
    contexts = [
        await with_media(
            run.store.media, replace(context_of(case, result), outcomes=result.outcomes)
        )
        for case, result in zip(run.dataset.cases, results, strict=True)
        if result.target_failure is None
    ]
    seen = [[ctx.case_id, ctx.output, *map(outcome_to_json, ctx.outcomes)] for ctx in contexts]
    found: dict[str, dict[str, Any]] = {}
    candidate = Candidate.of(run.prompts)
    for evaluator in run.summary_evaluators if contexts else ():
        key = content_hash(["summary", evaluator.fingerprint, seen])
        told = await run.ledger.call(key)
        if told is None:
            labels = {RUN_ID: run.record.run_id, CANDIDATE: candidate.hash, PHASE: "summary"}
            with traced(labels):
                timeout = run.job.limits.case_timeout
                outcomes, usage = await evaluator.score(contexts, timeout=timeout)
            told = {outcome.name: outcome_to_json(outcome) for outcome in outcomes}
            await run.ledger.put_call(key, "summary_evaluator", told, usage)
        found |= {name: {**entry, "n": len(contexts)} for name, entry in told.items()}
    return found


def missed_by(
    run: ActiveRun[Any], summary: Mapping[str, Any], *others: str
) -> dict[str, list[str]]:
    """The thresholds that the job sets and its summary misses, with `others`, as `missed`."""
    limits = run.job.limits
    found = thresholds_missed(
        summary, min_coverage=run.job.min_coverage, min_within_sla=limits.min_within_sla
    )
    return {"missed": [*found, *others]} if found or others else {}


async def summary_of(run: ActiveRun[Any], results: Sequence[CaseResult]) -> dict[str, Any]:
    """`summarize` off the loop, which may import scipy, and which prompts were read."""
    summary = await asyncio.to_thread(
        summarize,
        results,
        weights=run.weights,
        case_sla_ms=run.job.limits.case_sla_ms,
        replicates=run.job.replicates,
    )
    reasons = []
    if not summary["n_ok"]:
        reasons = [one.failure.reason for one in results if one.failure is not None]
    if reasons and len(reasons) == len(results):
        summary["warnings"] = [nothing_scored(reasons), *summary.get("warnings", ())]
    tapes = [one.tape for one in results if one.tape is not None]
    if run.prompts and tapes and summary["n_target_failed"] < len(results):
        summary["reads"] = prompt_reads(run.prompts, tapes)
        if unread := unread_warnings(run, run.prompts, tapes):
            summary["warnings"] = [*summary.get("warnings", ()), *unread]
    return summary


async def add_blocks(run: ActiveRun[Any], summary: dict[str, Any]) -> None:
    """Tell in a run's summary which cases blocked the loop.

    Metrics of a version do not tell it: they are those that a resumed run comes to as well.
    """
    if blocked := await run.ledger.responses(BLOCKED):
        summary["blocked"] = sorted(blocked, key=lambda entry: -entry["seconds"])
        told = [block_warning(entry) for entry in summary["blocked"]]
        summary["warnings"] = [*summary.get("warnings", ()), *told]


def nothing_scored(reasons: Iterable[str]) -> str:
    """A sentence on cases that all failed for these reasons."""
    counted = Counter(reasons)
    ((most, times),) = counted.most_common(1)
    what = f"all {times} cases" if len(counted) == 1 else f"{times} of {counted.total()} cases"
    return f"nothing could be scored: {what} failed with {most}"


def unread_warnings(
    run: ActiveRun[Any], names: Iterable[str], tapes: Sequence[Mapping[str, Any]]
) -> list[str]:
    """A sentence on each of these prompts that no node on the tapes read."""
    places = bind_places(run.target, run.config.configurable)
    return [
        unread_warning(name, tapes, bind=run.prompts[name].bind, places=places)
        for name, read in prompt_reads(names, tapes).items()
        if not read
    ]

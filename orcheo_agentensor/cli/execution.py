"""How a job is carried out: checked, run, stopped by a signal, and reported at its end.

Slow to import, because it needs LangGraph: commands import it when they are called.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shlex
import signal
import sys
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from langgraph.runtime import RunControl

from orcheo_agentensor.cli import output
from orcheo_agentensor.cli.compare import Baseline, show_comparison
from orcheo_agentensor.cli.errors import ExitCode
from orcheo_agentensor.cli.jobfile import Overrides, load_job
from orcheo_agentensor.cli.options import (
    load_settings,
    make_importable,
    named_store,
    reading,
    store_option,
)
from orcheo_agentensor.cli.output import print_json, say
from orcheo_agentensor.cli.progress import progress
from orcheo_agentensor.errors import (
    AgentensorError,
    BadInput,
    RunFailed,
    RunPaused,
    StoreError,
    StoreOutdated,
    StoreTooNew,
)
from orcheo_agentensor.evaluation import EvaluationJob, create_evaluation_graph
from orcheo_agentensor.evaluators.contained import left_behind
from orcheo_agentensor.prompts import prompts_to_json
from orcheo_agentensor.reporting import acompare
from orcheo_agentensor.runs.active import CheckedJob
from orcheo_agentensor.runs.front import INTERRUPTED
from orcheo_agentensor.runs.manager import Given, RunManager
from orcheo_agentensor.runs.manifest import Described, Manifest, compare
from orcheo_agentensor.runs.nodes import JobGraph, drive
from orcheo_agentensor.runs.unread import unnamed_prompts
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.storage import RunRecord, Store
from orcheo_agentensor.targets.context import bind_places
from orcheo_agentensor.training import TrainingJob, create_training_graph
from orcheo_agentensor.training.decision import prompt_diff
from orcheo_agentensor.training.job import checkpoint_plan, make_plan
from orcheo_agentensor.training.job import describe as describe_optimizer

Mode: TypeAlias = Literal["evaluate", "train"]

_FOLDER = "folder"
"""The run record's reference to the folder of the modules that the job names."""
_TRAINING_ONLY = TrainingJob.model_fields.keys() - EvaluationJob.model_fields.keys()


def start_run(
    mode: Mode,
    path: Path,
    overrides: Overrides,
    *,
    min_score: Sequence[str] | None = None,
    overrides_flag: str | None = None,
    against: Baseline | None = None,
    taped: bool = False,
    dry_run: bool,
    store: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Evaluate or train by a job file; returns the exit code."""
    gates = parse_gates(min_score)
    settings = load_settings()
    make_importable(path.parent, Path.cwd())
    job = load_job(path, overrides)
    if mode == "evaluate":
        job = for_evaluation(job)
    runner = JobRunner(
        mode=mode,
        store=named_store(store, settings),
        settings=settings,
        stopper=Stopper(),
        silent=quiet or as_json,
        overrides_flag=overrides_flag,
        taped=taped,
    )
    ending = Ending(
        mode=mode, as_json=as_json, store_url=store, gates=gates, job=shlex.quote(str(path))
    )

    async def main() -> int:
        async with reading(runner.store) as there:
            checked = await runner.manager(there).check(job)
            workflow_id = checked.record.workflow_id
            before = None if against is None else await against.find(workflow_id, there)
            expected = await expected_usage(checked, there) if dry_run else {}
        require_known(gates, [evaluator.name for evaluator in checked.evaluators])
        if dry_run:
            output.show_plan({**describe(checked), "expected": expected}, as_json=as_json)
            return ExitCode.OK
        async with runner.store:
            found = await runner.start(checked, job, folder=str(path.parent.resolve()))
            run_id = found["run_id"]
            if before is not None and found["status"] in ("finished", "missed_threshold"):
                compared = await acompare(before, run_id, store=runner.store)
                found = {**found, "comparison": compared}
            return ending.report(found, await runner.store.runs.get(run_id), against=against)

    return runner.stopper.run(main())


def for_evaluation(job: dict[str, Any]) -> dict[str, Any]:
    """An evaluation job from either kind; a training job is checked as one first."""
    if not any(name in job for name in _TRAINING_ONLY):
        return job
    TrainingJob.parse({key: value for key, value in job.items() if value is not None})
    return {key: value for key, value in job.items() if key not in _TRAINING_ONLY}


def resume_run(
    run_id: str,
    *,
    answer: Mapping[str, Any] | None,
    min_score: Sequence[str] | None,
    accept_drift: bool,
    retry_failed: bool,
    overrides_flag: str | None,
    store: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Go on with a run, or report its result where it has finished; returns the exit code.

    `answer` is for a training that waits for approval. `accept_drift` goes on although the code of
    the target has changed. `retry_failed` tries again what failed in passing.
    """
    settings = load_settings()
    opened = named_store(store, settings)
    gates = parse_gates(min_score)
    stopper = Stopper()

    async def main() -> int:
        async with reading(opened) as there:
            known = await there.runs.get(run_id)
        mode = _mode_of(
            known,
            "; only evaluations and trainings can be resumed: start it again with `agentensor run`",
        )
        if answer is not None and known.status != "paused":
            raise BadInput(
                f"run {run_id!r} is {known.status}, it does not wait for approval; "
                "leave --approve and --reject out",
                field="--approve",
                value=known.status,
                rule="needs a run that waits for approval",
            )
        if answer is not None and retry_failed:
            rule = "changes what is to be approved: leave --approve and --reject out"
            raise BadInput(field="--retry-failed", value=True, rule=rule)
        ending = Ending(mode=mode, as_json=as_json, store_url=store, gates=gates)

        def stands() -> int:
            result = known.result or {}
            require_known(gates, result["summary"]["evaluators"])
            return ending.report({**result, "run_id": run_id}, known)

        finished = known.status == "finished" and known.result is not None
        if finished and not retry_failed:
            return stands()
        make_importable(*_folders(known), Path.cwd())
        runner = JobRunner(
            mode=mode,
            store=opened,
            settings=settings,
            stopper=stopper,
            silent=quiet or as_json,
            overrides_flag=overrides_flag,
        )
        async with opened:
            checked = await runner.manager(opened).recall(run_id, accept_drift=accept_drift)
            require_known(gates, [evaluator.name for evaluator in checked.evaluators])
            job = None
            if retry_failed:
                tried = await opened.runs.retry_failed(run_id)
                say(f"{tried} failed rollouts and scores are tried again")
                if finished and not tried:
                    return stands()
                job = known.job["job"] if tried else None
            found = await runner.drive(job, run_id, checked.dataset, answer=answer)
            return ending.report(found, await opened.runs.get(run_id))

    return stopper.run(main())


def _mode_of(run: RunRecord, told: str) -> Mode:
    """The mode of an evaluation or a training; any other run is refused, `told` says why."""
    if run.mode == "run":
        raise BadInput(
            f"run {run.run_id!r} was one execution of a workflow{told}",
            field="run_id",
            value=run.run_id,
            rule="must be an evaluation or a training",
        )
    return run.mode


def _folders(run: RunRecord) -> list[Path]:
    return [Path(run.refs[_FOLDER])] if _FOLDER in run.refs else []


def rerun_run(
    run_id: str,
    *,
    job: Path | None,
    new_id: str | None,
    store: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Run a run again from its record, as a new one, and report what differs; the exit code.

    `job` is a job file with what the record cannot give.
    """
    settings = load_settings()
    opened = named_store(store, settings)
    stopper = Stopper()

    async def main() -> int:
        async with reading(opened) as there:
            known = await there.runs.get(run_id)
            mode = _mode_of(
                known,
                ", of which the inputs are not kept; only evaluations and trainings can be run "
                "again",
            )
            manifest = Manifest.parse(await there.runs.manifest(run_id))
        folder = Path.cwd() if job is None else job.parent.resolve()
        make_importable(folder, Path.cwd())
        make_importable(*_folders(known))  # of the first run, where that is this machine
        given = {} if job is None else load_job(job, Overrides())
        again = job_again(known, manifest, given, run_id=new_id)
        if known.job["job"].get("promote", "never") != "never":
            say(f"a rerun moves no alias: promote is never, it was {known.job['job']['promote']}")
        runner = JobRunner(
            mode=mode,
            store=opened,
            settings=settings,
            stopper=stopper,
            silent=quiet or as_json,
        )
        ending = Ending(mode=mode, as_json=as_json, store_url=store)
        async with opened:
            checked = await runner.manager(opened).check(again)
            found = await runner.start(checked, again, folder=str(folder), rerun_of=run_id)
            ended = found["status"] != INTERRUPTED
            differs = await compare(opened, run_id, found["run_id"]) if ended else None
            return ending.report(found, await opened.runs.get(found["run_id"]), differs=differs)

    return stopper.run(main())


_ONCE = ("reuse", "cache", "accept_drift", "retry_failed", "publish", "run_id")
"""Fields of a job that a rerun does without: it measures anew, and publishes nothing."""


def job_again(
    run: RunRecord, manifest: Manifest, given: Mapping[str, Any], *, run_id: str | None
) -> dict[str, Any]:
    """The job that runs a run again: that of its record, with the fields `given` over it.

    Raises `BadInput` that lists what the record cannot give, and what to give for each.
    """
    kept = {name: value for name, value in run.job["job"].items() if name not in _ONCE}
    config = {key: value for key, value in run.config.items() if key != "callbacks"}
    prompts = config.get("configurable", {}).get("prompts")
    if "config" in manifest.live:
        kept["config"] = config
    elif "prompts" in manifest.live and prompts is not None:
        kept["prompts"] = prompts
    missing = [
        f"{part}: {', '.join(map(_told, found))}"
        for part, found in manifest.live.items()
        if part not in given and part not in ("config", "prompts")
    ]
    missing += [
        f"{path}: was a secret, which is not stored; give {path.split('.')[0]} with it"
        for path in manifest.redacted
        if path.split(".")[0] not in given
    ]
    if missing:
        lines = "\n  ".join(missing)
        raise BadInput(
            f"run {run.run_id!r} cannot be run again from its record alone. Give what only its "
            f"process had in a job file, by --job, or run it again from Python and compare the "
            f"two with: agentensor runs diff\n  {lines}",
            field="run_id",
            value=run.run_id,
            rule="must be complete with --job",
        )
    job = {**kept, "dataset": run.dataset, **given}
    if run.mode == "train":
        job["promote"] = "never"
    return {**job, "run_id": run_id} if run_id is not None else job


def _told(part: Described) -> str:
    """A live part of a run, and how a job can name it."""
    if part.type == "name":
        return repr(part.name)
    of = f" of {part.module}" if part.module else ""
    named = f" (give {part.entrypoint})" if part.entrypoint else ""
    return f"{part.type} {part.name or ''}".rstrip() + of + named


class Stopper:
    """Stops a run on SIGINT and SIGTERM.

    The first signal lets the cases in flight finish, the second cancels them, the third ends the
    process.
    """

    def __init__(self) -> None:
        self.control = RunControl()
        self.cancelled = False
        self._task: asyncio.Task[Any] | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals for the current task, until the block ends."""
        loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        taken = []
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
                loop.add_signal_handler(number, self._stop)  # only in the main thread
                taken.append(number)
        try:
            yield
        finally:
            for number in taken:
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        if self.cancelled:
            os._exit(ExitCode.INTERRUPTED)
        if not self.control.drain_requested:
            self.control.request_drain("signal")
            say("stopping: cases in flight are finished first; once more to cancel them")
            return
        self.cancelled = True
        if self._task is not None:
            self._task.cancel()

    def run(self, main: Coroutine[Any, Any, int]) -> int:
        """Run a command to its exit code; what goes on after its cancellation is not waited for."""

        async def guarded() -> int:
            before = left_behind()
            try:
                with self.listening():
                    code = await main
            except asyncio.CancelledError:
                if not self.cancelled:
                    raise
                code = ExitCode.INTERRUPTED
            # A target's thread, or what ignored its cancellation, may go on for long.
            if self.cancelled or left_behind() > before:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
            return code

        return asyncio.run(guarded())


@contextlib.contextmanager
def traced_as(run_id: str) -> Iterator[None]:
    """Where LangSmith traces and no project is named, give the run a project of its own."""
    from langsmith.utils import tracing_is_enabled

    named = any(os.environ.get(f"{prefix}_PROJECT") for prefix in ("LANGSMITH", "LANGCHAIN"))
    if named or not tracing_is_enabled():
        yield
        return
    from langsmith import tracing_context

    with tracing_context(project_name=f"agentensor {run_id}", enabled=True):
        yield


@dataclass(frozen=True, kw_only=True)
class JobRunner:
    """Runs jobs of one mode on one store; `silent` leaves progress out, `taped` records the path of
    each case of an evaluation."""

    mode: Mode
    store: Store
    settings: Settings
    stopper: Stopper
    silent: bool
    overrides_flag: str | None = None
    taped: bool = False

    def manager(self, store: Store) -> RunManager[Any]:
        """A manager that checks jobs against `store`."""
        shared: dict[str, Any] = {
            "given": Given(overrides_flag=self.overrides_flag),
            "store": store,
            "settings": self.settings,
            "new_run_id": self.store.new_id,
        }
        if self.mode == "evaluate":
            return RunManager(EvaluationJob, mode="evaluate", **shared)
        return RunManager(
            TrainingJob,
            mode="train",
            make_plan=lambda job, cases, prompts: make_plan(
                job, cases, prompts, optimizer=None, settings=self.settings
            ),
            **shared,
        )

    async def start(
        self,
        checked: CheckedJob[Any],
        job: Mapping[str, Any],
        *,
        folder: str,
        rerun_of: str | None = None,
    ) -> dict[str, Any]:
        """Run a checked job to its end (or to a signal); returns the graph's last state.

        `folder` holds the job's modules, for a resume from elsewhere; `rerun_of` is the run that
        is run again.
        """
        refs = {**checked.record.refs, _FOLDER: folder}
        if rerun_of is not None:
            refs["rerun_of"] = rerun_of
        await self.manager(self.store).save_dataset(checked.dataset)
        run = await self.store.runs.create(checked.record.model_copy(update={"refs": refs}))
        plain = {key: value for key, value in job.items() if key != "dataset"}
        return await self.drive(plain, run.run_id, checked.dataset)

    async def drive(
        self, job: Mapping[str, Any] | None, run_id: str, dataset: Any, *, answer: Any = None
    ) -> dict[str, Any]:
        """Run `job`, or go on with the run where `job` is None; returns the graph's last state.

        Any error that is not of the input becomes `RunFailed`.
        """
        graph: JobGraph[Any, Any, Any]
        if self.mode == "evaluate":
            graph = create_evaluation_graph(
                dataset=dataset, store=self.store, settings=self.settings, taped=self.taped
            )
        else:
            graph = create_training_graph(
                dataset=dataset,
                store=self.store,
                settings=self.settings,
                overrides_flag=self.overrides_flag,
            )
        try:
            with progress(silent=self.silent) as on_event, traced_as(run_id):
                return await drive(
                    graph,
                    job,
                    store=self.store,
                    run_id=run_id,
                    on_event=on_event,
                    control=self.stopper.control,
                    answer=answer,
                )
        except asyncio.CancelledError:
            if not self.stopper.cancelled:
                raise
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            return {"run_id": run_id, "status": INTERRUPTED}
        except RunPaused as paused:
            say(paused.message, style="red")
            return {"run_id": run_id, "status": INTERRUPTED, "reason": paused.message}
        except (StoreOutdated, StoreTooNew):
            raise
        except StoreError as error:  # what a run was at work with is no bad input
            raise RunFailed(f"run {run_id!r} could not go on: {error.message}") from error
        except AgentensorError:
            raise
        except Exception as error:
            raise RunFailed(
                f"run {run_id!r} failed: {type(error).__name__}: {error}; what it has finished is "
                f"kept, and it goes on there with: agentensor resume {run_id}"
            ) from error


def describe(checked: CheckedJob[Any]) -> dict[str, Any]:
    """A checked job as JSON."""
    job, dataset, training = checked.job, checked.dataset, checked.plan
    plan: dict[str, Any] = {
        "mode": checked.record.mode,
        "run_id": job.run_id,
        "workflow_id": checked.record.workflow_id,
        "target": checked.target.name,
        "dataset": {
            "id": dataset.id,
            "version": dataset.version,
            "cases": len(dataset),
            "splits": dataset.splits(),
        },
        "evaluators": [
            {"name": e.name, "weight": e.weight, "binding": e.binding}
            for e in (*checked.evaluators, *checked.summary_evaluators)
        ],
        "prompts": prompts_to_json(checked.prompts),
        "unnamed_prompts": unnamed_prompts(checked.target, checked.prompts),
        "bind_places": bind_places(checked.target, checked.config.configurable),
        "rollouts": len(dataset) * job.replicates,
        "base_version": checked.base_version,
        "config": checked.config.to_json(),
        "limits": job.limits.model_dump(exclude_none=True),
        "min_coverage": job.min_coverage,
        "replicates": job.replicates,
        "warnings": list(checked.warnings),
        "seed": job.seed,
    }
    if training is not None:
        plan["training"] = {
            "optimizer": describe_optimizer(training.optimizer),
            "budget": training.budget.model_dump(exclude_none=True),
            "budget_given": training.budget_given,
            "cases": training.counts,
            "trainable": list(training.trainable),
            "checkpoints": checkpoint_plan(job, training),
            "promote": job.promote,
            "objective": job.objective.model_dump(exclude_none=True),
            "folds": len(training.folds),
        }
    return plan


async def expected_usage(checked: CheckedJob[Any], store: Store) -> dict[str, Any]:
    """What a job is to cost: its rollouts, and calls, tokens and price by what a rollout of the
    newest run of the workflow has cost, evaluators included.

    Of a training the rollouts are at most those of its budget. What no run has told is None.
    """
    rollouts: int | None = len(checked.dataset) * checked.job.replicates
    if checked.plan is not None:
        rollouts = checked.plan.most_rollouts
    found: dict[str, Any] = {"rollouts": rollouts, "calls": None, "tokens": None, "cost": None}
    found["by"] = None
    runs = await store.runs.list(
        workflow_id=checked.record.workflow_id, mode=checked.record.mode, limit=20
    )
    for run in runs:
        usage = await store.runs.usage(run.run_id)
        if not usage.rollouts or rollouts is None:
            continue
        share = rollouts / usage.rollouts
        tokens, cost = usage.tokens, usage.cost
        return found | {
            "calls": round(usage.calls * share),
            "tokens": None if tokens is None else round(tokens * share),
            "cost": None if cost is None else cost * share,
            "by": run.run_id,
        }
    return found


_OBJECTIVE = "objective"

Gate: TypeAlias = tuple[str, float]
"""The name of an evaluator, or `objective`, and its least mean."""


def parse_gates(texts: Iterable[str] | None) -> list[Gate]:
    """The gates that `X` and `EVALUATOR=X` stand for."""
    gates = []
    for text in texts or ():
        name, _, minimum = text.rpartition("=")
        try:
            least = float(minimum)
        except ValueError:
            least = math.nan
        if not math.isfinite(least):
            rule = "must be a number, or EVALUATOR=NUMBER"
            raise BadInput(field="--min-score", value=text, rule=rule)
        gates.append((name.strip() or _OBJECTIVE, least))
    return gates


def require_known(gates: Iterable[Gate], evaluators: Iterable[str]) -> None:
    """Refuse a gate on an evaluator that the job does not have."""
    known = sorted({name.split(".", 1)[0] for name in evaluators})
    for name, _ in gates:
        if name != _OBJECTIVE and name.split(".", 1)[0] not in known:
            raise BadInput(
                f"--min-score: the job has no evaluator {name!r}; it has: {', '.join(known)}",
                field="--min-score",
                value=name,
                rule="must name an evaluator of the job",
            )


def check_gates(gates: Iterable[Gate], summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The value that each gate finds, and whether it is enough; without a score it is not."""
    found = []
    for name, minimum in gates:
        value = summary["evaluators"].get(name, {}).get("mean")
        if name == _OBJECTIVE:
            value = summary["objective"]
        met = value is not None and value >= minimum - 1e-12
        found.append({"name": name, "minimum": minimum, "value": value, "met": met})
    return found


_PARTS = {
    "evaluate": ("status", "summary", "usage"),
    "train": ("status", "baseline", "best", "holdout", "decision", "summary", "usage"),
}


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a command reports the end of a run; `job` is the job file, to be named in suggestions."""

    mode: Mode
    as_json: bool
    store_url: str | None
    gates: Sequence[Gate] = ()
    job: str | None = None

    def report(
        self,
        found: Mapping[str, Any],
        run: RunRecord,
        *,
        differs: Mapping[str, Any] | None = None,
        against: Baseline | None = None,
    ) -> int:
        """Print the end of a run; returns the exit code.

        `differs` is what a rerun has changed, `against` what it must not be worse than.
        """
        store = store_option(self.store_url)
        status = found["status"]
        document: dict[str, Any] = {"run_id": run.run_id}
        if status == "interrupted":
            resume = f"agentensor resume {run.run_id}{store}"
            say(f"interrupted; what is finished is kept. Go on with: {resume}", style="yellow")
            document |= {"status": status, "resume": resume}
            if "reason" in found:
                document["reason"] = found["reason"]
            return self._finish(document, ExitCode.INTERRUPTED)
        document["workflow_id"] = run.workflow_id
        if status == "awaiting_approval":
            if not self.as_json:
                output.show_request(found["request"], store=store)
            document |= {"status": status, "request": found["request"]}
            return self._finish(document, ExitCode.OK)
        gates = check_gates(self.gates, found["summary"])
        document |= {key: found.get(key) for key in _PARTS[self.mode]}
        if self.mode == "train":
            document["diff"] = _diff(found)
            if not self.as_json:
                output.show_training(document, job=self.job, store=store)
        else:
            document["gates"] = gates
            if not self.as_json:
                output.show_evaluation(document, gates, store=store)
        if differs is not None:
            document |= {"rerun_of": differs["before"], "differences": differs}
            if not self.as_json:
                output.show_run_diff(differs)
        drops: list[str] = []
        if against is not None and "comparison" in found:
            drops = against.drops(found["comparison"])
            document["comparison"] = {**found["comparison"].to_json(), "drops": drops}
            if not self.as_json:
                show_comparison(found["comparison"], drops)
        missed = status == "missed_threshold" or not all(gate["met"] for gate in gates)
        missed = missed or bool(drops)
        return self._finish(document, ExitCode.THRESHOLD if missed else ExitCode.OK)

    def _finish(self, document: Mapping[str, Any], code: ExitCode) -> int:
        if self.as_json:
            print_json({**document, "exit_code": int(code)})
        return code


def _diff(found: Mapping[str, Any]) -> str:
    before, after = (
        {name: prompt["text"] for name, prompt in found[which]["prompts"].items()}
        for which in ("baseline", "best")
    )
    return prompt_diff(before, after)

"""Carrying out a job: check, run, stop on a signal, and turn the result into an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import sys
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from orcheo_agentensor.cli.errors import ExitCode
from orcheo_agentensor.cli.options import reading, store_option
from orcheo_agentensor.cli.output import print_json, say
from orcheo_agentensor.cli.progress import progress
from orcheo_agentensor.errors import AgentensorError, BadInput, RunFailed, TargetUnavailable

if TYPE_CHECKING:
    from langgraph.graph import StateGraph
    from langgraph.runtime import RunControl

    from orcheo_agentensor.runs.manager import CheckedJob, RunManager
    from orcheo_agentensor.settings import Settings
    from orcheo_agentensor.storage import RunRecord, Store


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopper:
    """Counts the signals while a run is at work."""

    def __init__(self) -> None:
        from langgraph.runtime import RunControl

        self.control: RunControl = RunControl()
        self.cancelled = False
        self._task: asyncio.Task[Any] | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals for the current task, until the block ends."""
        loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        taken = []
        for number in _SIGNALS:
            with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
                loop.add_signal_handler(number, self._heard)  # only in the main thread
                taken.append(number)
        try:
            yield
        finally:
            for number in taken:
                loop.remove_signal_handler(number)

    def _heard(self) -> None:
        if self.cancelled:
            os._exit(ExitCode.INTERRUPTED)
        if not self.control.drain_requested:
            self.control.request_drain("signal")
            say("stopping: cases in flight are finished first; once more to cancel them")
            return
        self.cancelled = True
        if self._task is not None:
            self._task.cancel()


def run_main(main: Coroutine[Any, Any, int], stopper: Stopper) -> int:
    """Run a command to its exit code; after a cancellation without waiting for busy threads."""

    async def guarded() -> int:
        code = await main
        if stopper.cancelled:  # a target's thread may go on for long, and its work is not kept
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code

    return asyncio.run(guarded())


Mode: TypeAlias = Literal["evaluate", "train"]

FOLDER = "folder"
"""The run record's reference to the folder whose modules the job named."""


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What carries out jobs of one mode on one store."""

    mode: Mode
    store: Store
    settings: Settings

    def manager(self, store: Store | None = None) -> RunManager[Any]:
        """What checks jobs, by default against this desk's store."""
        from orcheo_agentensor.runs.job import EvaluationJob
        from orcheo_agentensor.runs.manager import Given, RunManager
        from orcheo_agentensor.training.job import TrainingJob, make_plan

        shared: dict[str, Any] = {
            "given": Given(),
            "store": store or self.store,
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

    def graph(self, dataset: Any = None) -> StateGraph[Any, Any, Any, Any]:
        """The subgraph of this mode; `dataset` for one that is at hand already."""
        from orcheo_agentensor.evaluation import create_evaluation_graph
        from orcheo_agentensor.training import create_training_graph

        create: Any = create_evaluation_graph if self.mode == "evaluate" else create_training_graph
        made: StateGraph[Any, Any, Any, Any] = create(
            dataset=dataset, store=self.store, settings=self.settings
        )
        return made

    async def check(self, job: Mapping[str, Any]) -> CheckedJob[Any]:
        """The job with everything resolved; writes nothing, creates no database.

        Raises `BadInput` and its kinds, `NotFound` for what the store should have and has not.
        """
        async with reading(self.store) as there:
            return await self.manager(there).check(job)

    async def begin(
        self,
        checked: CheckedJob[Any],
        job: Mapping[str, Any],
        stopper: Stopper,
        *,
        folder: str,
        silent: bool,
    ) -> dict[str, Any]:
        """Run a checked job to its end (or to a signal); gives the graph's last state.

        `folder` is where the job's modules are, for a resume from elsewhere; `silent` leaves
        progress out.
        """
        refs = {**checked.record.refs, FOLDER: folder}
        run = await self.store.runs.create(checked.record.model_copy(update={"refs": refs}))
        plain = {key: value for key, value in job.items() if key != "dataset"}
        graph = self.graph(checked.dataset)
        return await self.drive(plain, run.run_id, stopper, graph=graph, silent=silent)

    async def drive(
        self,
        job: Mapping[str, Any] | None,
        run_id: str,
        stopper: Stopper,
        *,
        silent: bool,
        graph: StateGraph[Any, Any, Any, Any],
        answer: Any = None,
    ) -> dict[str, Any]:
        """Drive a run; any trouble that is not the input's becomes `RunFailed`."""
        from orcheo_agentensor.runs.driver import INTERRUPTED, drive

        try:
            with stopper.listening(), progress(silent=silent) as on_event:
                return await drive(
                    graph,
                    job,
                    store=self.store,
                    run_id=run_id,
                    on_event=on_event,
                    control=stopper.control,
                    answer=answer,
                )
        except asyncio.CancelledError:
            if not stopper.cancelled:
                raise
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            return {"run_id": run_id, "status": INTERRUPTED}
        except TargetUnavailable as gone:
            from orcheo_agentensor.cli.output import say

            say(gone.message, style="red")
            return {"run_id": run_id, "status": INTERRUPTED}
        except AgentensorError:
            raise
        except Exception as error:
            raise RunFailed(
                f"run {run_id!r} failed: {type(error).__name__}: {error}; what it has finished is "
                f"kept, and it goes on there with: agentensor resume {run_id}"
            ) from error


OBJECTIVE = "objective"


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The least mean of one evaluator, or of the objective."""

    name: str
    minimum: float

    def check(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """What a summary has there, and whether that is enough; nothing scored never is."""
        if self.name == OBJECTIVE:
            value = summary["objective"]
        else:
            value = summary["evaluators"].get(self.name, {}).get("mean")
        return {
            "name": self.name,
            "minimum": self.minimum,
            "value": value,
            "met": value is not None and value >= self.minimum - 1e-12,
        }


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
            raise BadInput(
                f"--min-score: {text!r} must be a number, or EVALUATOR=NUMBER",
                field="--min-score",
                value=text,
                rule="must be a number, or EVALUATOR=NUMBER",
            )
        gates.append(Gate(name=name.strip() or OBJECTIVE, minimum=least))
    return gates


def require_known(gates: Sequence[Gate], evaluators: Iterable[str]) -> None:
    """Refuse a gate on an evaluator that the job does not have."""
    known = sorted({name.split(".", 1)[0] for name in evaluators})
    for gate in gates:
        if gate.name != OBJECTIVE and gate.name.split(".", 1)[0] not in known:
            raise BadInput(
                f"--min-score: the job has no evaluator {gate.name!r}; it has: {', '.join(known)}",
                field="--min-score",
                value=gate.name,
                rule="must name an evaluator of the job",
            )


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

    def report(self, found: Mapping[str, Any], run: RunRecord) -> int:
        """Print the end of a run; gives the exit code."""
        status = found["status"]
        if status == "interrupted":
            return self._interrupted(run.run_id)
        if status == "awaiting_approval":
            return self._asking(found["request"], run)
        checked = [gate.check(found["summary"]) for gate in self.gates]
        missed = status == "missed_threshold" or not all(gate["met"] for gate in checked)
        code = ExitCode.THRESHOLD if missed else ExitCode.OK
        document: dict[str, Any] = {"run_id": run.run_id, "workflow_id": run.workflow_id}
        document |= {key: found.get(key) for key in _PARTS[self.mode]}
        if self.mode == "train":
            document["diff"] = _diff(found)
        else:
            document["gates"] = checked
        if self.as_json:
            print_json({**document, "exit_code": int(code)})
        else:
            self._show(document, checked)
        return code

    def _show(self, document: Mapping[str, Any], checked: Sequence[Mapping[str, Any]]) -> None:
        from orcheo_agentensor.cli import output

        store = store_option(self.store_url)
        if self.mode == "evaluate":
            output.show_evaluation(document, checked, store=store)
            return
        output.show_training(
            document,
            workflow_id=document["workflow_id"],
            diff=document["diff"],
            job=self.job,
            store=store,
        )

    def _interrupted(self, run_id: str) -> int:
        command = f"agentensor resume {run_id}{store_option(self.store_url)}"
        say(f"interrupted; what is finished is kept. Go on with: {command}", style="yellow")
        if self.as_json:
            print_json(
                {
                    "run_id": run_id,
                    "status": "interrupted",
                    "resume": command,
                    "exit_code": int(ExitCode.INTERRUPTED),
                }
            )
        return ExitCode.INTERRUPTED

    def _asking(self, request: Mapping[str, Any], run: RunRecord) -> int:
        if self.as_json:
            print_json(
                {
                    "run_id": run.run_id,
                    "workflow_id": run.workflow_id,
                    "status": "awaiting_approval",
                    "request": request,
                    "exit_code": int(ExitCode.OK),
                }
            )
        else:
            from orcheo_agentensor.cli.output import show_request

            show_request(request, store=store_option(self.store_url))
        return ExitCode.OK


def _diff(found: Mapping[str, Any]) -> str:
    from orcheo_agentensor.training.decision import prompt_diff

    before, after = (
        {name: prompt["text"] for name, prompt in found[which]["prompts"].items()}
        for which in ("baseline", "best")
    )
    return prompt_diff(before, after)

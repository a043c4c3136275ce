"""Carrying out a job: check it without writing, then run it or go on with it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from orcheo_agentensor.cli.progress import progress
from orcheo_agentensor.cli.stopping import Stopper
from orcheo_agentensor.cli.stores import reading
from orcheo_agentensor.errors import (
    AgentensorError,
    RunFailed,
    TargetUnavailable,
)

if TYPE_CHECKING:
    from langgraph.graph import StateGraph

    from orcheo_agentensor.evaluation.resolve import Prepared
    from orcheo_agentensor.evaluation.workbench import Workbench
    from orcheo_agentensor.settings import Settings
    from orcheo_agentensor.storage import Store

Mode: TypeAlias = Literal["evaluate", "train"]

FOLDER = "folder"
"""The run record's reference to the folder whose modules the job named."""


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What carries out jobs of one mode on one store."""

    mode: Mode
    store: Store
    settings: Settings

    def workbench(self, store: Store | None = None) -> Workbench[Any]:
        """A workbench that checks jobs, by default against this desk's store."""
        from orcheo_agentensor.evaluation.job import EvaluationJob
        from orcheo_agentensor.evaluation.resolve import Given
        from orcheo_agentensor.evaluation.workbench import Workbench
        from orcheo_agentensor.training.job import TrainingJob
        from orcheo_agentensor.training.plan import make_plan

        shared: dict[str, Any] = {
            "given": Given(),
            "store": store or self.store,
            "settings": self.settings,
            "new_run_id": self.store.new_id,
        }
        if self.mode == "evaluate":
            return Workbench(EvaluationJob, mode="evaluate", **shared)
        return Workbench(
            TrainingJob,
            mode="train",
            extra=lambda job, cases, prompts: make_plan(
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

    async def check(self, job: Mapping[str, Any]) -> Prepared[Any]:
        """The job with everything resolved; writes nothing, creates no database.

        Raises `BadInput` and its kinds, `NotFound` for what the store should have and has not.
        """
        async with reading(self.store) as there:
            return await self.workbench(there).check(job)

    async def begin(
        self,
        prepared: Prepared[Any],
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
        refs = {**prepared.run.refs, FOLDER: folder}
        run = await self.store.runs.create(prepared.run.model_copy(update={"refs": refs}))
        plain = {key: value for key, value in job.items() if key != "dataset"}
        graph = self.graph(prepared.dataset)
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
        from orcheo_agentensor.evaluation.drive import INTERRUPTED, drive

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

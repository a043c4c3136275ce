"""What becomes of a run request: who may, which flags hold, and the request as it is handed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orcheo_agentensor.errors import Forbidden, NotFound
from orcheo_agentensor.server.access import Caller
from orcheo_agentensor.server.endpoints import Endpoint
from orcheo_agentensor.server.graphs import Served, served
from orcheo_agentensor.server.merging import flag_in
from orcheo_agentensor.server.requests import Problems, check_job, check_request, job_metadata
from orcheo_agentensor.settings import Settings

if TYPE_CHECKING:
    from orcheo_agentensor.storage import Store, WorkflowRecord


@dataclass(frozen=True, kw_only=True)
class Request:
    """A run request as it came, with the graph and the assistant it is for.

    `asked` says that its thread waits for the approval of a promotion.
    """

    endpoint: Endpoint
    item: dict[str, Any]
    graph_id: str
    assistant: Mapping[str, Any] | None
    caller: Caller
    trusted: bool
    asked: bool = False


class Desk:
    """Reviews run requests against what the operator and the store say."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.settings = settings

    async def opted_in(self, request: Request) -> bool:
        """Whether the graph of this request has `runnable_config_enabled`."""
        return self._enabled(await self.store.workflows.get(request.graph_id))

    async def review(
        self, request: Request, *, odd: Sequence[tuple[str, Any, str]], prefix: str
    ) -> dict[str, Any]:
        """The request as the server is to see it; the very item that came where nothing changes.

        `odd` is what is odd about the text of the body, `prefix` where in a batch the request is.
        Raises `ConfigError` with every problem, `Forbidden` and `NotFound`.
        """
        caller, item = request.caller, request.item
        caller.require("run")
        record = await self.store.workflows.get(request.graph_id)
        if record is not None and not caller.may_see(record.owner):
            raise NotFound(f"there is no assistant of a graph {request.graph_id!r}")
        graph = served(request.graph_id)
        if graph is None:
            return item
        if request.asked:
            item = self._answered(request)
        if graph.takes == "train":
            caller.require("train")
        problems = Problems()
        enabled = self._enabled(record)
        prepared = None
        if graph.takes and request.endpoint.starts_run:
            if enabled or caller.identity is not None or graph.takes == "train":
                prepared = await self._reviewed_job(request, graph, problems)
            workflow = prepared.run.workflow_id if prepared else None
            if graph.takes == "train":
                await self._require_trainer(workflow or request.graph_id)
        if not enabled:
            return item
        for path, value, rule in odd:
            problems.add(path, value, rule)
        checked, found = await check_request(
            item,
            endpoint=request.endpoint,
            workflow_id=request.graph_id,
            graph=graph,
            assistant=request.assistant,
            trusted=request.trusted,
            store=self.store,
            settings=self.settings,
        )
        problems.found += found.found
        for problem in problems.found:
            problem["field"] = f"{prefix}{problem['field']}"
        problems.settle("the request")
        if prepared is not None:
            metadata = {**(checked.get("metadata") or {}), **job_metadata(prepared)}
            job = {**checked["input"], "run_id": prepared.run.run_id}
            checked = {**checked, "metadata": metadata, "input": job}
        return checked

    def _enabled(self, record: WorkflowRecord | None) -> bool:
        return flag_in(record, "runnable_config_enabled", self.settings)

    async def _require_trainer(self, workflow_id: str) -> None:
        record = await self.store.workflows.get(workflow_id)
        if not flag_in(record, "agent_trainer_enabled", self.settings):
            raise Forbidden(
                f"training of {workflow_id!r} is not enabled on this server "
                "(feature flag agent_trainer_enabled)"
            )

    # -- Jobs ------------------------------------------------------------------------------------

    async def _reviewed_job(self, request: Request, graph: Served, problems: Problems) -> Any:
        """What the run of a job will be, if it may run; None where that is not known."""
        caller, job = request.caller, request.item.get("input")
        if not isinstance(job, dict):
            return None
        if job.get("promote") == "auto":
            caller.require("promote")
        await self._require_own_runs(caller, job)
        prepared = await check_job(graph, job, named=caller.identity is None, problems=problems)
        if prepared is not None:
            await self._require_own_workflow(caller, prepared.run.workflow_id)
        return prepared

    async def _require_own_workflow(self, caller: Caller, workflow_id: str) -> None:
        """A workflow that nothing is known of becomes that of who first works on it."""
        if caller.identity is None:
            return
        if served(workflow_id) is None:
            record = await self.store.workflows.claim(workflow_id, caller.identity)
        else:  # everybody's who may use this server
            record = await self.store.workflows.get(workflow_id)
        if record is not None and not caller.may_see(record.owner):
            raise Forbidden(
                f"workflow_id {workflow_id!r} cannot be used by you; choose another one"
            )

    async def _require_own_runs(self, caller: Caller, job: Mapping[str, Any]) -> None:
        """Runs that a job goes on with or takes from must be of workflows that the caller sees."""
        if caller.identity is None:
            return
        for field in ("run_id", "reuse"):
            run_id = job.get(field)
            if not isinstance(run_id, str):
                continue
            try:
                run = await self.store.runs.get(run_id)
            except NotFound:
                continue
            record = await self.store.workflows.get(run.workflow_id)
            if record is not None and not caller.may_see(record.owner):
                raise Forbidden(f"{field} {run_id!r} cannot be used by you; choose another one")

    # -- Approvals -------------------------------------------------------------------------------

    def _answered(self, request: Request) -> dict[str, Any]:
        """The item with the caller as the actor of an approval that it gives."""
        item, caller = request.item, request.caller
        if caller.identity is None:
            return item
        if request.endpoint.kind == "command":
            changed = dict(item)
            for key in ("input", "response", "responses"):
                if key in item:
                    changed[key] = _signed(item[key], caller)
            return item if changed == item else changed
        command = item.get("command")
        if not isinstance(command, dict) or "resume" not in command:
            return item
        signed = _signed(command["resume"], caller)
        if signed == command["resume"]:
            return item
        return {**item, "command": {**command, "resume": signed}}


def _signed(answer: Any, caller: Caller) -> Any:
    """An answer to an approval; one that approves needs the scope and carries the caller's name.

    An answer is a text, an object, or an object (or list) of answers by interrupt.
    """
    if answer is True or answer == "approve":
        caller.require("promote")
        return {"approve": True, "actor": caller.identity}
    if isinstance(answer, list):
        return [_signed(one, caller) for one in answer]
    if not isinstance(answer, Mapping):
        return answer
    if "approve" in answer:
        if answer["approve"] is True:
            caller.require("promote")
        return {**answer, "actor": caller.identity}
    return {
        key: _signed(one, caller) if isinstance(one, Mapping | list) else one
        for key, one in answer.items()
    }

"""What becomes of a run request: who may, which flags hold, and the request as it is handed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orcheo_agentensor.callers import Caller
from orcheo_agentensor.errors import Forbidden, NotFound
from orcheo_agentensor.evaluation.ownership import workflow_taken
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

    `resumes` says that it answers an interrupt, `asked` that its thread waits for the approval of a
    promotion, `begun` that its thread has a state to go on from.
    """

    endpoint: Endpoint
    item: dict[str, Any]
    graph_id: str
    assistant: Mapping[str, Any] | None
    caller: Caller
    trusted: bool
    resumes: bool = False
    asked: bool = False
    begun: bool = False


@dataclass(frozen=True)
class Reviewed:
    """A request as it is handed on, the very one that came where nothing changes; and the workflow
    that its job works on."""

    item: dict[str, Any]
    workflow_id: str | None = None


class Desk:
    """Reviews run requests against what the operator and the store say."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.settings = settings

    async def workflow(self, request: Request) -> WorkflowRecord | None:
        """What is stored of the workflow that this request is for."""
        return await self.store.workflows.get(request.graph_id)

    def opted_in(self, record: WorkflowRecord | None) -> bool:
        """Whether a workflow has `runnable_config_enabled`."""
        return flag_in(record, "runnable_config_enabled", self.settings)

    async def review(
        self,
        request: Request,
        *,
        record: WorkflowRecord | None,
        odd: Sequence[tuple[str, Any, str]],
        prefix: str,
    ) -> Reviewed:
        """The request as the server is to see it; writes nothing, see `claim`.

        `record` is what `workflow` gives, `odd` what is odd about the text of the body, `prefix`
        where in a batch the request is. Raises `ConfigError` with every problem, `Forbidden` and
        `NotFound`.
        """
        caller, item = request.caller, request.item
        caller.require("run")
        if record is not None and not caller.may_see(record.owner):
            raise NotFound(f"there is no assistant of a graph {request.graph_id!r}")
        graph = served(request.graph_id)
        if graph is None:
            return Reviewed(item)
        if graph.trains:
            caller.require("train")
        if (request.asked or graph.takes == "train") and _approves(_answer(request)):
            caller.require("promote")
        problems = Problems()
        enabled = self.opted_in(record)
        prepared = None
        if request.endpoint.starts_run:
            if graph.takes and (enabled or caller.identity is not None or graph.trains):
                prepared = await self._reviewed_job(request, graph, problems)
            if graph.trains:
                workflow = prepared.run.workflow_id if prepared else None
                await self._require_trainer(workflow or request.graph_id)
        if enabled:
            item = await self._checked(request, graph, prepared, problems, odd, prefix)
        return Reviewed(item, workflow_id=prepared.run.workflow_id if prepared else None)

    async def claim(self, caller: Caller, workflow_id: str) -> None:
        """Make a workflow that nothing is known of that of who first works on it."""
        if caller.identity is not None and served(workflow_id) is None:  # one served is shared
            record = await self.store.workflows.claim(workflow_id, caller.identity)
            if record is not None and not caller.may_see(record.owner):
                raise workflow_taken(workflow_id)

    async def _checked(
        self,
        request: Request,
        graph: Served,
        prepared: Any,
        problems: Problems,
        odd: Sequence[tuple[str, Any, str]],
        prefix: str,
    ) -> dict[str, Any]:
        """The request merged and noted, where nothing is wrong with it."""
        for path, value, rule in odd:
            problems.add(path, value, rule)
        checked, found = await check_request(
            request.item,
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
        if prepared is None or request.endpoint.is_cron:  # each of a cron's runs is a run anew
            return checked
        metadata = {**(checked.get("metadata") or {}), **job_metadata(prepared)}
        job = {**checked["input"], "run_id": prepared.run.run_id}
        return {**checked, "metadata": metadata, "input": job}

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
        is_command = request.endpoint.kind == "command"
        command = request.item if is_command else request.item.get("command")
        for key in ("update", "goto"):
            if isinstance(command, dict) and command.get(key):
                problems.add(f"command.{key}", command[key], "is not for a graph that takes a job")
        if request.endpoint.kind == "cron_update" and "input" not in request.item:
            return None
        if (request.resumes and is_command) or (job is None and (request.resumes or request.begun)):
            return None
        if not isinstance(job, dict):
            problems.add("input", job, "must be a job, which is an object")
            return None
        if job.get("promote") == "auto":
            caller.require("promote")
        return await check_job(graph, job, caller=caller, problems=problems)


def _answer(request: Request) -> Any:
    """What a request answers an interrupt with, or several."""
    if not request.resumes:
        return None
    if request.endpoint.kind == "command":
        return [request.item.get(key) for key in ("input", "response", "responses")]
    return (request.item.get("command") or {}).get("resume")


def _approves(answer: Any) -> bool:
    """Whether an answer to an approval, or one of several by interrupt, is a yes."""
    if isinstance(answer, list):
        return any(map(_approves, answer))
    if not isinstance(answer, Mapping):
        return answer is True or answer == "approve"
    if "approve" in answer:
        return answer["approve"] is True
    return any(map(_approves, answer.values()))

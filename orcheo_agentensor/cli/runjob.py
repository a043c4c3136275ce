"""`RunJob`: one execution of a workflow with a config that is checked, merged and recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from orcheo_agentensor.cli.errors import ExitCode
from orcheo_agentensor.cli.output import print_json, show
from orcheo_agentensor.cli.stores import named_store, reading
from orcheo_agentensor.config import RunConfig
from orcheo_agentensor.entrypoints import load_entrypoint
from orcheo_agentensor.errors import AgentensorError, ConfigError, RunFailed
from orcheo_agentensor.evaluation.job import IDENTIFIER, parse_model
from orcheo_agentensor.targets import resolve_target
from orcheo_agentensor.targets.output import pick, to_json_output

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable

    from orcheo_agentensor.settings import Settings
    from orcheo_agentensor.storage import Store


class RunJob(BaseModel):
    """Run a workflow once."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="Run job")

    target: str | dict[str, Any] = Field(
        title="Target",
        description='The workflow: "module:attribute", or {"entrypoint", "output"}.',
    )
    workflow_id: str | None = Field(
        None, title="Workflow", pattern=IDENTIFIER, description="The target's name when left out."
    )
    run_id: str | None = Field(None, title="Run", pattern=IDENTIFIER)
    inputs: Any = Field(None, title="Inputs", description="What the workflow is given.")
    prompts: dict[str, str | dict[str, Any]] | None = Field(
        None, title="Prompts", description="Prompt name to text, or to a TextTensor in JSON form."
    )
    config: dict[str, Any] | None = Field(
        None, title="Config", description="The RunnableConfig the workflow runs with."
    )

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """Validate outside data; raises `ConfigError` that lists every problem."""
        return parse_model(cls, data, where="job")


def carry_out(
    data: Mapping[str, Any],
    *,
    settings: Settings,
    store_url: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Check a run job and run it; the output goes to stdout as JSON."""
    from orcheo_agentensor.evaluation.resolve import slug
    from orcheo_agentensor.storage import Store

    job = RunJob.parse(data)
    request = _config(job, settings)
    target = resolve_target(job.target, settings=settings)
    workflow_id = job.workflow_id or slug(target.name)
    named = named_store(store_url, settings)
    run_id = job.run_id or named.new_id()
    store = Store(named.target, new_id=lambda: run_id)

    async def main() -> int:
        async with reading(store) as there:
            if request.use is not None:
                await there.checkpoints.get(workflow_id, request.use)
        if dry_run:
            _show_plan(target.name, workflow_id, request, as_json=as_json)
            return ExitCode.OK
        async with store:
            output = await _run(job, request, workflow_id, store, settings)
        if as_json:
            print_json({"run_id": run_id, "workflow_id": workflow_id, "output": output})
        else:
            print_json(output)
        return ExitCode.OK

    return asyncio.run(main())


def _config(job: RunJob, settings: Settings) -> RunConfig:
    """The job's config with its prompts in it."""
    config = dict(job.config or {})
    if job.prompts is not None:
        if config.get("prompts") is not None:
            raise ConfigError(
                field="job.prompts", value=sorted(job.prompts), rule="are in job.config as well"
            )
        config["prompts"] = job.prompts
    return RunConfig.parse(config, settings=settings, field="job.config")


async def _run(
    job: RunJob, request: RunConfig, workflow_id: str, store: Store, settings: Settings
) -> Any:
    from orcheo_agentensor.targets.configured import configure

    spec = job.target if isinstance(job.target, str) else job.target["entrypoint"]
    configured = configure(
        _runnable(spec, settings), workflow_id=workflow_id, store=store, settings=settings
    )
    try:
        output = to_json_output(await configured.ainvoke(job.inputs, request.to_runnable()))
    except AgentensorError:
        raise
    except Exception as error:
        raise RunFailed(f"the workflow failed: {type(error).__name__}: {error}") from error
    path = job.target.get("output") if isinstance(job.target, dict) else None
    return pick(output, path) if path else output


def _runnable(spec: str, settings: Settings) -> Runnable[Any, Any]:
    """The graph or function an entry point names, as something to configure."""
    import inspect

    from langchain_core.runnables import Runnable, RunnableLambda

    found: Any = load_entrypoint(spec, settings=settings, what="target")
    if inspect.isfunction(found) and not inspect.signature(found).parameters:
        found = found()
    if isinstance(found, Runnable) or not callable(found):
        return found  # type: ignore[no-any-return]
    return RunnableLambda(found)


def _show_plan(target: str, workflow_id: str, request: RunConfig, *, as_json: bool) -> None:
    plan = {"target": target, "workflow_id": workflow_id, "config": request.to_json()}
    if as_json:
        print_json({"dry_run": True, "mode": "run", **plan, "exit_code": 0})
        return
    show(f"target     {target} (workflow {workflow_id!r})")
    show(f"prompts    {', '.join(request.prompts) or 'none'}")
    show("dry run: nothing was written")

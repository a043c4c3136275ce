"""`agentensor run`: a workflow run once, with a config that is checked, merged and recorded.

Slow to import, because it needs LangGraph: commands import it when they are called.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from pydantic import BaseModel, ConfigDict, Field

from orcheo_agentensor.cli.jobfile import Overrides, load_job
from orcheo_agentensor.cli.options import load_settings, make_importable, named_store, reading
from orcheo_agentensor.cli.output import print_json, show
from orcheo_agentensor.config.model import RunConfig
from orcheo_agentensor.config.resolve import version_of
from orcheo_agentensor.entrypoints import load_entrypoint
from orcheo_agentensor.errors import AgentensorError, ConfigError, RunFailed
from orcheo_agentensor.redaction import knowing, redact, without_secrets
from orcheo_agentensor.runs.job import IDENTIFIER, parse_model
from orcheo_agentensor.runs.manager import slug
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.storage import Store
from orcheo_agentensor.targets import resolve_target
from orcheo_agentensor.targets.local import FactoryTarget
from orcheo_agentensor.targets.output import pick, to_json_output
from orcheo_agentensor.targets.served import configure


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
        None, title="Prompts", description="Prompt name to text, TextTensor or ContentTensor."
    )
    config: dict[str, Any] | None = Field(
        None, title="Config", description="The RunnableConfig the workflow runs with."
    )

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """Validate outside data; raises `ConfigError` that lists every problem."""
        return parse_model(cls, data, where="job")


def run_once(
    path: Path, overrides: Overrides, *, dry_run: bool, store: str | None, as_json: bool
) -> None:
    """Check a run job and run its workflow; the output goes to stdout as JSON."""
    settings = load_settings()
    make_importable(path.parent, Path.cwd())
    job = RunJob.parse(load_job(path, overrides))
    request = _config(job, settings)
    target = resolve_target(job.target, settings=settings)
    workflow_id = job.workflow_id or slug(target.name)
    named = named_store(store, settings)
    run_id = job.run_id or named.new_id()
    opened = Store(named.target, new_id=lambda: run_id)

    async def main() -> None:
        with knowing(job.config):
            try:
                await configured_run()
            except Exception as error:
                if (told := without_secrets(error)) is not error:
                    raise told from None
                raise

    async def configured_run() -> None:
        async with reading(opened) as there:
            await version_of(request, workflow_id, store=there)
        if dry_run:
            plan = {"target": target.name, "workflow_id": workflow_id, "config": request.to_json()}
            if as_json:
                print_json({"dry_run": True, "mode": "run", **plan, "exit_code": 0})
                return
            show(f"target     {target.name} (workflow {workflow_id!r})")
            show(f"prompts    {', '.join(request.prompts) or 'none'}")
            show("dry run: nothing was written")
            return
        async with opened:
            graph = _runnable(job, settings)
            configured = configure(graph, workflow_id=workflow_id, store=opened, settings=settings)
            workflow = replace(configured.workflow, spec=job.target)
            configured = configured.copy({"workflow": workflow})
            try:
                result = to_json_output(await configured.ainvoke(job.inputs, request.to_runnable()))
            except AgentensorError:
                raise
            except Exception as error:
                raise RunFailed(f"the workflow failed: {type(error).__name__}: {error}") from error
        path = job.target.get("output") if isinstance(job.target, dict) else None
        result = pick(result, path) if path else result
        if as_json:
            print_json({"run_id": run_id, "workflow_id": workflow_id, "output": redact(result)})
        else:
            print_json(redact(result))

    asyncio.run(main())


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


def _runnable(job: RunJob, settings: Settings) -> Runnable[Any, Any]:
    """The graph or function that a job names, as something to configure."""
    spec = job.target if isinstance(job.target, str) else job.target["entrypoint"]
    found: Any = load_entrypoint(spec, settings=settings, what="target")
    if inspect.isfunction(found) and not inspect.signature(found).parameters:
        found = found()
    if isinstance(found, Runnable) or not callable(found):
        return found  # type: ignore[no-any-return]
    target = resolve_target(spec, settings=settings)
    if isinstance(target, FactoryTarget):

        async def build_and_run(inputs: Any, config: RunnableConfig) -> Any:
            built = await target.connect(config)
            return await built.run(inputs, config, rollout_id="run")

        return RunnableLambda(build_and_run)
    return RunnableLambda(found)

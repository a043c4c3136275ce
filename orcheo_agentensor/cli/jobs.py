"""`agentensor evaluate`, `train`, `run` and `resume`: a job file carried out."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from pydantic import BaseModel, ConfigDict, Field

from orcheo_agentensor.cli import options
from orcheo_agentensor.cli.errors import EXIT_CODES, ExitCode, handled
from orcheo_agentensor.cli.options import named_store, reading
from orcheo_agentensor.cli.output import print_json, show, show_table
from orcheo_agentensor.config.model import RunConfig
from orcheo_agentensor.entrypoints import load_entrypoint
from orcheo_agentensor.errors import AgentensorError, BadInput, ConfigError, RunFailed
from orcheo_agentensor.runs.job import IDENTIFIER, parse_model
from orcheo_agentensor.targets import resolve_target
from orcheo_agentensor.targets.output import pick, to_json_output

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable

    from orcheo_agentensor.cli.execution import Gate, Mode
    from orcheo_agentensor.cli.jobfile import Overrides
    from orcheo_agentensor.runs.manager import CheckedJob
    from orcheo_agentensor.settings import Settings
    from orcheo_agentensor.storage import RunRecord, Store


def show_plan(checked: CheckedJob[Any], *, as_json: bool) -> None:
    """Print what would run."""
    plan = describe(checked)
    if as_json:
        print_json({"dry_run": True, **plan, "exit_code": 0})
        return
    dataset = plan["dataset"]
    splits = ", ".join(f"{name} {count}" for name, count in dataset["splits"].items())
    show(f"target     {plan['target']} (workflow {plan['workflow_id']!r})")
    times = f", each run {plan['replicates']} times" if plan["replicates"] > 1 else ""
    show(f"dataset    {dataset['id']} {dataset['version'][:12]}, {dataset['cases']} cases{times}")
    if splits:
        show(f"splits     {splits}")
    prompts = [
        name if prompt["requires_grad"] else f"{name} (frozen)"
        for name, prompt in plan["prompts"].items()
    ]
    start = f", from version {plan['base_version']}" if plan["base_version"] else ""
    show(f"prompts    {', '.join(prompts) or 'none'}{start}")
    show(f"limits     {', '.join(f'{key} {value}' for key, value in plan['limits'].items())}")
    if training := plan.get("training"):
        computed = "" if training["budget_given"] else " (computed)"
        budget = ", ".join(f"{key} {value}" for key, value in training["budget"].items())
        show(f"optimizer  {training['optimizer']['name']}, seed {training['seed']}")
        show(f"budget     {budget}{computed}")
        show(f"uses       {', '.join(f'{k} {v}' for k, v in training['cases'].items())}")
    rows = [(e["name"], f"{e['weight']:g}", e["binding"]) for e in plan["evaluators"]]
    show_table(("evaluator", ">weight", "bound as"), rows)
    show("dry run: nothing was written")


def describe(checked: CheckedJob[Any]) -> dict[str, Any]:
    """A checked job as JSON."""
    from orcheo_agentensor.prompts import prompts_to_json

    job, dataset, extra = checked.job, checked.dataset, checked.plan
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
            {"name": e.name, "weight": e.weight, "binding": e.binding} for e in checked.evaluators
        ],
        "prompts": prompts_to_json(checked.prompts),
        "base_version": checked.base_version,
        "config": checked.config.to_json(),
        "limits": job.limits.model_dump(exclude_none=True),
        "min_coverage": job.min_coverage,
        "replicates": job.replicates,
    }
    if extra is not None:
        from orcheo_agentensor.training.job import describe as describe_optimizer

        plan["training"] = {
            "optimizer": describe_optimizer(extra.optimizer),
            "budget": extra.budget.model_dump(exclude_none=True),
            "budget_given": extra.budget_given,
            "cases": {
                "train": len(extra.train),
                "validation": len(extra.validation),
                "holdout": len(extra.holdout),
                "left_out": extra.left_out,
                "leaked": extra.leaked,
            },
            "trainable": list(extra.trainable),
            "promote": job.promote,
            "seed": job.seed,
        }
    return plan


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
    from orcheo_agentensor.runs.manager import slug
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
    from orcheo_agentensor.targets.served import configure

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


_TRAINING_ONLY = ("optimizer", "budget", "stop", "checkpoint_every", "promote", "seed")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("evaluate", epilog=EXIT_CODES)(evaluate)
    app.command("train", epilog=EXIT_CODES)(train)
    app.command("run", epilog=EXIT_CODES)(run)


@handled
def evaluate(
    job: options.JobFile,
    run_id: options.RunId = None,
    checkpoint: options.Checkpoint = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only the cases of this split.")
    ] = None,
    concurrency: options.Concurrency = None,
    reuse: options.Reuse = None,
    min_score: options.MinScore = None,
    dry_run: options.DryRun = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Evaluate a workflow on a dataset.

    A training job will do as well: what only training needs is left out.
    """
    from orcheo_agentensor.cli.execution import parse_gates
    from orcheo_agentensor.cli.jobfile import Overrides

    overrides = Overrides(
        run_id=run_id, concurrency=concurrency, checkpoint=checkpoint, split=split, reuse=reuse
    )
    return _carry_out(
        "evaluate",
        job,
        overrides,
        gates=parse_gates(min_score),
        dry_run=dry_run,
        store=store,
        as_json=as_json,
        quiet=quiet,
    )


@handled
def train(
    job: options.JobFile,
    run_id: options.RunId = None,
    checkpoint: options.Checkpoint = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="The seed of the search; goes over the job's.")
    ] = None,
    concurrency: options.Concurrency = None,
    reuse: options.Reuse = None,
    dry_run: options.DryRun = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Train the prompts of a workflow and store the result as a version."""
    from orcheo_agentensor.cli.jobfile import Overrides

    overrides = Overrides(
        run_id=run_id, seed=seed, concurrency=concurrency, checkpoint=checkpoint, reuse=reuse
    )
    return _carry_out(
        "train",
        job,
        overrides,
        gates=[],
        dry_run=dry_run,
        store=store,
        as_json=as_json,
        quiet=quiet,
    )


@handled
def run(
    job: options.JobFile,
    run_id: options.RunId = None,
    checkpoint: options.Checkpoint = None,
    dry_run: options.DryRun = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> int:
    """Run a workflow once with a checked and recorded config; its output is printed as JSON.

    With --json the output comes with the id of the run.
    """
    from orcheo_agentensor.cli.jobfile import Overrides, load_job
    from orcheo_agentensor.cli.options import load_settings, make_importable

    settings = load_settings()
    make_importable(job.parent, Path.cwd())
    data = load_job(job, Overrides(run_id=run_id, checkpoint=checkpoint))
    return carry_out(data, settings=settings, store_url=store, dry_run=dry_run, as_json=as_json)


def _carry_out(
    mode: Mode,
    path: Path,
    overrides: Overrides,
    *,
    gates: list[Gate],
    dry_run: bool,
    store: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    from orcheo_agentensor.cli.execution import Desk, Ending, Stopper, require_known, run_main
    from orcheo_agentensor.cli.jobfile import load_job
    from orcheo_agentensor.cli.options import load_settings, make_importable, named_store

    settings = load_settings()
    make_importable(path.parent, Path.cwd())
    data = load_job(path, overrides)
    if mode == "evaluate":
        data = _for_evaluation(data)
    desk = Desk(mode=mode, store=named_store(store, settings), settings=settings)
    ending = Ending(
        mode=mode, as_json=as_json, store_url=store, gates=gates, job=shlex.quote(str(path))
    )
    stopper, folder = Stopper(), str(path.parent.resolve())

    async def main() -> int:
        checked = await desk.check(data)
        require_known(gates, [evaluator.name for evaluator in checked.evaluators])
        if dry_run:
            show_plan(checked, as_json=as_json)
            return ExitCode.OK
        async with desk.store:
            found = await desk.begin(checked, data, stopper, folder=folder, silent=quiet or as_json)
            return ending.report(found, await desk.store.runs.get(found["run_id"]))

    return run_main(main(), stopper)


def _for_evaluation(data: dict[str, Any]) -> dict[str, Any]:
    """An evaluation job from either kind; a training job is checked as one first."""
    if not any(name in data for name in _TRAINING_ONLY):
        return data
    from orcheo_agentensor.training.job import TrainingJob

    TrainingJob.parse({key: value for key, value in data.items() if value is not None})
    return {key: value for key, value in data.items() if key not in _TRAINING_ONLY}


def register_resume(app: typer.Typer) -> None:
    """Add the command."""
    app.command("resume", epilog=EXIT_CODES)(resume)


@handled
def resume(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The id of the run.")],
    approve: Annotated[
        bool | None,
        typer.Option("--approve/--reject", help="Answer a training that waits for approval."),
    ] = None,
    actor: options.Actor = None,
    reason: options.Reason = "",
    min_score: options.MinScore = None,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Go on with a run that was interrupted, failed, or waits for approval.

    Nothing that is recorded runs again. A finished run shows its result.
    """
    from orcheo_agentensor.cli.execution import (
        FOLDER,
        Desk,
        Ending,
        Stopper,
        parse_gates,
        require_known,
        run_main,
    )
    from orcheo_agentensor.cli.options import load_settings, make_importable, named_store, reading

    settings = load_settings()
    opened = named_store(store, settings)
    gates = parse_gates(min_score)
    answer = _answer(approve, actor, reason)
    stopper = Stopper()

    async def main() -> int:
        async with reading(opened) as there:
            known = await there.runs.get(run_id)
        if known.mode == "run":
            raise BadInput(
                f"run {run_id!r} was one execution of a workflow; only evaluations and trainings "
                "can be resumed: start it again with `agentensor run`",
                field="run_id",
                value=run_id,
                rule="must be an evaluation or a training",
            )
        _require_paused(known, answer)
        ending = Ending(mode=known.mode, as_json=as_json, store_url=store, gates=gates)
        if known.status == "finished" and known.result is not None:
            require_known(gates, known.result["summary"]["evaluators"])
            return ending.report({**known.result, "run_id": run_id}, known)
        folders = [Path(known.refs[FOLDER])] if FOLDER in known.refs else []
        make_importable(*folders, Path.cwd())
        desk = Desk(mode=known.mode, store=opened, settings=settings)
        async with opened:
            checked = await desk.manager().recall(run_id)
            require_known(gates, [evaluator.name for evaluator in checked.evaluators])
            found = await desk.drive(
                None,
                run_id,
                stopper,
                silent=quiet or as_json,
                graph=desk.graph(checked.dataset),
                answer=answer,
            )
            return ending.report(found, await opened.runs.get(run_id))

    return run_main(main(), stopper)


def _answer(approve: bool | None, actor: str | None, reason: str) -> dict[str, Any] | None:
    if approve is None:
        return None
    return {"approve": approve, "actor": options.actor_name(actor), "reason": reason}


def _require_paused(run: RunRecord, answer: dict[str, Any] | None) -> None:
    if answer is not None and run.status != "paused":
        raise BadInput(
            f"run {run.run_id!r} is {run.status}, it does not wait for approval; "
            "leave --approve and --reject out",
            field="--approve",
            value=run.status,
            rule="needs a run that waits for approval",
        )

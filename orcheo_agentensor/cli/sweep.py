"""A sweep: one job file whose `matrix` makes many trainings, each a run of its own.

Slow to import, because it needs LangGraph: commands import it when they are called.
"""

from __future__ import annotations

import asyncio
import itertools
import shlex
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeAlias

from pydantic import ConfigDict, Field

from orcheo_agentensor.cli import output
from orcheo_agentensor.cli.errors import ExitCode
from orcheo_agentensor.cli.execution import JobRunner, Stopper, describe
from orcheo_agentensor.cli.jobfile import Overrides, completed, read_document
from orcheo_agentensor.cli.options import (
    load_settings,
    make_importable,
    named_store,
    reading,
    store_option,
)
from orcheo_agentensor.cli.output import print_json, say, show
from orcheo_agentensor.datasets import as_dataset
from orcheo_agentensor.display import number, spent
from orcheo_agentensor.errors import AgentensorError, BadInput, ConfigError, shorten
from orcheo_agentensor.errors import describe as problem_of
from orcheo_agentensor.json_values import StrictNumbers
from orcheo_agentensor.runs.front import INTERRUPTED
from orcheo_agentensor.runs.job import parse_model
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.targets.servers import AssistantAddress
from orcheo_agentensor.training import TrainingJob
from orcheo_agentensor.training.budget import Budget
from orcheo_agentensor.training.folds import share
from orcheo_agentensor.usage import Usage

MATRIX, SWEEP = "matrix", "sweep"
MOST_RUNS = 1_000
NOT_RUN = "not run"

_TOO_MANY = f"must make at most {MOST_RUNS:,} runs"
_COLUMNS = (
    "run",
    ">baseline",
    ">best",
    ">gain",
    "decision",
    ">rollouts",
    ">calls",
    ">cost",
)


class SweepPlan(StrictNumbers):
    """How the runs of a matrix are carried out."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="Sweep")

    parallel: int = Field(1, ge=1, le=64, title="At once", description="Most runs at work at once.")
    budget: Budget | None = Field(
        None, title="Budget", description="Of all runs together; each gets an equal part of it."
    )
    server: str | None = Field(
        None, title="Server", description="The LangGraph server that runs them, by its queue."
    )
    api_key_env: str | None = Field(
        None, title="Key", description="The environment variable that holds the server's key."
    )

    @classmethod
    def parse(cls, data: Any) -> Self:
        """Validate outside data; raises `ConfigError` that lists every problem."""
        if not isinstance(data, Mapping):
            raise ConfigError(field="job.sweep", value=data, rule="must be a mapping")
        return parse_model(cls, data, where="job.sweep")


Values: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One combination of a matrix: the id of its run, what it sets, and its job."""

    run_id: str
    values: Values
    job: dict[str, Any]

    @property
    def label(self) -> str:
        """What it sets, in few words."""
        return ", ".join(f"{name} {_short(value)}" for name, value in self.values.items())


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value.get("name") or value.get("target") or value
    return shorten(value).strip("'\"")


def combinations(matrix: Any) -> list[Values]:
    """The combinations of a matrix, the last field changing fastest.

    Raises `ConfigError` for what is no mapping of names to lists, or makes too many.
    """
    if not isinstance(matrix, Mapping) or not matrix:
        rule = "must map fields of the job to lists of values"
        raise ConfigError(field="job.matrix", value=matrix, rule=rule)
    count = 1
    for name, values in matrix.items():
        where = f"job.matrix.{name}"
        if not isinstance(values, list) or not values:
            raise ConfigError(field=where, value=values, rule="must be a list of values")
        if any(one in values[:number] for number, one in enumerate(values)):
            raise ConfigError(field=where, value=values, rule="must not have a value twice")
        first = str(name).partition(".")[0]
        if first in ("run_id", MATRIX, SWEEP):
            raise ConfigError(field=where, value=name, rule="is no field that runs may differ in")
        fields = TrainingJob.model_fields
        if first not in fields and not all(isinstance(one, Mapping) for one in values):
            rule = (
                "is no field of a training job; under another name each value must be a mapping of "
                "fields that are set together"
            )
            raise ConfigError(field=where, value=name, rule=rule)
        count *= len(values)
    if count > MOST_RUNS:
        raise ConfigError(field="job.matrix", value=count, rule=_TOO_MANY)
    return [
        dict(zip(map(str, matrix), chosen, strict=True))
        for chosen in itertools.product(*matrix.values())
    ]


def laid_over(job: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """The job with the values of a combination in their places.

    Raises `ConfigError` for a field of what the job has as something else than a mapping.
    """
    found = dict(job)
    for name, value in values.items():
        path = name.split(".")
        if path[0] not in TrainingJob.model_fields:
            found |= {key: one for key, one in value.items() if key != "name"}
            continue
        here = found
        for depth, key in enumerate(path[:-1], 1):
            inner = here.get(key)
            if not isinstance(inner, Mapping | None):
                place = ".".join(path[:depth])
                rule = f"is what job.{place} is, and has no fields: write it as a mapping there"
                raise ConfigError(field=f"job.matrix.{name}", value=inner, rule=rule)
            here[key] = here = dict(inner or {})
        here[path[-1]] = value
    return found


def _fields_in(values: Values) -> Iterator[str]:
    """The fields of the job that a combination sets."""
    for name, value in values.items():
        if name.partition(".")[0] in TrainingJob.model_fields:
            yield name
        else:
            yield from value


@dataclass(frozen=True)
class Sweep:
    """The runs of a job file with a matrix."""

    sweep_id: str
    plan: SweepPlan
    points: tuple[Point, ...]

    @classmethod
    def read(cls, path: Path, overrides: Overrides, *, new_id: Callable[[], str]) -> Self:
        """Raises `BadInput` for what no run could begin with."""
        document = dict(read_document(path))
        matrix = document.pop(MATRIX)
        plan = SweepPlan.parse(document.pop(SWEEP, None) or {})
        chosen = combinations(matrix)
        told = {field for values in chosen for field in _fields_in(values)}
        for name, place in (("seed", "seed"), ("concurrency", "limits.concurrency")):
            if getattr(overrides, name) is not None and not told.isdisjoint(
                {place, place.partition(".")[0]}
            ):
                raise BadInput(
                    field=f"--{name}", value=getattr(overrides, name), rule="is in the matrix"
                )
        sweep_id = overrides.run_id or document.get("run_id") or new_id()
        width = len(str(len(chosen)))
        points = []
        for index, values in enumerate(chosen, 1):
            job = completed(laid_over(document, values), path.parent, overrides)
            run_id = f"{sweep_id}-{index:0{width}}"
            budget = _budget_of(job.get("budget"), plan.budget, len(chosen))
            given = {} if budget is None else {"budget": budget}
            points.append(Point(run_id, values, {**job, **given, "run_id": run_id}))
        return cls(str(sweep_id), plan, tuple(points))


def _budget_of(own: Any, whole: Budget | None, runs: int) -> Any:
    """A run's own budget, but no more than its part of that of the sweep."""
    if whole is None:
        return own
    part = share(whole, runs - 1).model_dump(exclude_none=True)
    if not isinstance(own, Mapping):
        return part if own is None else own
    least = {
        name: min(limit, own[name]) if isinstance(own.get(name), int | float) else limit
        for name, limit in part.items()
    }
    return {**own, **least}


@dataclass
class Ended:
    """How one run of a sweep ended: what its graph gave, or why it gave nothing."""

    point: Point
    status: str
    found: Mapping[str, Any] = field(default_factory=dict)
    why: str | None = None

    def row(self) -> tuple[object, ...]:
        """Its row of the table."""
        found, usage = self.found, self.found.get("usage") or {}
        baseline, best = found.get("baseline") or {}, found.get("best") or {}
        gain = (found.get("holdout") or {}).get("gain")
        decision = (found.get("decision") or {}).get("status") or self.status
        cost = usage.get("cost")
        return (
            self.point.run_id,
            number(baseline.get("objective")),
            number(best.get("objective")),
            "-" if gain is None else f"{gain:+.3f}",
            decision,
            usage.get("rollouts", "-"),
            usage.get("calls", "-"),
            "-" if cost is None else f"${cost:.4f}",
        )

    def to_json(self) -> dict[str, Any]:
        parts = ("workflow_id", "baseline", "best", "holdout", "decision", "usage")
        kept = {name: self.found[name] for name in parts if name in self.found}
        for name in ("baseline", "best"):
            if version := kept.get(name):
                measured = ("config_version", "objective", "scores")
                kept[name] = {key: version.get(key) for key in measured}
        why = {} if self.why is None else {"reason": self.why}
        return {
            "run_id": self.point.run_id,
            "values": self.point.values,
            "status": self.status,
            **kept,
            **why,
        }


Run: TypeAlias = Callable[[Point], Coroutine[Any, Any, Mapping[str, Any]]]


async def carried_out(sweep: Sweep, run: Run, *, stopper: Stopper) -> list[Ended]:
    """Run every point, so many at once; after a signal no further one begins.

    A run that fails is told and costs no other one its turn.
    """
    places = asyncio.Semaphore(sweep.plan.parallel)
    done = 0

    async def one(point: Point) -> Ended:
        nonlocal done
        async with places:
            if stopper.control.drain_requested or stopper.cancelled:
                return Ended(point, NOT_RUN)
            try:
                found = await run(point)
                ended = Ended(point, str(found["status"]), found, found.get("reason"))
            except AgentensorError as error:
                ended = Ended(point, "failed", why=error.message)
            except asyncio.CancelledError:
                if not stopper.cancelled:
                    raise
                return Ended(point, INTERRUPTED)
            except Exception as error:  # noqa: BLE001 - one run of many, and told
                ended = Ended(point, "failed", why=problem_of(error))
            done += 1
            why = "" if ended.why is None else f": {ended.why}"
            say(f"{done}/{len(sweep.points)} {point.run_id} ({point.label}): {ended.status}{why}")
            return ended

    return list(await asyncio.gather(*map(one, sweep.points)))


def start_sweep(
    path: Path,
    overrides: Overrides,
    *,
    overrides_flag: str | None,
    dry_run: bool,
    store: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Train by a job file with a matrix; returns the exit code."""
    settings = load_settings()
    make_importable(path.parent, Path.cwd())
    opened = named_store(store, settings)
    sweep = Sweep.read(path, overrides, new_id=opened.new_id)
    stopper = Stopper()
    runner = JobRunner(
        mode="train",
        store=opened,
        settings=settings,
        stopper=stopper,
        silent=quiet or as_json or sweep.plan.parallel > 1,
        overrides_flag=overrides_flag,
    )
    folder = str(path.parent.resolve())

    async def here() -> list[Ended] | None:
        async with reading(opened) as there:
            manager = runner.manager(there)
            plans = [
                describe(await _named(point, manager.check(point.job))) for point in sweep.points
            ]
        if dry_run:
            _show_plan(sweep, plans, as_json=as_json)
            return None

        async def run(point: Point) -> Mapping[str, Any]:
            checked = await runner.manager(opened).check(point.job)
            return await runner.start(checked, point.job, folder=folder)

        async with opened:
            return await carried_out(sweep, run, stopper=stopper)

    async def main() -> int:
        if sweep.plan.server is None:
            ended = await here()
        else:
            ended = await _on_server(sweep, settings, stopper, dry_run=dry_run, as_json=as_json)
        if ended is None:
            return ExitCode.OK
        again = f"agentensor train {shlex.quote(str(path))} --run-id {sweep.sweep_id}"
        return _report(sweep, ended, again=again + store_option(store), as_json=as_json)

    return stopper.run(main())


async def _named(point: Point, check: Coroutine[Any, Any, Any]) -> Any:
    """What `check` gives; its problem is told with the run that it is of."""
    try:
        return await check
    except BadInput as error:
        where = f"run {point.run_id} ({point.label})"
        raise BadInput(
            f"{where}: {error.message}", field=error.field, value=error.value, rule=error.rule
        ) from error


async def _on_server(
    sweep: Sweep, settings: Settings, stopper: Stopper, *, dry_run: bool, as_json: bool
) -> list[Ended] | None:
    """Submit every run to a LangGraph server's own training graph, whose queue spreads them."""
    plan = sweep.plan
    address = AssistantAddress.parse(
        {"url": plan.server, "assistant": "training", "api_key_env": plan.api_key_env},
        field="job.sweep",
    )
    address.require_allowed(settings, field="job.sweep")
    jobs = {}
    for point in sweep.points:
        job = dict(point.job)
        dataset = await asyncio.to_thread(as_dataset, job.get("dataset"))
        cases = {"cases": list(dataset.cases_to_json()), "metadata": dict(dataset.metadata)}
        jobs[point.run_id] = {**job, "dataset": cases}
        TrainingJob.parse({key: value for key, value in job.items() if value is not None})
    if dry_run:
        _show_plan(sweep, [], as_json=as_json)
        return None
    [url] = address.urls
    async with address.client(url, settings=settings, streams=True) as client:

        async def run(point: Point) -> Mapping[str, Any]:
            thread = (await client.threads.create())["thread_id"]
            begun = await client.runs.create(thread, "training", input=jobs[point.run_id])
            while True:
                state = await client.runs.get(thread, begun["run_id"])
                if state["status"] not in ("pending", "running"):
                    break
                if stopper.control.drain_requested:
                    await client.runs.cancel(thread, begun["run_id"], wait=True)
                    return {"run_id": point.run_id, "status": INTERRUPTED}
                await asyncio.sleep(_LOOK)
            found: Any = await client.runs.join(thread, begun["run_id"])
            if "__error__" in found:
                return {"status": "failed", "reason": str(found["__error__"].get("message"))}
            return {"status": "awaiting_approval", **found} if "__interrupt__" in found else found

        return await carried_out(sweep, run, stopper=stopper)


_LOOK = 0.5  # seconds between two looks at a run on a server


def _show_plan(sweep: Sweep, plans: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print what would run."""
    if as_json:
        runs = [
            {"run_id": point.run_id, "values": point.values, "plan": plan}
            for point, plan in itertools.zip_longest(sweep.points, plans)
        ]
        document = {"dry_run": True, "mode": "train", "sweep": sweep.sweep_id, "runs": runs}
        print_json({**document, "exit_code": 0})
        return
    rows = []
    for point, plan in itertools.zip_longest(sweep.points, plans):
        budget = plan["training"]["budget"] if plan else point.job.get("budget") or {}
        limits = ", ".join(f"{limit:g} {name}" for name, limit in budget.items())
        rows.append((point.run_id, point.label, limits))
    output.show_table(("run", "sets", "budget at most"), rows)
    show(f"{len(sweep.points)} runs, {sweep.plan.parallel} at once")
    show("dry run: nothing was written")


def _report(sweep: Sweep, ended: Sequence[Ended], *, again: str, as_json: bool) -> int:
    """Print how the sweep ended; returns the exit code."""
    used = [Usage.from_json(one.found["usage"]) for one in ended if one.found.get("usage")]
    usage = Usage.total(used).to_json()
    open_ = [one for one in ended if one.status in (INTERRUPTED, NOT_RUN)]
    code = ExitCode.OK
    if any(one.status == "missed_threshold" for one in ended):
        code = ExitCode.THRESHOLD
    if any(one.status == "failed" for one in ended):
        code = ExitCode.FAILED
    if open_:
        code = ExitCode.INTERRUPTED
    if as_json:
        document: dict[str, Any] = {
            "sweep": sweep.sweep_id,
            "runs": [one.to_json() for one in ended],
            "usage": usage,
        }
        print_json({**document, **({"resume": again} if open_ else {}), "exit_code": int(code)})
        return code
    for one in ended:
        show(f"{one.point.run_id}: {one.point.label}")
    output.show_table(_COLUMNS, [one.row() for one in ended])
    for one in ended:
        if one.status == "failed":
            show(f"failed: {one.point.run_id}: {one.why}", style="red")
    partly = "" if len(used) == len(ended) else f" by the {len(used)} that have a result"
    show(f"sweep {sweep.sweep_id}, {len(ended)} runs; spent{partly}: {spent(usage)}")
    if open_:
        say(f"{len(open_)} runs are not finished. Go on with: {again}", style="yellow")
    return code

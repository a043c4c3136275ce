"""What Orcheo's own `AgentensorNode` is given and gives back, in the words of our jobs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from agentensor.loss import LLMTensorJudge
from orcheo.agentensor.checkpoints import AgentensorCheckpoint
from orcheo.agentensor.evaluation import EvaluatorDefinition
from orcheo.agentensor.training import OptimizerConfig
from pydantic import BaseModel, ValidationError

from orcheo_agentensor.datasets import Dataset, as_dataset
from orcheo_agentensor.entrypoints import load_entrypoint
from orcheo_agentensor.errors import BadInput, EvaluatorRefused
from orcheo_agentensor.evaluators.binding import bind_evaluator
from orcheo_agentensor.events import Event, listening
from orcheo_agentensor.json_values import canonical_json
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.storage import ConfigCheckpoint, Store

_MOST_AT_ONCE = 8
"""Cases that Orcheo's node runs at once, whatever its optimizer asks for."""

_EVENTS = {
    "case_finished": "{mode}_progress",
    "evaluation_summary": "evaluation_summary",
    "checkpoint_saved": "training_checkpoint",
    "training_progress": "training_epoch_complete",
}
"""Ours -> what Orcheo's `progress_callback` calls it."""


def of_optimizer(data: dict[str, Any]) -> dict[str, Any]:
    """The fields of a node, with Orcheo's `OptimizerConfig` as limits, stop and checkpoints.

    What the node says itself in our words goes over it.
    """
    given = data.get("optimizer")
    named = given.keys() if isinstance(given, Mapping) else ()
    if isinstance(given, OptimizerConfig):
        found = given
    elif named and named <= OptimizerConfig.model_fields.keys():
        found = OptimizerConfig.model_validate(given)
    else:
        return data
    limits: Any = {
        "concurrency": min(found.max_concurrency, _MOST_AT_ONCE),
        "case_timeout": found.case_timeout_seconds,
    }
    said: dict[str, Any] = {"limits": limits}
    if data.get("mode") == "train":
        said["stop"] = [{"type": "max_epochs", "epochs": found.epochs}]
        said["checkpoint_every"] = found.checkpoint_interval
    return {**said, **{key: value for key, value in data.items() if key != "optimizer"}}


def of_evaluators(given: Any, *, settings: Settings) -> tuple[Any, bool]:
    """`given` with Orcheo's `{id, entrypoint, config}` as ours, and whether there was one."""
    if not isinstance(given, list | tuple):
        return given, False
    found = [_of_evaluator(one, settings) if _is_definition(one) else one for one in given]
    return found, any(map(_is_definition, given))


def _is_definition(value: Any) -> bool:
    return isinstance(value, EvaluatorDefinition) or (
        isinstance(value, Mapping) and {"id", "entrypoint"} <= value.keys()
    )


def _of_evaluator(given: Any, settings: Settings) -> Any:
    try:
        definition = EvaluatorDefinition.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(["evaluators", *map(str, first["loc"])])
        raise EvaluatorRefused(field=field, value=first["input"], rule=first["msg"]) from None
    spec = {"entrypoint": definition.entrypoint, "name": definition.id, "params": definition.config}
    loaded: Any = load_entrypoint(definition.entrypoint, settings=settings, what="evaluator")
    if isinstance(loaded, type) and issubclass(loaded, LLMTensorJudge):
        judge = loaded(**definition.config)

        async def judged(ctx: Any) -> Any:
            return await judge.evaluate(
                SimpleNamespace(
                    inputs=_Text(ctx.inputs),
                    output=_Text(ctx.output),
                    expected_output=ctx.expected_output,
                    metadata=ctx.metadata,
                    duration=ctx.duration,
                )
            )

        return bind_evaluator(judged, name=definition.id, settings=settings)
    called = not isinstance(loaded, type) or "__call__" in vars(loaded)
    return {**spec, "kind": "context"} if called else spec


class _Text:
    """A value with a `text`, as Orcheo hands it to its judges of tensors."""

    def __init__(self, value: Any) -> None:
        text = value.get("text") if isinstance(value, Mapping) else value
        self.text = text if isinstance(text, str) else canonical_json(value)


async def of_dataset(given: Any, *, most: int | None, under: Mapping[str, Any]) -> Any:
    """The dataset of a job: the first `most` cases, their inputs laid over `under`."""
    if isinstance(given, BaseModel):
        given = given.model_dump(mode="json", exclude_none=True)
    if given is None or (most is None and not under):
        return given
    if isinstance(given, Mapping) and given.get("path") is None and given.get("cases") is None:
        rule = "is for cases at hand, not for a stored dataset"
        raise BadInput(field="max_cases", value=most, rule=rule)
    whole = await asyncio.to_thread(as_dataset, given)
    cases = [
        case.model_copy(update={"inputs": {**under, **case.inputs}})
        if under and isinstance(case.inputs, Mapping)
        else case
        for case in whole.cases[:most]
    ]
    return Dataset(id=whole.id, cases=tuple(cases), metadata=whole.metadata)


def of_state_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """The config that a job adds to its target's, of one that Orcheo stores or has in its state."""
    kept = {key: given[key] for key in ("tags", "metadata", "run_name") if given.get(key)}
    for key in ("recursion_limit", "max_concurrency"):
        if given.get(key) is not None:
            kept[key] = given[key]
    configurable = {k: v for k, v in (given.get("configurable") or {}).items() if k != "thread_id"}
    return {**kept, **({"configurable": configurable} if configurable else {})}


async def results_of(
    store: Store, run_id: str, *, candidate_hash: str | None = None
) -> list[dict[str, Any]]:
    """The cases of a run, or of one candidate in it, as Orcheo's node lists them; one that failed
    has its `error`."""
    run = await store.runs.get(run_id)
    _, cases = await store.datasets.load(
        str(run.dataset_id), run.dataset_version, run.dataset_metadata_version
    )
    at = {str(case["id"]): index for index, case in enumerate(cases)}
    found = []
    for row in await store.runs.case_rows(run_id, candidate_hash=candidate_hash, limit=None):
        index = at[row.rollout.case_id]
        entry: dict[str, Any] = {
            "case_index": index,
            "inputs": cases[index].get("inputs"),
            "output": row.rollout.output,
            "evaluations": {
                one.name: {
                    "score": one.score,
                    "passed": one.passed if one.passed is not None else one.score >= 0.5,
                    "reason": one.reason,
                }
                for one in row.scores
                if one.score is not None
            },
            "metadata": cases[index].get("metadata") or {},
            "duration_ms": row.rollout.latency_ms,
            "phase": row.rollout.phase,
        }
        if row.rollout.failure is not None:
            entry["error"] = row.rollout.failure["reason"]
        found.append(entry)
    return sorted(found, key=lambda one: int(one["case_index"]))


class Trained:
    """The versions of a training as Orcheo's checkpoints, each once in `theirs` where there is one.

    What `theirs` holds of a run already is not written again, after a kill, or where the workflow
    around the node is executed anew. `prompts` are those of the node as Orcheo stores them.
    """

    def __init__(self, store: Store, theirs: Any, *, prompts: Mapping[str, Any]) -> None:
        self._store = store
        self._theirs = theirs
        self._prompts = prompts
        self._found: dict[int, AgentensorCheckpoint] | None = None
        self._best = -math.inf

    async def add(self, version: ConfigCheckpoint) -> AgentensorCheckpoint:
        """The checkpoint of a version, recorded."""
        found = await self._known(version)
        if version.config_version not in found:
            found[version.config_version] = await self._recorded(version)
        return found[version.config_version]

    async def saved(self, event: Event) -> AgentensorCheckpoint:
        """The checkpoint of the version that an event tells of, recorded."""
        run = await self._store.runs.get(event["run_id"])
        number = int(event["version"])
        return await self.add(await self._store.checkpoints.get(run.workflow_id, number))

    async def to_payload(self, run_id: str, best: int) -> dict[str, Any]:
        """What Orcheo's node returns of a training: its checkpoints, and the cases of the best."""
        run = await self._store.runs.get(run_id)
        versions = await self._store.checkpoints.list(run.workflow_id, run_id=run_id, limit=None)
        checkpoints = {one.config_version: await self.add(one) for one in reversed(versions)}
        dumped = {key: one.model_dump(mode="json") for key, one in checkpoints.items()}
        [chosen] = [one for one in versions if one.config_version == best]
        results = await results_of(self._store, run_id, candidate_hash=chosen.metadata["candidate"])
        epoch = chosen.metadata.get("epoch")
        return {
            "results": [{**one, "epoch": epoch} for one in results],
            "checkpoints": list(dumped.values()),
            "best_checkpoint": dumped[best],
        }

    async def _known(self, version: ConfigCheckpoint) -> dict[int, AgentensorCheckpoint]:
        if self._found is None:
            listed = getattr(self._theirs, "list_checkpoints", None)
            there = [] if listed is None else await listed(version.workflow_id)
            mine = [one for one in there if one.metadata.get("run_id") == version.run_id]
            self._found = {one.metadata["version"]: one for one in mine}
            self._best = max((_number(one.metadata) for one in mine), default=-math.inf)
        return self._found

    async def _recorded(self, version: ConfigCheckpoint) -> AgentensorCheckpoint:
        means = {name: one["mean"] for name, one in version.metrics["evaluators"].items()}
        objective = _number(version.metrics)
        is_best = objective > self._best
        self._best = max(self._best, objective)
        prompts = dict(self._prompts)
        for name, tensor in version.prompts.items():
            prompts[name] = {**prompts.get(name, {}), "text": tensor.text}
        config = of_state_config(version.runnable_config)
        config.get("configurable", {}).pop("prompts", None)
        kept = {key: version.metadata.get(key) for key in ("epoch", "step", "reason")}
        fields: dict[str, Any] = {
            "workflow_id": version.workflow_id,
            "runnable_config": {**config, "prompts": prompts},
            "metrics": means,
            "metadata": {
                **kept,
                "summary": means,
                "objective": version.metrics["objective"],
                "run_id": version.run_id,
                "version": version.config_version,
            },
            "is_best": is_best,
        }
        if self._theirs is None:
            return AgentensorCheckpoint(config_version=version.config_version, **fields)
        recorded: AgentensorCheckpoint = await self._theirs.record_checkpoint(**fields)
        return recorded


def _number(held: Mapping[str, Any]) -> float:
    """The objective in metrics or metadata; below all others where nothing could be scored."""
    return -math.inf if held["objective"] is None else float(held["objective"])


@asynccontextmanager
async def telling(
    callback: Callable[[dict[str, Any]], Awaitable[None]] | None,
    *,
    node: str,
    mode: str,
    trained: Trained | None,
) -> AsyncIterator[None]:
    """Tell Orcheo's `progress_callback` of the events of the runs inside the block, in order.

    A version that is saved is first recorded as a checkpoint of what was `trained`, which is told
    with its event. The run waits for none of them, only the end of the block for the last.
    """
    if callback is None and trained is None:
        yield
        return
    queue: asyncio.Queue[Event | None] = asyncio.Queue()

    async def tell() -> None:
        while (event := await queue.get()) is not None:
            payload: dict[str, Any] = dict(event)
            if trained is not None and event["type"] == "checkpoint_saved":
                payload |= (await trained.saved(event)).model_dump(mode="json")
            if callback is not None and (name := _EVENTS.get(event["type"])) is not None:
                what = name.format(mode="training" if mode == "train" else "evaluation")
                await callback({"node": node, "event": what, "payload": payload})

    task = asyncio.create_task(tell())
    try:
        with listening(queue.put_nowait):
            yield
    finally:
        queue.put_nowait(None)
        await task

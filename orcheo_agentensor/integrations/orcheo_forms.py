"""What Orcheo's own `AgentensorNode` is given and gives back, in the words of our jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from agentensor.loss import LLMTensorJudge
from orcheo.agentensor.evaluation import EvaluatorDefinition
from orcheo.agentensor.training import OptimizerConfig
from pydantic import BaseModel, ValidationError

from orcheo_agentensor.datasets import Dataset, as_dataset
from orcheo_agentensor.entrypoints import load_entrypoint
from orcheo_agentensor.errors import BadInput, EvaluatorRefused
from orcheo_agentensor.evaluation.results import CaseResult
from orcheo_agentensor.evaluators.binding import bind_evaluator
from orcheo_agentensor.evaluators.context import EvaluationResult
from orcheo_agentensor.events import Event, listening
from orcheo_agentensor.json_values import canonical_json
from orcheo_agentensor.settings import Settings

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


def as_results(results: Iterable[CaseResult], *, names: Iterable[str]) -> list[dict[str, Any]]:
    """The cases of an evaluation as Orcheo's node lists them; a failed one has its `error`."""
    wanted = tuple(names)
    found = []
    for index, result in enumerate(results):
        case = result.case
        failure = result.target_failure
        entry: dict[str, Any] = {
            "case_index": index,
            "inputs": None if case is None else case.inputs,
            "output": result.output,
            "evaluations": {
                one.name: {
                    "score": one.score,
                    "passed": one.passed if one.passed is not None else (one.score or 0) >= 0.5,
                    "reason": one.reason,
                }
                for one in result.outcomes
                if isinstance(one, EvaluationResult)
                and one.name in wanted
                and one.score is not None
            },
            "metadata": {} if case is None else case.metadata,
            "duration_ms": result.latency_ms,
        }
        found.append(entry if failure is None else {**entry, "error": failure.reason})
    return found


@asynccontextmanager
async def telling(
    callback: Callable[[dict[str, Any]], Awaitable[None]] | None, *, node: str, mode: str
) -> AsyncIterator[None]:
    """Tell Orcheo's `progress_callback` of the events of the runs inside the block, in order.

    The run waits for none of them, only the end of the block for the last.
    """
    if callback is None:
        yield
        return
    queue: asyncio.Queue[Event | None] = asyncio.Queue()

    async def tell() -> None:
        while (event := await queue.get()) is not None:
            if (name := _EVENTS.get(event["type"])) is not None:
                what = name.format(mode="training" if mode == "train" else "evaluation")
                await callback({"node": node, "event": what, "payload": event})

    task = asyncio.create_task(tell())
    try:
        with listening(queue.put_nowait):
            yield
    finally:
        queue.put_nowait(None)
        await task

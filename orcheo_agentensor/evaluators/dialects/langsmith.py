"""LangSmith's evaluators, and those of openevals and agentevals that follow them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.evaluators.dialects.base import Adapter, FunctionDialect
from orcheo_agentensor.evaluators.returns import read_raw_fields, read_result
from orcheo_agentensor.evaluators.subject import Getter, Subject, call_by_name, is_async
from orcheo_agentensor.json_values import private_copy

_IDS = uuid.UUID("5b7a4f0e-3c1d-5e7a-9a55-0c6f6a3c2f11")


def as_dict(value: Any, key: str = "output") -> dict[str, Any]:
    """LangSmith's form of a value: a dict as it is, `{}` for none, else `{key: value}`."""
    if isinstance(value, dict):
        return private_copy(value)  # type: ignore[no-any-return]
    return {} if value is None else {key: private_copy(value)}


def make_run(ctx: EvaluatorContext) -> Any:
    """The rollout as a LangSmith `Run`."""
    from langsmith.schemas import Run

    run_id = uuid.uuid5(_IDS, f"run:{ctx.case_id}")
    ended = datetime.now(UTC)
    return Run.model_construct(
        id=run_id,
        trace_id=run_id,
        name="target",
        run_type="chain",
        start_time=ended - timedelta(milliseconds=ctx.latency_ms),
        end_time=ended,
        inputs=as_dict(ctx.inputs, "input"),
        outputs=as_dict(ctx.output),
        extra={"metadata": private_copy(ctx.metadata)},
        reference_example_id=uuid.uuid5(_IDS, f"example:{ctx.case_id}"),
        prompt_tokens=ctx.usage.input_tokens,
        completion_tokens=ctx.usage.output_tokens,
        total_tokens=ctx.usage.tokens,
        dotted_order="",
        child_runs=[],
        tags=[],
        events=[],
    )


def make_example(ctx: EvaluatorContext) -> Any:
    """The case as a LangSmith `Example`."""
    from langsmith.schemas import Example

    return Example.model_construct(
        id=uuid.uuid5(_IDS, f"example:{ctx.case_id}"),
        dataset_id=_IDS,
        inputs=as_dict(ctx.inputs, "input"),
        outputs=as_dict(ctx.expected_output),
        metadata={**private_copy(ctx.metadata), "case_id": ctx.case_id},
        created_at=datetime.now(UTC),
    )


LANGSMITH = FunctionDialect(
    kind="langsmith",
    form="a LangSmith function: any of inputs, outputs, reference_outputs, run, example",
    getters={
        "run": make_run,
        "example": make_example,
        "inputs": lambda ctx: private_copy(ctx.inputs),
        "outputs": lambda ctx: as_dict(ctx.output),
        "reference_outputs": lambda ctx: as_dict(ctx.expected_output),
        "attachments": lambda ctx: {},
    },
    positional=("run", "example"),
    read=read_result,
)

OPENEVALS = FunctionDialect(
    kind="openevals",
    form="an openevals or agentevals evaluator: (inputs, outputs, reference_outputs, **kwargs)",
    getters={
        **LANGSMITH.getters,
        "outputs": lambda ctx: private_copy(ctx.output),
        "reference_outputs": lambda ctx: private_copy(ctx.expected_output),
    },
    read=read_raw_fields,
)


def is_openevals(subject: Subject) -> bool:
    """Whether it was made by openevals or agentevals."""
    home = subject.module.partition(".")[0]
    return home in ("openevals", "agentevals") and OPENEVALS.knows(subject)


def bind_openevals(subject: Subject) -> Adapter:
    """As LangSmith, with the values as they are and `**kwargs` filled from the case's metadata."""
    adapter = OPENEVALS.bind(subject)
    if not subject.extra:
        return adapter
    from dataclasses import replace

    def call(ctx: EvaluatorContext) -> Any:
        extra: dict[str, Getter] = {
            name: _constant(private_copy(value))
            for name, value in ctx.metadata.items()
            if name.isidentifier() and name not in subject.named
        }
        bound = Subject(_with_keywords(subject.obj, extra, ctx), subject.parameters)
        return call_by_name(bound, OPENEVALS.getters)(ctx)

    return replace(adapter, call=call)


def _constant(value: Any) -> Getter:
    return lambda ctx: value


def _with_keywords(
    function: Callable[..., Any], extra: dict[str, Getter], ctx: EvaluatorContext
) -> Callable[..., Any]:
    values = {name: getter(ctx) for name, getter in extra.items()}
    return lambda *args, **kwargs: function(*args, **{**values, **kwargs})


def bind_run_evaluator(subject: Subject) -> Adapter:
    """An object with `evaluate_run(run, example)` or `aevaluate_run`."""
    plain, native = subject.method("evaluate_run"), subject.method("aevaluate_run")
    method = native if plain is None or _natively_async(subject, native) else plain

    def call(ctx: EvaluatorContext) -> Any:
        return method(make_run(ctx), make_example(ctx))  # type: ignore[misc]

    return Adapter(
        kind="run_evaluator",
        form=f"{type(subject.obj).__name__}.{getattr(method, '__name__', '')}(run, example)",
        read=read_result,
        call=call,
        threaded=not is_async(method),
    )


def _natively_async(subject: Subject, native: Callable[..., Any] | None) -> bool:
    """Whether `aevaluate_run` is more than LangSmith's own hop into a thread pool."""
    if native is None or getattr(subject.obj, "is_async", None) is False:
        return False
    return not str(getattr(native, "__qualname__", "")).startswith("RunEvaluator.")

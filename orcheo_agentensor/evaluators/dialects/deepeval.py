"""DeepEval metrics: `a_measure(test_case)`, then `score`, `reason` and `success`."""

from __future__ import annotations

import copy
import inspect
import json
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.evaluators.dialects.base import Adapter
from orcheo_agentensor.evaluators.result import Outcome
from orcheo_agentensor.evaluators.returns import failure, single
from orcheo_agentensor.evaluators.subject import Subject
from orcheo_agentensor.json_values import private_copy


def bind_deepeval(subject: Subject) -> Adapter:
    """A metric object. It keeps its result on itself, so each call measures with a copy."""
    quiet = _takes_indicator(subject.method("a_measure"))

    async def call(ctx: EvaluatorContext) -> Any:
        metric = copy.copy(subject.obj)
        await metric.a_measure(_test_case(ctx), **quiet)
        return metric

    return Adapter(
        kind="deepeval",
        form=f"{type(subject.obj).__name__}.a_measure(test_case)",
        read=_read,
        call=call,
        threaded=False,
    )


def _read(name: str, metric: Any) -> list[Outcome]:
    error = getattr(metric, "error", None)
    if error and getattr(metric, "score", None) is None:
        return [failure(name, "exception", str(error))]
    passed = getattr(metric, "success", None)
    return [
        single(
            name,
            getattr(metric, "score", None),
            reason=getattr(metric, "reason", None),
            passed=passed if isinstance(passed, bool) else None,
        )
    ]


def _test_case(ctx: EvaluatorContext) -> Any:
    fields: dict[str, Any] = {
        "input": _text(ctx.inputs),
        "actual_output": _text(ctx.output),
        "expected_output": None if ctx.expected_output is None else _text(ctx.expected_output),
        "context": private_copy(ctx.metadata.get("context")),
        "retrieval_context": private_copy(ctx.metadata.get("retrieval_context")),
    }
    try:
        made: Any = import_module("deepeval.test_case").LLMTestCase(**fields)
    except ImportError:
        return SimpleNamespace(**fields)
    return made


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _takes_indicator(method: Any) -> dict[str, bool]:
    try:
        names = inspect.signature(method).parameters
    except (TypeError, ValueError):
        return {}
    return {"_show_indicator": False} if "_show_indicator" in names else {}

"""Evaluators of one context: `f(ctx)` and pydantic-evals' `evaluate(ctx)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orcheo_agentensor.errors import EvaluatorRefused
from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.evaluators.dialects.base import Adapter, FunctionDialect
from orcheo_agentensor.evaluators.returns import read_mapping, read_result
from orcheo_agentensor.evaluators.subject import Subject, is_async
from orcheo_agentensor.evaluators.values import private_context

CONTEXT = FunctionDialect(
    kind="context",
    form="a function of one `ctx` (an EvaluatorContext)",
    getters={"ctx": private_context, "context": private_context},
    positional=("ctx",),
    read=read_result,
)


def takes_context(subject: Subject) -> bool:
    """Whether the only parameter to fill is named or annotated as an evaluator's context."""
    required = subject.required
    if len(required) > 1:
        return False
    named = list(subject.named.values())
    if not required and len(named) != 1:
        return False
    parameter = subject.named[required[0]] if required else named[0]
    if parameter.name in CONTEXT.getters:
        return True
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return "EvaluatorContext" in str(text)


def bind_context(subject: Subject) -> Adapter:
    """A function of the context, whatever its parameter is called."""
    name = (subject.required or list(subject.named))[0] if subject.named else ""
    if name in CONTEXT.getters:
        return CONTEXT.bind(subject)
    return CONTEXT.bind_positional(subject)


def bind_evaluate(subject: Subject) -> Adapter:
    """An object with `evaluate(ctx)` or `evaluate_async(ctx)`, sync or async."""
    method = _evaluate_method(subject)
    inner = Subject.of(method)
    if inner.parameters is not None and (len(inner.required) > 1 or not inner.named):
        raise EvaluatorRefused(
            f"{subject.name}: {method.__name__}({', '.join(inner.named)}) must take one context; "
            "pass a function instead of the object for another form",
            field="evaluators",
            value=subject.name,
            rule="must have an evaluate(ctx)",
        )

    def call(ctx: EvaluatorContext) -> Any:
        return method(private_context(ctx))

    return Adapter(
        kind="evaluator",
        form=f"{type(subject.obj).__name__}.{method.__name__}(ctx)",
        read=read_mapping,
        call=call,
        threaded=not is_async(method),
    )


def _evaluate_method(subject: Subject) -> Callable[..., Any]:
    """`evaluate`, or an `evaluate_async` of the class's own.

    The one inherited from pydantic-evals only calls `evaluate`, in the loop.
    """
    plain, native = subject.method("evaluate"), subject.method("evaluate_async")
    if plain is None or (native is not None and not _inherited(native) and not is_async(plain)):
        return native or subject.obj.evaluate
    return plain


def _inherited(method: Callable[..., Any]) -> bool:
    return str(getattr(method, "__module__", "")).startswith("pydantic_evals.")

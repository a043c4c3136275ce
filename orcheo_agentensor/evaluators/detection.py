"""Which form an evaluator has. Decided once, when it is bound, and never by what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from orcheo_agentensor.errors import EvaluatorRefused
from orcheo_agentensor.evaluators.dialects import (
    BRAINTRUST,
    CONTEXT,
    DSPY,
    LANGSMITH,
    MLFLOW,
    OPENEVALS,
    PROMPTFOO,
    Adapter,
    Subject,
    bind_autoevals,
    bind_context,
    bind_deepeval,
    bind_evaluate,
    bind_openevals,
    bind_run_evaluator,
    is_braintrust,
    is_dspy,
    is_mlflow,
    is_openevals,
    is_promptfoo,
    takes_context,
)

OBJECTS: dict[str, tuple[tuple[str, ...], Callable[[Subject], Adapter]]] = {
    "evaluator": (("evaluate", "evaluate_async"), bind_evaluate),
    "run_evaluator": (("evaluate_run", "aevaluate_run"), bind_run_evaluator),
    "deepeval": (("a_measure",), bind_deepeval),
    "autoevals": (("eval_async", "eval"), bind_autoevals),
}
"""Kinds told by a method of the object, in the order tried."""

FUNCTIONS: dict[str, tuple[Callable[[Subject], bool], Callable[[Subject], Adapter]]] = {
    "context": (takes_context, bind_context),
    "mlflow": (is_mlflow, MLFLOW.bind),
    "openevals": (is_openevals, bind_openevals),
    "langsmith": (LANGSMITH.knows, LANGSMITH.bind),
    "promptfoo": (is_promptfoo, PROMPTFOO.bind),
    "braintrust": (is_braintrust, BRAINTRUST.bind),
    "dspy": (is_dspy, DSPY.bind),
}
"""Kinds told by the names of a function's parameters, in the order tried.

MLflow stands before LangSmith for the sake of `expectations`, a name that only it has, and which
its decorated scorers take optionally.
"""

KINDS = (*OBJECTS, *FUNCTIONS)

_FORMS = (
    "an object with evaluate(ctx), evaluate_run(run, example), a_measure(test_case) or eval_async",
    *(
        dialect.form
        for dialect in (CONTEXT, LANGSMITH, OPENEVALS, MLFLOW, BRAINTRUST, DSPY, PROMPTFOO)
    ),
    "a function of two parameters with other names: (run, example)",
)


def detect(subject: Subject, kind: str | None = None) -> Adapter:
    """The adapter of an evaluator; `kind` overrides the detection.

    Raises `EvaluatorRefused` for anything that fits no form, or of which it cannot be told what it
    would be given.
    """
    if inspect.isclass(subject.obj):
        name = subject.obj.__name__
        raise _refused(subject, f"{name} is a class; pass an instance, such as {name}()")
    if kind is not None:
        return _as_kind(subject, kind)
    for methods, bind in OBJECTS.values():
        if any(subject.method(method) for method in methods):
            return bind(subject)
    if subject.parameters is None:
        raise _refused(subject, "it cannot be called, or does not tell its parameters")
    if {"runs", "examples"} & set(subject.named):
        raise _refused(subject, "a summary evaluator scores a whole dataset, not a case")
    for matches, bind in FUNCTIONS.values():
        if matches(subject):
            return bind(subject)
    if _two_unknown(subject):
        return LANGSMITH.bind_positional(subject)
    raise _refused(subject, f"nothing tells what {_shown(subject)} would be given")


def _as_kind(subject: Subject, kind: str) -> Adapter:
    if kind in OBJECTS:
        methods, bind = OBJECTS[kind]
        if not any(subject.method(method) for method in methods):
            raise _refused(subject, f"kind {kind!r} needs {' or '.join(methods)}")
        return bind(subject)
    if kind in FUNCTIONS:
        if subject.parameters is None:
            raise _refused(subject, f"kind {kind!r} needs a function")
        return FUNCTIONS[kind][1](subject)
    raise EvaluatorRefused(
        f"kind: {kind!r} is not known; kinds are {', '.join(KINDS)}",
        field="kind",
        value=kind,
        rule=f"must be one of {', '.join(KINDS)}",
    )


def _two_unknown(subject: Subject) -> bool:
    """Two required names that no form knows. One known beside one unknown is ambiguous."""
    known = {
        name
        for dialect in (LANGSMITH, MLFLOW, BRAINTRUST, DSPY, PROMPTFOO, CONTEXT)
        for name in dialect.getters
    }
    required = subject.required
    return len(required) == 2 and not known & set(required)


def _shown(subject: Subject) -> str:
    return f"{subject.name}({', '.join(map(str, (subject.parameters or {}).values()))})"


def _refused(subject: Subject, reason: str) -> EvaluatorRefused:
    forms = "\n".join(f"  - {form}" for form in _FORMS)
    return EvaluatorRefused(
        f"evaluator {subject.name}: {reason}. An evaluator is one of:\n{forms}\n"
        f"or say which with kind= ({', '.join(KINDS)})",
        field="evaluators",
        value=subject.name,
        rule=reason,
    )

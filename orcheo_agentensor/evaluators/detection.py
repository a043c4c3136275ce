"""Which form an evaluator has. Decided once, when it is bound, and never by what it returns."""

from __future__ import annotations

import inspect

from orcheo_agentensor.errors import EvaluatorRefused
from orcheo_agentensor.evaluators.dialects import (
    Adapter,
    Autoevals,
    Braintrust,
    ContextFunction,
    DeepEval,
    Dialect,
    Dspy,
    FunctionDialect,
    LangSmith,
    LangSmithRunEvaluator,
    Mlflow,
    ObjectDialect,
    OpenEvals,
    Promptfoo,
    PydanticEvals,
    Subject,
)

_LANGSMITH = LangSmith()

OBJECTS: tuple[ObjectDialect, ...] = (
    PydanticEvals(),
    LangSmithRunEvaluator(),
    DeepEval(),
    Autoevals(),
)
"""In the order tried."""

FUNCTIONS: tuple[FunctionDialect, ...] = (
    ContextFunction(),
    Mlflow(),  # before LangSmith: decorated scorers take `expectations` optionally
    OpenEvals(),
    _LANGSMITH,
    Promptfoo(),
    Braintrust(),
    Dspy(),
)
"""In the order tried, after the objects."""

DIALECTS: dict[str, Dialect] = {dialect.kind: dialect for dialect in (*OBJECTS, *FUNCTIONS)}

_KINDS = ", ".join(DIALECTS)
_FORMS = (
    *(dialect.form for dialect in DIALECTS.values()),
    "a function of two parameters with other names: (run, example)",
)


def detect(subject: Subject, kind: str | None = None) -> Adapter:
    """The adapter of an evaluator; `kind` overrides the detection.

    Raises `EvaluatorRefused` for anything that fits no form, or where its parameters do not tell
    what each would be given.
    """
    if inspect.isclass(subject.obj):
        name = subject.obj.__name__
        raise _refused(subject, f"{name} is a class; pass an instance, such as {name}()")
    if kind is not None:
        return _as_kind(subject, kind)
    for of_objects in OBJECTS:
        if of_objects.matches(subject):
            return of_objects.bind(subject)
    if subject.parameters is None:
        raise _refused(subject, "it cannot be called, or does not tell its parameters")
    if {"runs", "examples"} & subject.named.keys():
        raise _refused(subject, "a summary evaluator scores a whole dataset, not a case")
    for of_functions in FUNCTIONS:
        if of_functions.matches(subject):
            return of_functions.bind(subject)
    known = {name for dialect in FUNCTIONS for name in dialect.values}
    if len(subject.required) == 2 and known.isdisjoint(subject.required):
        return _LANGSMITH.bind_in_order(subject)  # one known beside one unknown is ambiguous
    shown = f"{subject.name}({', '.join(map(str, subject.parameters.values()))})"
    raise _refused(subject, f"nothing tells what {shown} would be given")


def _as_kind(subject: Subject, kind: str) -> Adapter:
    dialect = DIALECTS.get(kind)
    if dialect is None:
        raise EvaluatorRefused(
            f"kind: {kind!r} is not known; kinds are {_KINDS}",
            field="kind",
            value=kind,
            rule=f"must be one of {_KINDS}",
        )
    if isinstance(dialect, ObjectDialect) and not dialect.matches(subject):
        raise _refused(subject, f"kind {kind!r} needs {' or '.join(dialect.methods)}")
    if isinstance(dialect, FunctionDialect) and subject.parameters is None:
        raise _refused(subject, f"kind {kind!r} needs a function")
    return dialect.bind(subject)


def _refused(subject: Subject, reason: str) -> EvaluatorRefused:
    forms = "\n".join(f"  - {form}" for form in _FORMS)
    return EvaluatorRefused(
        f"evaluator {subject.name}: {reason}. An evaluator is one of:\n{forms}\n"
        f"or say which with kind= ({_KINDS})",
        field="evaluators",
        value=subject.name,
        rule=reason,
    )

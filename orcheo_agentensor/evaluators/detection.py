"""Which convention an evaluator of other packages, or of one's own, is written by."""

from __future__ import annotations

import inspect

from orcheo_agentensor.errors import EvaluatorRefused
from orcheo_agentensor.evaluators.dialects import (
    Adapter,
    ContextFunction,
    Dialect,
    FunctionDialect,
    LangSmith,
    LangSmithRunEvaluator,
    LangSmithSummary,
    ObjectDialect,
    OpenEvals,
    PydanticEvals,
    PydanticReport,
    Subject,
    made_by,
)
from orcheo_agentensor.evaluators.packages import (
    Autoevals,
    Braintrust,
    DeepEval,
    Dspy,
    Mlflow,
    Opik,
    Phoenix,
    Promptfoo,
    Ragas,
    TruLens,
)

OBJECTS: tuple[ObjectDialect, ...] = (
    TruLens(),
    Phoenix(),
    PydanticReport(),
    PydanticEvals(),
    LangSmithRunEvaluator(),
    DeepEval(),
    Opik(),
    Ragas(),
    Autoevals(),
)
"""In the order tried."""

FUNCTIONS: tuple[FunctionDialect, ...] = (
    ContextFunction(),
    Mlflow(),  # before LangSmith: decorated scorers take `expectations` optionally
    OpenEvals(),
    LangSmithSummary(),
    LangSmith(),
    Promptfoo(),
    Braintrust(),
    Dspy(),
)
"""In the order tried, after the objects."""

DIALECTS: dict[str, Dialect] = {dialect.kind: dialect for dialect in (*OBJECTS, *FUNCTIONS)}

_KINDS = ", ".join(DIALECTS)
_FORMS = [dialect.form for dialect in DIALECTS.values()]
_TRUTH = ("true", "ref", "exp", "gold", "target", "label", "actual")


def detect(subject: Subject, kind: str | None = None) -> Adapter:
    """The adapter of an evaluator; `kind` overrides the detection.

    Raises `EvaluatorRefused` for anything that fits no form, or where its parameters do not tell
    what each would be given.
    """
    if inspect.isclass(subject.obj) and subject.obj.__module__.startswith("autoevals."):
        subject = Subject.of(subject.obj())  # Braintrust takes its scorers as classes
    if inspect.isclass(subject.obj):
        name = subject.obj.__name__
        raise _refused(subject, f"{name} is a class; pass an instance, such as {name}()")
    if kind is not None:
        return _as_kind(subject, kind)
    if subject.method("compare_runs") or made_by(subject.obj, "deepeval", "BaseArenaMetric"):
        raise _refused(
            subject,
            "it compares the outputs of several targets for one case, and here each case has one; "
            "to compare it with the expected output, use LLMJudge(pairwise=True)",
        )
    for of_objects in OBJECTS:
        if of_objects.matches(subject):
            return of_objects.bind(subject)
    if subject.parameters is None:
        raise _refused(subject, "it cannot be called, or does not tell its parameters")
    for of_functions in FUNCTIONS:
        if of_functions.matches(subject):
            return of_functions.bind(subject)
    shown = f"{subject.name}({', '.join(map(str, subject.parameters.values()))})"
    reason = f"nothing tells what {shown} would be given"
    if len(subject.required) == 2:  # such as (y_true, y_pred)
        given = ["outputs['output']", "reference_outputs['output']"]
        if any(word in subject.required[0].lower() for word in _TRUTH):
            given.reverse()
        call = f"{subject.name}({', '.join(given)})"
        reason += (
            f"; write `lambda outputs, reference_outputs: {call}`, with the keys of your output "
            "and expected output, or annotate its parameters with langsmith's Run and Example"
        )
    raise _refused(subject, reason)


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

"""Braintrust's functions and autoevals' scorers."""

from __future__ import annotations

from typing import Any

from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.evaluators.dialects.base import Adapter, FunctionDialect
from orcheo_agentensor.evaluators.returns import read_scores
from orcheo_agentensor.evaluators.subject import Subject
from orcheo_agentensor.json_values import private_copy

BRAINTRUST = FunctionDialect(
    kind="braintrust",
    form="a Braintrust function: output with any of input, expected, metadata",
    getters={
        "output": lambda ctx: private_copy(ctx.output),
        "expected": lambda ctx: private_copy(ctx.expected_output),
        "input": lambda ctx: private_copy(ctx.inputs),
        "metadata": lambda ctx: private_copy(ctx.metadata),
    },
    positional=("output", "expected"),
    read=read_scores,
)


def is_braintrust(subject: Subject) -> bool:
    """Whether it takes `output`, in the singular."""
    return "output" in subject.named and BRAINTRUST.knows(subject)


def bind_autoevals(subject: Subject) -> Adapter:
    """A scorer object. Its `eval` runs in a thread: `eval_async` may run blocking code inline."""
    plain, native = subject.method("eval"), subject.method("eval_async")

    def call(ctx: EvaluatorContext) -> Any:
        method = plain or native
        output = private_copy(ctx.output)
        expected = private_copy(ctx.expected_output)
        extra = {key: private_copy(value) for key, value in ctx.metadata.items()}
        for taken in ("self", "output", "expected"):
            extra.pop(taken, None)
        extra["input"] = private_copy(ctx.inputs)
        return method(output, expected, **extra)  # type: ignore[misc]

    return Adapter(
        kind="autoevals",
        form=f"{type(subject.obj).__name__}.eval(output, expected, input=…)",
        read=read_scores,
        call=call,
        threaded=True,
    )

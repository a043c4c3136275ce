"""promptfoo's Python assertions: `get_assert(output, context)`."""

from __future__ import annotations

from typing import Any

from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.evaluators.dialects.base import FunctionDialect
from orcheo_agentensor.evaluators.returns import read_grading
from orcheo_agentensor.evaluators.subject import Subject
from orcheo_agentensor.json_values import private_copy


def _context(ctx: EvaluatorContext) -> dict[str, Any]:
    inputs = private_copy(ctx.inputs)
    variables = inputs if isinstance(inputs, dict) else {"input": inputs}
    if ctx.expected_output is not None:
        variables.setdefault("expected", private_copy(ctx.expected_output))
    metadata = private_copy(ctx.metadata)
    return {
        "prompt": None,
        "vars": variables,
        "test": {"vars": variables, "metadata": metadata, "description": ctx.case_id},
        "config": {},
        "metadata": metadata,
    }


PROMPTFOO = FunctionDialect(
    kind="promptfoo",
    form="a promptfoo assertion: (output, context)",
    getters={"output": lambda ctx: private_copy(ctx.output), "context": _context},
    positional=("output", "context"),
    read=read_grading,
)


def is_promptfoo(subject: Subject) -> bool:
    """Whether it takes `output` and `context`."""
    return subject.named.keys() >= {"output", "context"} and PROMPTFOO.knows(subject)

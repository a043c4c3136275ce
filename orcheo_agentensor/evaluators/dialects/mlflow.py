"""MLflow scorers: any of `inputs, outputs, expectations`."""

from __future__ import annotations

from typing import Any

from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.evaluators.dialects.base import FunctionDialect
from orcheo_agentensor.evaluators.returns import read_feedback
from orcheo_agentensor.evaluators.subject import Subject
from orcheo_agentensor.json_values import private_copy


def _expectations(ctx: EvaluatorContext) -> dict[str, Any]:
    expected = private_copy(ctx.expected_output)
    if isinstance(expected, dict):
        return expected
    return {} if expected is None else {"expected_response": expected}


MLFLOW = FunctionDialect(
    kind="mlflow",
    form="an MLflow scorer: any of inputs, outputs, expectations",
    getters={
        "inputs": lambda ctx: private_copy(ctx.inputs),
        "outputs": lambda ctx: private_copy(ctx.output),
        "expectations": _expectations,
    },
    read=read_feedback,
)


def is_mlflow(subject: Subject) -> bool:
    """Whether it takes `expectations`, which only MLflow scorers do."""
    return "expectations" in subject.named and MLFLOW.knows(subject)

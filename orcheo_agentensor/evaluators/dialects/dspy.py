"""DSPy metrics: `(example, pred, trace=None)`."""

from __future__ import annotations

from typing import Any

from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.evaluators.dialects.base import FunctionDialect
from orcheo_agentensor.evaluators.returns import read_scored
from orcheo_agentensor.evaluators.subject import Subject
from orcheo_agentensor.json_values import private_copy


class Record(dict[str, Any]):
    """A dict whose keys are attributes too, as DSPy's examples and predictions are."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no field {name!r}; there are: {', '.join(self)}") from None


def _record(value: Any, key: str) -> Record:
    if isinstance(value, dict):
        return Record(private_copy(value))
    return Record() if value is None else Record({key: private_copy(value)})


def _example(ctx: EvaluatorContext) -> Record:
    """Inputs and expected output side by side; the expected one wins."""
    return Record(_record(ctx.inputs, "input") | _record(ctx.expected_output, "output"))


def _pred(ctx: EvaluatorContext) -> Record:
    return _record(ctx.output, "output")


DSPY = FunctionDialect(
    kind="dspy",
    form="a DSPy metric: (example, pred, trace=None)",
    getters={
        "example": _example,
        "gold": _example,
        "pred": _pred,
        "prediction": _pred,
        "trace": lambda ctx: None,
        "pred_name": lambda ctx: None,
        "pred_trace": lambda ctx: None,
    },
    positional=("example", "pred", "trace", "pred_name", "pred_trace"),
    read=read_scored,
)


def is_dspy(subject: Subject) -> bool:
    """Whether it takes an example and a prediction."""
    names = subject.named.keys()
    both = names & {"example", "gold"} and names & {"pred", "prediction"}
    return bool(both) and DSPY.knows(subject)

"""Evaluators: everything that scores an output, in whatever form it was written."""

from orcheo_agentensor.evaluators.binding import bind_evaluator, bind_evaluators
from orcheo_agentensor.evaluators.bound import BoundEvaluator
from orcheo_agentensor.evaluators.builtin.structured import JsonFieldMatch, JsonSchema, JsonValid
from orcheo_agentensor.evaluators.builtin.text import (
    Contains,
    ExactMatch,
    Latency,
    Length,
    NumericTolerance,
    Regex,
    StringSimilarity,
)
from orcheo_agentensor.evaluators.builtin.tools import ToolCallMatch, TrajectoryMatch
from orcheo_agentensor.evaluators.context import EvaluatorContext
from orcheo_agentensor.evaluators.http import HTTPEvaluator
from orcheo_agentensor.evaluators.judge import LLMJudge
from orcheo_agentensor.evaluators.registry import BUILTINS
from orcheo_agentensor.evaluators.result import (
    EvaluationResult,
    EvaluatorFailure,
    Outcome,
    TargetFailure,
)

__all__ = [
    "BUILTINS",
    "BoundEvaluator",
    "Contains",
    "EvaluationResult",
    "EvaluatorContext",
    "EvaluatorFailure",
    "ExactMatch",
    "HTTPEvaluator",
    "JsonFieldMatch",
    "JsonSchema",
    "JsonValid",
    "LLMJudge",
    "Latency",
    "Length",
    "NumericTolerance",
    "Outcome",
    "Regex",
    "StringSimilarity",
    "TargetFailure",
    "ToolCallMatch",
    "TrajectoryMatch",
    "bind_evaluator",
    "bind_evaluators",
]

"""Evaluators: everything that scores an output, in whatever form it was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orcheo_agentensor.lazy import lazily

if TYPE_CHECKING:
    from orcheo_agentensor.evaluators.assertions import Assertions
    from orcheo_agentensor.evaluators.binding import (
        BUILTINS,
        BoundEvaluator,
        bind_evaluator,
        bind_evaluators,
    )
    from orcheo_agentensor.evaluators.builtin import (
        Contains,
        ExactMatch,
        HTTPEvaluator,
        Latency,
        Length,
        NumericTolerance,
        Regex,
        StringSimilarity,
    )
    from orcheo_agentensor.evaluators.context import (
        EvaluationResult,
        EvaluatorContext,
        EvaluatorFailure,
        NotApplicable,
        Outcome,
        TargetFailure,
    )
    from orcheo_agentensor.evaluators.json_checks import JsonFieldMatch, JsonSchema, JsonValid
    from orcheo_agentensor.evaluators.judge import LLMJudge, calibrate
    from orcheo_agentensor.evaluators.tool_calls import ToolCallMatch, TrajectoryMatch
    from orcheo_agentensor.evaluators.turns import EachTurn

__all__ = [
    "BUILTINS",
    "Assertions",
    "BoundEvaluator",
    "Contains",
    "EachTurn",
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
    "NotApplicable",
    "NumericTolerance",
    "Outcome",
    "Regex",
    "StringSimilarity",
    "TargetFailure",
    "ToolCallMatch",
    "TrajectoryMatch",
    "bind_evaluator",
    "bind_evaluators",
    "calibrate",
]

__getattr__ = lazily(
    __name__,
    {
        "assertions": ("Assertions",),
        "binding": ("BUILTINS", "BoundEvaluator", "bind_evaluator", "bind_evaluators"),
        "builtin": (
            "Contains",
            "ExactMatch",
            "HTTPEvaluator",
            "Latency",
            "Length",
            "NumericTolerance",
            "Regex",
            "StringSimilarity",
        ),
        "context": (
            "EvaluationResult",
            "EvaluatorContext",
            "EvaluatorFailure",
            "NotApplicable",
            "Outcome",
            "TargetFailure",
        ),
        "json_checks": ("JsonFieldMatch", "JsonSchema", "JsonValid"),
        "judge": ("LLMJudge", "calibrate"),
        "tool_calls": ("ToolCallMatch", "TrajectoryMatch"),
        "turns": ("EachTurn",),
    },
)

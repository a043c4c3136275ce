"""The built-in evaluators, by the names that job files use."""

from __future__ import annotations

from orcheo_agentensor.evaluators.builtin.base import Builtin
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
from orcheo_agentensor.evaluators.http import HTTPEvaluator
from orcheo_agentensor.evaluators.judge import LLMJudge

BUILTINS: dict[str, type[Builtin]] = {
    kind.type_name: kind
    for kind in (
        ExactMatch,
        Contains,
        Regex,
        NumericTolerance,
        StringSimilarity,
        JsonValid,
        JsonSchema,
        JsonFieldMatch,
        ToolCallMatch,
        TrajectoryMatch,
        Latency,
        Length,
        LLMJudge,
        HTTPEvaluator,
    )
}
"""Type name -> class."""

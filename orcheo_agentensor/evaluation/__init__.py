"""Evaluation: any workflow, any dataset, any evaluators; as a subgraph and as a function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orcheo_agentensor.lazy import lazily

if TYPE_CHECKING:
    from orcheo_agentensor.evaluation.api import EvaluationReport, aevaluate, evaluate
    from orcheo_agentensor.evaluation.graph import create_evaluation_graph
    from orcheo_agentensor.evaluation.results import CaseResult
    from orcheo_agentensor.runs.job import EvaluationJob, Limits

__all__ = [
    "CaseResult",
    "EvaluationJob",
    "EvaluationReport",
    "Limits",
    "aevaluate",
    "create_evaluation_graph",
    "evaluate",
]

__getattr__ = lazily(
    __name__,
    {
        "api": ("EvaluationReport", "Limits", "aevaluate", "evaluate"),
        "graph": ("EvaluationJob", "create_evaluation_graph"),
        "results": ("CaseResult",),
    },
)

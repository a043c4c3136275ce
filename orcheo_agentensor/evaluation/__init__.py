"""Evaluation: any workflow, any dataset, any evaluators; as a subgraph and as a function."""

from orcheo_agentensor.evaluation.api import EvaluationReport, aevaluate, evaluate
from orcheo_agentensor.evaluation.graph import create_evaluation_graph
from orcheo_agentensor.evaluation.results import CaseResult
from orcheo_agentensor.runs.job import EvaluationJob, Limits
from orcheo_agentensor.runs.nodes import evaluation_node

__all__ = [
    "CaseResult",
    "EvaluationJob",
    "EvaluationReport",
    "Limits",
    "aevaluate",
    "create_evaluation_graph",
    "evaluate",
    "evaluation_node",
]

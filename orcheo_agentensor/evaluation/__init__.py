"""Evaluation: any workflow, any dataset, any evaluators; as a subgraph and as a function."""

from orcheo_agentensor.evaluation.api import EvaluationReport, aevaluate, evaluate
from orcheo_agentensor.evaluation.graph import create_evaluation_graph
from orcheo_agentensor.evaluation.job import EvaluationJob, Limits
from orcheo_agentensor.evaluation.node import evaluation_node
from orcheo_agentensor.evaluation.results import CaseResult

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

"""Training: better prompts, proved on held-out cases; as a subgraph and as a function."""

from orcheo_agentensor.training.api import Decision, TrainingResult, atrain, train, training_node
from orcheo_agentensor.training.budget import Budget, BudgetMeter
from orcheo_agentensor.training.feedback import abackward, backward, blame
from orcheo_agentensor.training.graph import create_training_graph
from orcheo_agentensor.training.job import (
    Deadline,
    Goal,
    Guardrail,
    MaxEpochs,
    MaxSteps,
    Patience,
    TargetScore,
    TrainingJob,
)
from orcheo_agentensor.training.objective import Objective

__all__ = [
    "Budget",
    "BudgetMeter",
    "Deadline",
    "Decision",
    "Goal",
    "Guardrail",
    "MaxEpochs",
    "MaxSteps",
    "Objective",
    "Patience",
    "TargetScore",
    "TrainingJob",
    "TrainingResult",
    "abackward",
    "atrain",
    "backward",
    "blame",
    "create_training_graph",
    "train",
    "training_node",
]

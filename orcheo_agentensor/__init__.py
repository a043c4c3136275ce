"""Evaluation and prompt optimisation for LangGraph workflows, as LangGraph subgraphs.

Every public name is here and is imported when it is first used, so that importing the package is
quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orcheo_agentensor.lazy import lazily

if TYPE_CHECKING:
    from orcheo_agentensor.config import RunConfig, register_callback
    from orcheo_agentensor.datasets import Case, Dataset
    from orcheo_agentensor.errors import AgentensorError, BadInput
    from orcheo_agentensor.evaluation import (
        CaseResult,
        EvaluationJob,
        EvaluationReport,
        Limits,
        aevaluate,
        create_evaluation_graph,
        evaluate,
    )
    from orcheo_agentensor.evaluators import (
        Assertions,
        Contains,
        EachTurn,
        ExactMatch,
        HTTPEvaluator,
        JsonFieldMatch,
        JsonSchema,
        JsonValid,
        Latency,
        Length,
        LLMJudge,
        NumericTolerance,
        Regex,
        StringSimilarity,
        ToolCallMatch,
        TrajectoryMatch,
        bind_evaluator,
    )
    from orcheo_agentensor.evaluators.context import (
        EvaluationResult,
        EvaluatorContext,
        EvaluatorFailure,
        TargetFailure,
    )
    from orcheo_agentensor.nodes import AgentensorNode, AgentNode, TaskNode
    from orcheo_agentensor.nodes.agent import TrainablePrompt
    from orcheo_agentensor.optimizers import Demos, RandomSearch, Reflective, TextGrad, astep, step
    from orcheo_agentensor.prompts import (
        ContentTensor,
        FeedbackRecord,
        PromptLike,
        PromptText,
        TextTensor,
    )
    from orcheo_agentensor.publishing import apublish, arollback_publication
    from orcheo_agentensor.reporting import RunComparison, acompare, compare
    from orcheo_agentensor.runs.arguments import DatasetLike, EvaluatorLike, Target
    from orcheo_agentensor.runs.manifest import Manifest
    from orcheo_agentensor.runs.nodes import evaluation_node
    from orcheo_agentensor.seeds import get_seed
    from orcheo_agentensor.settings import Settings
    from orcheo_agentensor.storage import ConfigCheckpoint, Store
    from orcheo_agentensor.tape import get_prompt
    from orcheo_agentensor.targets import Conversation
    from orcheo_agentensor.targets.served import configure, serve
    from orcheo_agentensor.training import (
        Budget,
        Deadline,
        Decision,
        Guardrail,
        MaxEpochs,
        MaxSteps,
        Objective,
        Patience,
        TargetScore,
        TrainingJob,
        TrainingResult,
        abackward,
        atrain,
        backward,
        create_training_graph,
        train,
        training_node,
    )

__version__ = "0.1.0"

__all__ = [
    "AgentNode",
    "AgentensorError",
    "AgentensorNode",
    "Assertions",
    "BadInput",
    "Budget",
    "Case",
    "CaseResult",
    "ConfigCheckpoint",
    "Contains",
    "ContentTensor",
    "Conversation",
    "Dataset",
    "DatasetLike",
    "Deadline",
    "Decision",
    "Demos",
    "EachTurn",
    "EvaluationJob",
    "EvaluationReport",
    "EvaluationResult",
    "EvaluatorContext",
    "EvaluatorFailure",
    "EvaluatorLike",
    "ExactMatch",
    "FeedbackRecord",
    "Guardrail",
    "HTTPEvaluator",
    "JsonFieldMatch",
    "JsonSchema",
    "JsonValid",
    "LLMJudge",
    "Latency",
    "Length",
    "Limits",
    "Manifest",
    "MaxEpochs",
    "MaxSteps",
    "NumericTolerance",
    "Objective",
    "Patience",
    "PromptLike",
    "PromptText",
    "RandomSearch",
    "Reflective",
    "Regex",
    "RunComparison",
    "RunConfig",
    "Settings",
    "Store",
    "StringSimilarity",
    "Target",
    "TargetFailure",
    "TargetScore",
    "TaskNode",
    "TextGrad",
    "TextTensor",
    "ToolCallMatch",
    "TrainablePrompt",
    "TrainingJob",
    "TrainingResult",
    "TrajectoryMatch",
    "abackward",
    "acompare",
    "aevaluate",
    "apublish",
    "arollback_publication",
    "astep",
    "atrain",
    "backward",
    "bind_evaluator",
    "compare",
    "configure",
    "create_evaluation_graph",
    "create_training_graph",
    "evaluate",
    "evaluation_node",
    "get_prompt",
    "get_seed",
    "register_callback",
    "serve",
    "step",
    "train",
    "training_node",
]

__getattr__ = lazily(
    __name__,
    {
        "config": ("RunConfig", "register_callback"),
        "datasets": ("Case", "Dataset"),
        "errors": ("AgentensorError", "BadInput"),
        "evaluation": (
            "CaseResult",
            "EvaluationJob",
            "EvaluationReport",
            "Limits",
            "aevaluate",
            "create_evaluation_graph",
            "evaluate",
        ),
        "evaluators": (
            "Assertions",
            "Contains",
            "EachTurn",
            "ExactMatch",
            "HTTPEvaluator",
            "JsonFieldMatch",
            "JsonSchema",
            "JsonValid",
            "LLMJudge",
            "Latency",
            "Length",
            "NumericTolerance",
            "Regex",
            "StringSimilarity",
            "ToolCallMatch",
            "TrajectoryMatch",
            "bind_evaluator",
        ),
        "evaluators.context": (
            "EvaluationResult",
            "EvaluatorContext",
            "EvaluatorFailure",
            "TargetFailure",
        ),
        "nodes": ("AgentNode", "AgentensorNode", "TaskNode"),
        "nodes.agent": ("TrainablePrompt",),
        "optimizers": ("Demos", "RandomSearch", "Reflective", "TextGrad", "astep", "step"),
        "settings": ("Settings",),
        "storage": ("ConfigCheckpoint", "Store"),
        "seeds": ("get_seed",),
        "tape": ("get_prompt",),
        "targets": ("Conversation",),
        "targets.served": ("configure", "serve"),
        "publishing": ("apublish", "arollback_publication"),
        "prompts": ("ContentTensor", "FeedbackRecord", "PromptLike", "PromptText", "TextTensor"),
        "reporting": ("RunComparison", "acompare", "compare"),
        "runs.arguments": ("DatasetLike", "EvaluatorLike", "Target"),
        "runs.manifest": ("Manifest",),
        "runs.nodes": ("evaluation_node",),
        "training": (
            "Budget",
            "Deadline",
            "Decision",
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
            "create_training_graph",
            "train",
            "training_node",
        ),
    },
)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

"""Optimizers: strategies that decide what to try next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orcheo_agentensor.lazy import lazily
from orcheo_agentensor.optimizers.demos import Demos
from orcheo_agentensor.optimizers.guards import CaseTexts, refusals
from orcheo_agentensor.optimizers.protocol import (
    ComponentRequest,
    Demo,
    Edit,
    HasWindow,
    Optimizer,
    ProposalRequest,
    Proposer,
    Purpose,
    SearchSpace,
    Trial,
    TrialOutcome,
    derive_seed,
)
from orcheo_agentensor.optimizers.random_search import RandomSearch
from orcheo_agentensor.optimizers.reflective import Reflective
from orcheo_agentensor.optimizers.registry import (
    own_models,
    resolve_model,
    resolve_optimizer,
    resolve_proposer,
)
from orcheo_agentensor.optimizers.textgrad import TextGrad
from orcheo_agentensor.optimizers.update import astep, step
from orcheo_agentensor.prompts import FeedbackRecord

if TYPE_CHECKING:
    from orcheo_agentensor.optimizers.proposer import LLMProposer

__all__ = [
    "CaseTexts",
    "ComponentRequest",
    "Demo",
    "Demos",
    "Edit",
    "FeedbackRecord",
    "HasWindow",
    "LLMProposer",
    "Optimizer",
    "ProposalRequest",
    "Proposer",
    "Purpose",
    "RandomSearch",
    "Reflective",
    "SearchSpace",
    "TextGrad",
    "Trial",
    "TrialOutcome",
    "astep",
    "derive_seed",
    "own_models",
    "refusals",
    "resolve_model",
    "resolve_optimizer",
    "resolve_proposer",
    "step",
]

__getattr__ = lazily(__name__, {"proposer": ("LLMProposer",)})

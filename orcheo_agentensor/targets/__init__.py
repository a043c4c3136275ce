"""Workflows under test: local graphs, other runnables, plain functions."""

from orcheo_agentensor.targets.base import CallableTarget, RunnableTarget, Target, check_target
from orcheo_agentensor.targets.resolve import resolve_target

__all__ = ["CallableTarget", "RunnableTarget", "Target", "check_target", "resolve_target"]

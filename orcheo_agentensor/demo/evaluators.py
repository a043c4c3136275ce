"""The demo's two evaluators, as plain functions in the LangSmith style."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orcheo_agentensor.demo.model import parse_rules
from orcheo_agentensor.demo.workflow import POLICY

RULES = tuple(parse_rules(POLICY))  # the policy is frozen, so they hold for every candidate


def queue_accuracy(
    outputs: Mapping[str, Any], reference_outputs: Mapping[str, Any]
) -> dict[str, Any]:
    """1.0 when the message went to the expected queue, else 0.0."""
    expected, got = str(reference_outputs["queue"]), str(outputs["queue"])
    right = got.strip().casefold() == expected.strip().casefold()
    comment = f"queue {got!r} is right" if right else f"expected queue {expected!r}, got {got!r}"
    return {"key": "queue_accuracy", "score": float(right), "comment": comment}


def reply_policy(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The share of the policy's checkable rules that the reply keeps."""
    fields = {"team": str(outputs["queue"])}
    broken = [rule.text for rule in RULES if not rule.kept(str(outputs["reply"]), fields)]
    comment = f"breaks: {'; '.join(broken)}" if broken else "keeps every rule"
    return {"key": "reply_policy", "score": 1 - len(broken) / len(RULES), "comment": comment}

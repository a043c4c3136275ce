"""Which of two outputs a pairwise judge prefers, case by case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orcheo_agentensor.datasets import Case
from orcheo_agentensor.errors import BadInput
from orcheo_agentensor.evaluation.api import aevaluate
from orcheo_agentensor.evaluation.results import CaseResult
from orcheo_agentensor.evaluators import bind_evaluator
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.runs.arguments import EvaluatorLike
from orcheo_agentensor.seeds import CASE_ID
from orcheo_agentensor.settings import Settings
from orcheo_agentensor.storage import Store
from orcheo_agentensor.usage import Usage


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Whose outputs a judge prefers.

    Attributes:
        judge: The judge.
        wins: The cases in which it prefers the second side.
        losses: Those in which it prefers the first.
        ties: Those in which it prefers neither.
        failures: Those in which it gave no verdict.
        p_value: Of the sign test on wins and losses.
        usage: What it has spent.
        run_id: The evaluation that keeps each verdict with its reason.
    """

    judge: str
    wins: int
    losses: int
    ties: int
    failures: int
    p_value: float
    usage: Usage
    run_id: str

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "usage": self.usage.to_json()}


async def prefer(
    before: Mapping[str, CaseResult],
    after: Mapping[str, CaseResult],
    *,
    judge: EvaluatorLike,
    store: Store,
    settings: Settings | None = None,
) -> Preference | None:
    """Ask a pairwise judge about each case that both sides have answered; None where none is.

    Its verdicts are kept in the store as those of an evaluation, and not paid for again.
    """
    bound = bind_evaluator(judge, settings=settings)
    outputs = {
        case_id: (found.output, after[case_id].output)
        for case_id, found in before.items()
        if found.target_failure is None and after[case_id].target_failure is None
    }
    if not outputs:
        return None
    cases = [
        Case(id=case_id, inputs=before[case_id].inputs, expected_output=first)
        for case_id, (first, _) in outputs.items()
        if first is not None
    ]

    def second(_inputs: Any, config: Mapping[str, Any]) -> Any:
        return outputs[config["metadata"][CASE_ID]][1]

    pairs = [(case.id, case.inputs, *outputs[case.id]) for case in cases]
    run_id = f"preference-{content_hash([pairs, bound.fingerprint])[:24]}"
    report = await aevaluate(
        second,
        dataset=cases,
        evaluators=[judge],
        store=store,
        run_id=run_id,
        workflow_id="preference",
        min_coverage=0.0,
        settings=settings,
    )
    scores = [case.scores.get(bound.name) for case in report.cases]
    wins = sum(score is not None and score > 0.5 for score in scores)
    losses = sum(score is not None and score < 0.5 for score in scores)
    failures = scores.count(None)
    return Preference(
        judge=bound.name,
        wins=wins,
        losses=losses,
        ties=len(scores) - wins - losses - failures,
        failures=failures,
        p_value=sign_test(wins, losses),
        usage=report.usage,
        run_id=run_id,
    )


def require_pairwise(judge: EvaluatorLike) -> None:
    """Raise `BadInput` for a judge that does not compare two outputs."""
    pairwise = judge.get("pairwise") if isinstance(judge, Mapping) else None
    if not (pairwise or getattr(judge, "pairwise", False)):
        raise BadInput(
            field="judge",
            value=judge,
            rule="must be a pairwise judge: {type: llm_judge, pairwise: true, rubric: …}",
        )


def sign_test(wins: int, losses: int) -> float:
    """The exact two-sided p value of as many wins and losses, were each as likely."""
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0

from __future__ import annotations

from typing import Any

import pytest

from orcheo_agentensor import EvaluatorContext, bind_evaluator
from orcheo_agentensor.errors import EvaluatorRefused
from orcheo_agentensor.evaluators import EvaluationResult, EvaluatorFailure, ExactMatch


def grade(ctx: EvaluatorContext) -> Any:
    return ctx.output


async def scored(output: Any, scale: tuple[float, float]) -> Any:
    bound = bind_evaluator(grade, scale=scale)
    outcomes, _usage = await bound.score(EvaluatorContext(case_id="c", inputs={}, output=output))
    return outcomes


@pytest.mark.parametrize(
    ("scale", "given", "score"),
    [((1, 5), 1, 0.0), ((1, 5), 4, 0.75), ((0, 100), 100, 1.0), ((10, 0), 0, 1.0)],
)
async def test_scores_on_a_scale_are_brought_to_0_and_1(
    scale: tuple[float, float], given: float, score: float
) -> None:
    [outcome] = await scored(given, scale)
    assert isinstance(outcome, EvaluationResult)
    assert outcome.score == score


async def test_a_score_outside_its_scale_is_a_failure_and_a_label_stays() -> None:
    [outcome] = await scored(7, (1, 5))
    assert isinstance(outcome, EvaluatorFailure)
    assert outcome.reason == "gave 7, outside its scale of 1 to 5"
    [outcome] = await scored("good", (1, 5))
    assert (outcome.score, outcome.label) == (None, "good")


def test_scores_on_another_scale_are_kept_apart() -> None:
    prints = {bind_evaluator(grade, scale=s).fingerprint for s in (None, (1, 5), (1, 10))}
    assert len(prints) == 3


@pytest.mark.parametrize("scale", [(5, 5), (1,), "15", [1, True], (0, float("inf")), 5])
def test_a_scale_that_is_none_is_refused(scale: Any) -> None:
    with pytest.raises(EvaluatorRefused, match="must be two different numbers"):
        bind_evaluator(grade, scale=scale)


def test_what_is_built_in_has_its_own_scale() -> None:
    with pytest.raises(EvaluatorRefused, match="is for evaluators of your own"):
        bind_evaluator(ExactMatch(), scale=(1, 5))

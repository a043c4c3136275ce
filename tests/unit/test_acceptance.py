from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orcheo_agentensor.evaluation import CaseResult
from orcheo_agentensor.evaluators import EvaluationResult, NotApplicable, TargetFailure
from orcheo_agentensor.training.comparison import foreseen, reasons_against

WEIGHTS = {"e": 1.0}


def case(score: float | None) -> CaseResult:
    if score is None:
        return CaseResult(case_id="c", target_failure=TargetFailure(kind="exception", reason="x"))
    return CaseResult(case_id="c", outcomes=(EvaluationResult(name="e", score=score),))


maybe = st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0]))
pairs = st.lists(st.tuples(maybe, maybe), min_size=1, max_size=12)


@given(pairs, st.booleans())
def test_a_child_that_fails_more_than_its_parent_is_never_accepted(
    scores: list[tuple[float | None, float | None]], strictly: bool
) -> None:
    parent, child = [case(a) for a, _ in scores], [case(b) for _, b in scores]
    accepted = not reasons_against(parent, child, weights=WEIGHTS, strictly=strictly)
    failed = sum(not c.ok for c in child) - sum(not c.ok for c in parent)
    assert not (accepted and failed > 0)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])),
        min_size=1,
        max_size=12,
    )
)
def test_acceptance_is_the_paired_sum(scores: list[tuple[float, float]]) -> None:
    parent, child = [case(a) for a, _ in scores], [case(b) for _, b in scores]
    before, after = sum(a for a, _ in scores), sum(b for _, b in scores)
    assert (not reasons_against(parent, child, weights=WEIGHTS, strictly=True)) == (after > before)
    assert (not reasons_against(parent, child, weights=WEIGHTS, strictly=False)) == (
        after >= before
    )


@given(pairs)
def test_nothing_is_strictly_better_than_itself(
    scores: list[tuple[float | None, float | None]],
) -> None:
    same = [case(a) for a, _ in scores]
    assert reasons_against(same, same, weights=WEIGHTS, strictly=True)


grid = st.one_of(st.none(), st.integers(0, 8).map(lambda eighths: eighths / 8))


@given(
    st.lists(st.tuples(grid, grid, st.booleans()), min_size=1, max_size=10),
    st.booleans(),
)
def test_what_is_foreseen_comes_true_once_all_is_measured(
    scores: list[tuple[float | None, float | None, bool]], strictly: bool
) -> None:
    parent, child = [case(a) for a, _, _ in scores], [case(b) for _, b, _ in scores]
    so_far = [one if there else None for one, (_, _, there) in zip(child, scores, strict=True)]
    said = foreseen(parent, so_far, weights=WEIGHTS, strictly=strictly)
    accepted = not reasons_against(parent, child, weights=WEIGHTS, strictly=strictly)
    missing_broke = any(b is None and not there for _, b, there in scores)
    if said is False:
        assert not accepted
    if said is True and not missing_broke:
        assert accepted


@given(st.lists(st.tuples(grid, grid), min_size=1, max_size=10))
def test_what_is_foreseen_never_changes_as_more_is_measured(
    scores: list[tuple[float | None, float | None]],
) -> None:
    parent, child = [case(a) for a, _ in scores], [case(b) for _, b in scores]
    said = [
        foreseen(
            parent,
            [*child[:n], *[None] * (len(child) - n)],
            weights=WEIGHTS,
            strictly=True,
        )
        for n in range(len(child) + 1)
    ]
    firm = [verdict for verdict in said if verdict is not None]
    if all(one.ok for one in child):
        assert len(set(firm)) <= 1


def test_a_child_without_a_score_where_its_parent_has_one_does_not_gain_by_it() -> None:
    silent = CaseResult(case_id="c", outcomes=(NotApplicable(name="e"),))
    parent, child = [case(0.0), case(0.5)], [silent, case(1.0)]
    assert reasons_against(parent, child, weights=WEIGHTS, strictly=True)
    assert foreseen(parent, child, weights=WEIGHTS, strictly=True) is False
    assert not reasons_against(
        [*parent[:1], silent], [*child[1:], silent], weights=WEIGHTS, strictly=True
    )

"""Scores, failures and what is not applicable, through the public doors."""

from __future__ import annotations

import io
from typing import Any

import pytest
from langchain_core.messages import AIMessage

from orcheo_agentensor import (
    BadInput,
    RandomSearch,
    Store,
    aevaluate,
    atrain,
    bind_evaluator,
    get_prompt,
)

CASES = [{"id": f"c{n}", "inputs": {"n": n}} for n in range(20)]


async def echo(inputs: dict[str, int]) -> int:
    return inputs["n"]


async def evaluated(*evaluators: Any, **more: Any) -> Any:
    return await aevaluate(echo, dataset=CASES, evaluators=[*evaluators], **more)


@pytest.mark.parametrize("nothing", [None, [], {"results": []}, {"score": None}, {}])
@pytest.mark.requirement("evaluation.failures")
async def test_what_is_not_applicable_is_outside_coverage_and_means(nothing: Any) -> None:
    def even(inputs: dict[str, int]) -> Any:
        return nothing if inputs["n"] % 2 else 1.0

    report = await evaluated(even)
    assert (report.status, report.objective, report.coverage) == ("finished", 1.0, 1.0)
    assert (report.summary["n_ok"], report.summary["not_applicable"]) == (10, 10)
    assert report.summary["n_evaluator_failed"] == 0
    score = report.scores["even"]
    assert (score.n, score.not_applicable, score.failures, score.mean) == (10, 10, 0, 1.0)
    assert report.cases[1].to_json()["not_applicable"] == ["even"]
    assert report.cases[1].failure is None
    shown = io.StringIO()
    report.print(file=shown)
    assert "100.0% of 10 cases (10 not applicable)" in shown.getvalue()


async def test_a_case_that_one_of_two_applies_to_is_scored_by_that_one() -> None:
    report = await evaluated(lambda ctx: 0.5, bind_evaluator(lambda ctx: None, name="silent"))
    assert (report.objective, report.coverage, report.summary["not_applicable"]) == (0.5, 1.0, 0)
    assert report.scores["silent"].not_applicable == 20


async def test_an_evaluator_that_never_applies_is_no_success() -> None:
    report = await evaluated(lambda ctx: None)
    assert (report.status, report.objective, report.coverage) == ("missed_threshold", None, 0.0)


async def test_what_is_not_applicable_stays_so_after_a_replay_and_over_replicates() -> None:
    def even(inputs: dict[str, int]) -> Any:
        return {"score": None, "comment": "odd"} if inputs["n"] % 2 else 1.0

    store = Store.from_url(None)
    first = await evaluated(even, store=store, run_id="r", replicates=3)
    again = await evaluated(even, store=store, run_id="r", replicates=3)
    other = await evaluated(even, store=store, reuse="r", replicates=3)
    assert first.summary["evaluators"]["even"]["not_applicable"] == 10
    assert first.summary == again.summary
    assert other.summary["evaluators"] == first.summary["evaluators"]
    assert again.cases[1].reasons == {"even": "odd"}
    await store.close()


async def test_a_number_in_a_text_is_a_score_and_other_text_beside_numbers_a_failure() -> None:
    def mixed(inputs: dict[str, int]) -> Any:
        return {0: "0", 1: {"score": "0.2"}, 2: "not sure"}.get(inputs["n"], 1.0)

    report = await evaluated(mixed)
    score = report.scores["mixed"]
    assert (score.n, score.failures) == (19, 1)
    assert report.objective == pytest.approx((17 + 0.2) / 19)
    assert (report.coverage, report.status) == (0.95, "missed_threshold")
    assert report.cases[2].failure.reason == (
        "gave the text 'not sure' where it gives numbers for other cases"
    )


async def test_a_text_is_a_failure_at_its_case_and_in_the_store_as_after_a_resume(
    store: Store,
) -> None:
    async def mixed(inputs: dict[str, int]) -> Any:
        return "not sure" if inputs["n"] in (0, 7) else 1.0

    events: list[dict[str, Any]] = []
    job: dict[str, Any] = {"store": store, "run_id": "r", "limits": {"concurrency": 1}}
    report = await evaluated(mixed, on_event=events.append, **job)
    finished = {one["case_id"]: one for one in events if one["type"] == "case_finished"}
    assert finished["c0"]["ok"]  # nobody knew yet that it gives numbers
    reason = "gave the text 'not sure' where it gives numbers for other cases"
    assert finished["c7"]["evaluator_failures"]["mixed"] == {
        "kind": "wrong_shape",
        "reason": reason,
    }
    rows = await store.runs.case_rows("r", failed=True)
    assert [row.rollout.case_id for row in rows] == ["c0", "c7"]
    assert {row.scores[0].failure["reason"] for row in rows if row.scores[0].failure} == {reason}
    again = await evaluated(mixed, **job)
    assert [one.failure for one in again.cases] == [one.failure for one in report.cases]
    assert (again.scores["mixed"].n, again.scores["mixed"].failures) == (18, 2)


async def test_a_candidate_that_makes_a_judge_answer_in_words_does_not_win() -> None:
    async def target(inputs: dict[str, int], config: Any) -> str:
        return get_prompt("p")

    class Rewording:
        async def propose(self, request: Any) -> dict[str, str]:
            return {"p": f"words {request.seed}"}

    def judge(outputs: Any) -> Any:
        return "it depends" if outputs["output"].startswith("words") else 0.5

    def other(outputs: Any) -> float:
        return 1.0 if outputs["output"].startswith("words") else 0.5

    result = await atrain(
        target,
        prompts={"p": "numbers"},
        dataset=[
            {**case, "split": split, "id": f"{split}-{case['id']}"}
            for case in CASES
            for split in ("train", "validation", "holdout")
        ],
        evaluators=[judge, other],
        optimizer=RandomSearch(proposer=Rewording()),
        budget={"rollouts": 200},
    )
    assert result.decision.status == "kept"
    assert result.best.prompts["p"].text == "numbers"


async def test_labels_alone_stay_labels() -> None:
    report = await evaluated(lambda inputs, outputs: "odd" if inputs["n"] % 2 else "even")
    assert report.scores["lambda"].labels == {"even": 10, "odd": 10}
    assert (report.coverage, report.objective) == (1.0, None)


@pytest.mark.parametrize("huge", [1e308, -1e308, 1e101, 10**400])
async def test_a_score_too_large_to_average_is_a_failure_of_its_evaluator(huge: Any) -> None:
    report = await evaluated(lambda ctx: huge, bind_evaluator(lambda ctx: 1.0, name="other"))
    assert report.scores["lambda"].failures == 20
    assert report.scores["other"].mean == 1.0


async def test_a_weight_is_the_share_of_an_evaluator_however_many_metrics_it_gives() -> None:
    def nine(outputs: Any) -> Any:
        return [{"key": f"m{n}", "score": 0.0} for n in range(9)]

    main = bind_evaluator(lambda ctx: 1.0, name="main_metric", weight=9)
    report = await evaluated(main, nine)
    assert report.objective == pytest.approx(0.9)
    assert report.cases[0].objective({"main_metric": 9.0}) == pytest.approx(0.9)


async def test_weight_0_only_observes() -> None:
    watched = bind_evaluator(lambda ctx: 0.0, name="watched", weight=0)
    report = await evaluated(lambda ctx: 1.0, watched)
    assert report.objective == 1.0
    assert (report.scores["watched"].mean, report.scores["watched"].in_objective) == (0.0, False)
    assert report.warnings == ()


async def test_a_score_outside_0_and_1_is_left_out_of_the_objective_and_told() -> None:
    def seconds(outputs: int) -> float:
        return 124.187 if outputs == 3 else 0.5

    report = await evaluated(lambda ctx: 0.25, bind_evaluator(seconds, kind="braintrust"))
    assert report.objective == 0.25
    assert report.scores["seconds"].mean == pytest.approx((124.187 + 19 * 0.5) / 20)
    assert not report.scores["seconds"].in_objective
    (warning,) = report.warnings
    for part in ("seconds gave 124.187", "scale: [0, 124.187]", "bind_evaluator(seconds, scale="):
        assert part in warning
    shown = io.StringIO()
    report.print(file=shown)
    assert "124.187, outside" in shown.getvalue()


async def test_a_training_refuses_scores_outside_0_and_1() -> None:
    async def target(inputs: dict[str, int], config: Any) -> int:
        return inputs["n"]

    class Nobody:
        async def propose(self, request: Any) -> dict[str, str]:
            raise AssertionError("nothing is proposed")

    with pytest.raises(BadInput, match=r"gave 5, outside \[0, 1\].*scale: \[0, 5\]"):
        await atrain(
            target,
            prompts={"p": "text"},
            dataset=CASES,
            evaluators=[bind_evaluator(lambda ctx: 5, name="stars")],
            optimizer=RandomSearch(proposer=Nobody()),
            budget={"rollouts": 40},
        )


@pytest.mark.parametrize(("given", "mean"), [(True, 0.0), (False, 1.0), (1, 0.0), (0.25, 0.75)])
async def test_an_inverted_scale_inverts_what_passes(given: Any, mean: float) -> None:
    report = await evaluated(bind_evaluator(lambda ctx: given, name="toxic", scale=(1, 0)))
    assert (report.objective, report.scores["toxic"].pass_rate) == (mean, float(mean == 1.0))


async def test_content_blocks_are_text_to_evaluators_and_stay_reachable() -> None:
    blocks = [
        {"type": "thinking", "thinking": "hm {", "signature": "s"},
        {"type": "text", "text": '{"a": '},
        {"type": "text", "text": "1}", "citations": [{"url": "x"}]},
    ]

    async def state(inputs: Any) -> Any:
        return {"messages": [AIMessage(content=blocks)]}

    async def bare(inputs: Any) -> Any:
        return AIMessage(content=blocks).content

    def seen(outputs: Any) -> bool:
        (message,) = outputs["messages"]
        return message["content"] == '{"a": 1}' and message["content_blocks"] == blocks

    cases = [{"id": "a", "inputs": {}, "expected_output": '{"a": 1}'}]
    field = "messages.-1.content"
    built_in = [
        {"type": "json_valid", "field": field},
        {"type": "exact_match", "field": field},
        {"type": "regex", "pattern": r"\{.a.: 1\}", "full": True, "field": field},
        {"type": "length", "at_most": 8, "field": field},
    ]
    report = await aevaluate(state, dataset=cases, evaluators=[*built_in, seen])
    assert {score.mean for score in report.scores.values()} == {1.0}, report.cases[0].reasons
    plain = [{k: v for k, v in one.items() if k != "field"} for one in built_in]
    report = await aevaluate(bare, dataset=cases, evaluators=plain)
    assert {score.mean for score in report.scores.values()} == {1.0}, report.cases[0].reasons


async def test_exact_match_of_a_whole_state_says_what_to_name() -> None:
    async def state(inputs: Any) -> Any:
        return {"messages": [AIMessage(content="Paris")]}

    cases = [{"id": "a", "inputs": {}, "expected_output": "Paris"}]
    report = await aevaluate(state, dataset=cases, evaluators=["exact_match"])
    assert (report.status, report.objective) == ("missed_threshold", None)
    reason = report.cases[0].failure.reason
    assert "the output is a whole state (messages)" in reason
    assert "target.output" in reason

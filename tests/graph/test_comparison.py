"""Runs and versions compared: the numbers of SciPy, the cases that flipped, and refusals."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from scipy import stats
from typer.testing import CliRunner

from orcheo_agentensor import LLMJudge, Store, acompare, aevaluate, atrain, compare, evaluate
from orcheo_agentensor.cli.app import app
from orcheo_agentensor.errors import BadInput
from orcheo_agentensor.testing import RuleChatModel

CASES = [
    {
        "id": f"c{n:02}",
        "inputs": n,
        "expected_output": n % 5,
        "metadata": {"language": "en" if n % 3 else "de"},
    }
    for n in range(40)
]


def known(*digits: int) -> Any:
    """A target that is right on numbers that end in these digits, modulo five."""
    return lambda n: n % 5 if n % 5 in digits else -1


async def measured(store: Store, run_id: str, target: Any, **settings: Any) -> Any:
    given = {"dataset": CASES, "evaluators": ["exact_match"], **settings}
    return await aevaluate(target, run_id=run_id, workflow_id="w", store=store, **given)


async def test_two_runs_differ_by_what_scipy_says_and_the_flipped_cases_are_named() -> None:
    store = Store.from_url(None)
    await measured(store, "old", known(0, 1))
    await measured(store, "new", known(1, 2, 3))
    found = await acompare("old", "new", store=store, by="language")
    contrast = found.contrasts[0]
    one = contrast.metrics["exact_match"]
    assert (one.before, one.after, one.wins, one.losses, one.ties) == (0.4, 0.6, 16, 8, 16)
    assert one.mcnemar == pytest.approx(stats.binomtest(16, 24).pvalue)
    assert one.difference.gain == pytest.approx(0.2)
    assert {flip.case_id for flip in contrast.broke} == {f"c{n:02}" for n in range(0, 40, 5)}
    assert len(contrast.fixed) == 16
    assert (contrast.broke[0].before, contrast.broke[0].after) == (0, -1)
    assert contrast.broke[0].reasons == {"after exact_match": "expected 0, got -1"}
    german = [n for n in range(40) if n % 3 == 0]
    assert contrast.strata["de"].difference.n == len(german)
    assert contrast.strata["de"].before == pytest.approx(
        sum(n % 5 in (0, 1) for n in german) / len(german)
    )
    assert found.to_json()["contrasts"][0]["evaluators"]["exact_match"]["mcnemar"] == one.mcnemar


async def test_reports_compare_as_their_runs_do_and_show_themselves() -> None:
    store = Store.from_url(None)
    old = await measured(store, "old", known(0, 1))
    new = await measured(store, "new", known(1, 2, 3))
    by_report = await acompare(old, new)
    by_run = await acompare("old", "new", store=store)
    assert by_report.to_json()["contrasts"] == by_run.to_json()["contrasts"]
    html = by_run._repr_html_()
    assert "8 cases broke" in html
    assert "16 cases fixed" in html


def test_several_sides_stand_against_the_first_and_dominated_ones_leave_the_front() -> None:
    cases = [{"inputs": n, "expected_output": n} for n in range(8)]
    reports = [
        evaluate(
            lambda n, top=top: min(n, top),
            dataset=cases,
            evaluators=["exact_match"],
            run_id=f"t{top}",
        )
        for top in (1, 3, 7)
    ]
    found = compare(*reports)
    assert [contrast.before for contrast in found.contrasts] == ["t1", "t1"]
    assert [contrast.objective.after for contrast in found.contrasts] == [0.5, 1.0]
    assert "t7" in found.front
    assert found.contrasts[1].drops(most=0.02, alpha=0.05) == []
    fell = compare(reports[2], reports[0]).contrasts[0].drops(most=0.02, alpha=0.05)
    assert fell[0].startswith("exact_match fell from 1.000 to 0.250 (-0.750, 95 % interval [")


async def test_a_failed_case_is_broken_and_takes_no_part_in_means() -> None:
    def crash(n: int) -> int:
        if n == 3:
            raise ValueError("no threes")
        return n % 5

    store = Store.from_url(None)
    await measured(store, "old", known(*range(5)))
    await measured(store, "new", crash, limits={"retries": 0})
    contrast = (await acompare("old", "new", store=store)).contrasts[0]
    assert [(flip.case_id, flip.reasons["after"]) for flip in contrast.broke] == [
        ("c03", "ValueError: no threes")
    ]
    assert contrast.metrics["exact_match"].difference.n == 39
    assert contrast.metrics["exact_match"].difference.gain == 0.0


async def test_replicates_give_pass_at_k_and_split_the_variance() -> None:
    seen: dict[int, int] = {}

    def sometimes(n: int) -> int:
        seen[n] = seen.get(n, -1) + 1
        passes = {0: (True, True, True), 1: (True, False, False), 2: (False, False, False)}
        return n if passes[n][seen[n]] else -1

    cases = [{"id": f"c{n}", "inputs": n, "expected_output": n} for n in range(3)]
    store = Store.from_url(None)
    for run_id in ("a", "b"):
        seen.clear()
        await measured(store, run_id, sometimes, dataset=cases, replicates=3)
    side = (await acompare("a", "b", store=store)).sides[0]
    runs = [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    for k in (1, 2, 3):
        drawn = [list(itertools.combinations(case, k)) for case in runs]
        some = sum(sum(map(any, case)) / len(case) for case in drawn) / 3
        every = sum(sum(map(all, case)) / len(case) for case in drawn) / 3
        assert side.pass_at[k] == pytest.approx(some)
        assert side.pass_all[k] == pytest.approx(every)
    within = (0 + 1 / 3 + 0) / 3
    means = [1.0, 1 / 3, 0.0]
    grand = sum(means) / 3
    between = sum((mean - grand) ** 2 for mean in means) / 2 - within / 3
    assert side.variance == {"case": pytest.approx(between), "run": pytest.approx(within)}


async def test_versions_are_compared_where_their_training_measured_them() -> None:
    class Teacher:
        async def propose(self, request: Any) -> dict[str, str]:
            return {component.name: component.text + "!" for component in request.components}

    def target(inputs: Any, config: Any) -> str:
        from orcheo_agentensor import get_prompt

        return "right" if get_prompt("tone", config).endswith("!") else "wrong"

    cases = [
        {"id": f"{split}{n}", "inputs": f"{split} {n}", "expected_output": "right", "split": split}
        for split in ("train", "validation", "holdout")
        for n in range(6)
    ]
    from orcheo_agentensor import TextGrad

    store = Store.from_url(None)
    result = await atrain(
        target,
        prompts={"tone": "Hi"},
        dataset=cases,
        evaluators=["exact_match"],
        optimizer=TextGrad(proposer=Teacher()),
        store=store,
        workflow_id="w",
        run_id="t",
        budget={"rollouts": 80},
    )
    found = await acompare("w@1", f"w@{result.best.config_version}", "t", store=store)
    assert found.contrasts[0].objective.difference.gain == 1.0
    assert {flip.case_id for flip in found.contrasts[0].fixed} == {f"holdout{n}" for n in range(6)}
    assert found.contrasts[1].objective.difference.gain == 1.0


async def test_what_cannot_be_compared_is_refused_with_the_reason() -> None:
    store = Store.from_url(None)
    await measured(store, "a", known(0))
    changed = [{**CASES[0], "expected_output": 4}, *CASES[1:]]
    await measured(store, "data", known(0), dataset=changed)
    await measured(store, "others", known(0), dataset=[{"id": "x", "inputs": 1}])
    await measured(store, "judge", known(0), evaluators=["contains"])
    strict = {"type": "numeric_tolerance", "name": "exact_match", "abs_tol": 1.0}
    await measured(store, "changed", known(0), evaluators=[strict])
    for other, why in (
        ("data", "1 cases have other inputs or expected outputs under the same id, such as 'c00'"),
        ("others", "they share no case"),
        ("judge", "they share no evaluator (exact_match; contains)"),
        ("changed", "the evaluator exact_match has changed between them"),
    ):
        with pytest.raises(BadInput) as refused:
            await acompare("a", other, store=store)
        assert why in refused.value.message
    with pytest.raises(BadInput, match=r"--by colour: no case has metadata\.colour"):
        await acompare("a", "a", store=store, by="colour")


async def test_only_shared_cases_count_and_that_is_said() -> None:
    store = Store.from_url(None)
    await measured(store, "all", known(0, 1))
    await measured(store, "some", known(0), dataset=CASES[:10])
    found = await acompare("all", "some", store=store)
    assert found.contrasts[0].objective.difference.n == 10
    assert found.notes == ("compared on the 10 cases that all share, of 40",)


ASKED: list[str] = []


def prefers_the_larger(messages: list[Any]) -> Any:
    """A judge that is asked for one of two numbers; what it was asked is kept."""
    ASKED.append(messages[-1].text)
    first, _, second = messages[-1].text.partition("<B-")
    a, b = (int(re.findall(r">\n(-?\d+)\n<", text)[-1]) for text in (first, second))
    return {"reasoning": "", "choice": "A" if a > b else "B" if b > a else "tie"}


async def test_a_pairwise_judge_says_whose_outputs_it_prefers_and_is_paid_once() -> None:
    judge = LLMJudge(
        rubric="Which is larger?", pairwise=True, model=RuleChatModel(rule=prefers_the_larger)
    )
    store = Store.from_url(None)
    await measured(store, "old", known(0, 1))
    await measured(store, "new", known(1, 2, 3))
    for _ in range(2):
        found = await acompare("old", "new", store=store, judge=judge)
        preferred = found.contrasts[0].preference
        assert preferred is not None
        assert (preferred.wins, preferred.losses, preferred.ties) == (16, 8, 16)
        assert preferred.p_value == pytest.approx(stats.binomtest(16, 24).pvalue)
    assert len(ASKED) == 2 * len(CASES)  # each in both orders, and none again
    assert found.to_json()["contrasts"][0]["preference"]["run_id"] == preferred.run_id
    assert "preferred" in found._repr_html_()
    with pytest.raises(BadInput, match="must be a pairwise judge"):
        await acompare("old", "new", store=store, judge={"type": "llm_judge", "rubric": "r"})


async def test_a_comparison_is_written_as_a_page_a_comment_and_junit(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'c.db'}"
    hostile = "<script>alert(1)</script> \x1b[31m @team"

    def said(word: str) -> Any:
        return lambda n: n % 5 if n % 5 in known_by[word] else hostile

    known_by = {"old": (0, 1), "new": (1, 2, 3)}
    async with Store.from_url(url) as store:
        for run_id in known_by:
            await measured(store, run_id, said(run_id), replicates=2)
    runner = CliRunner()
    texts = {}
    for kind in ("html", "md", "xml", "json"):
        file = tmp_path / f"c.{kind}"
        command = ["report", "old", "new", "-o", str(file), "--by", "language", "--store", url]
        done = await asyncio.to_thread(runner.invoke, app, command)
        assert done.exit_code == 0, done.output
        texts[kind] = file.read_text()
    for kind in ("html", "md"):
        assert "8 cases broke" in texts[kind]
        assert "16 cases were fixed" in texts[kind]
        assert "<script>" not in texts[kind]
        assert "\x1b" not in texts[kind]
    assert "&lt;script&gt;" in texts["html"]
    assert "pass@k" in texts["html"]
    assert len(texts["md"].encode()) < 65_000
    suite = ElementTree.fromstring(texts["xml"])[0]
    assert (suite.get("tests"), suite.get("failures")) == ("24", "8")
    assert json.loads(texts["json"])["contrasts"][0]["n_broke"] == 8
    lone = ["report", "old", "-o", str(tmp_path / "x.md"), "--by", "language", "--store", url]
    assert (await asyncio.to_thread(runner.invoke, app, lone)).exit_code == 2

"""Reports to share: one file in any format, with hostile texts as texts."""

from __future__ import annotations

import html.parser
import json
from typing import Any
from xml.etree import ElementTree

import pytest

from orcheo_agentensor import Store, TextGrad, aevaluate, atrain, get_prompt
from orcheo_agentensor.display import chance, p_equals
from orcheo_agentensor.errors import BadInput, NotFound
from orcheo_agentensor.reporting.report import (
    MARKDOWN_LIMIT,
    MOST_CASES,
    glimpse,
    load_report,
    to_html,
    to_json_text,
    to_junit,
    to_markdown,
    word_diff,
)

HOSTILE = "<script>alert(1)</script> \x1b[31m | `x` @everyone =cmd()"


class Page(html.parser.HTMLParser):
    """The tags, ids, links and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.ids.add(found.get("id") or "")
        self.links.extend(value for key, value in attrs if key in ("href", "src") and value)

    def handle_data(self, data: str) -> None:
        self.text += data


async def evaluated(store: Store, count: int = 12, **settings: Any) -> str:
    """A run in which every third case crashes, and every third other one is wrong."""

    def target(n: int) -> str:
        if n % 3 == 0:
            raise ValueError(HOSTILE)
        return HOSTILE if n % 3 == 1 else str(n)

    cases = [{"id": f"c{n:05}", "inputs": n, "expected_output": str(n)} for n in range(count)]
    report = await aevaluate(
        target,
        dataset=cases,
        evaluators=["exact_match"],
        limits={"retries": 0},
        store=store,
        workflow_id="w",
        run_id="r",
        **settings,
    )
    return report.run_id


async def trained(store: Store) -> str:
    class Teacher:
        async def propose(self, request: Any) -> dict[str, str]:
            return {one.name: f"{one.text} <b>politely</b>!" for one in request.components}

    def target(inputs: Any, config: Any) -> str:
        return "right" if get_prompt("tone", config).endswith("!") else "wrong"

    cases = [
        {"id": f"{split}{n}", "inputs": f"{split} {n}", "expected_output": "right", "split": split}
        for split in ("train", "validation", "holdout")
        for n in range(6)
    ]
    result = await atrain(
        target,
        prompts={"tone": "Answer the question"},
        dataset=cases,
        evaluators=["exact_match"],
        optimizer=TextGrad(proposer=Teacher()),
        store=store,
        workflow_id="w",
        run_id="t",
        budget={"rollouts": 80},
    )
    return result.run_id


async def test_a_page_has_every_part_and_hostile_texts_stay_texts() -> None:
    store = Store.from_url(None)
    report = await load_report(await evaluated(store), store=store)
    page = Page(to_html(report))
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text
    assert "\x1b" not in page.text
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert "4 of 12" in page.text
    assert [line.case_id for line in report.lines[:4]] == ["c00000", "c00003", "c00006", "c00009"]
    assert page.text.count("not passed") == 4


async def test_the_page_of_a_training_tells_what_changed_and_what_it_was_worth() -> None:
    store = Store.from_url(None)
    report = await load_report(await trained(store), store=store)
    text = to_html(report)
    assert "<ins>" in text
    assert "&lt;b&gt;politely&lt;/b&gt;" in text
    page = Page(text)
    for part in ("held-out cases", "were fixed", "Search", "Validation cases and candidates"):
        assert part in page.text
    assert "svg" in page.tags
    assert report.candidates[0].parents == []
    assert report.candidates[-1].objective == 1.0
    assert [kind for kind, _ in report.diffs["tone"]] == ["same", "added"]
    assert len(report.squares) == 6
    markdown = to_markdown(report)
    assert "Against the baseline: +1.000" in markdown
    assert "6 were fixed" in markdown


async def test_junit_has_a_test_for_each_case() -> None:
    store = Store.from_url(None)
    report = await load_report(await evaluated(store), store=store)
    suite = ElementTree.fromstring(to_junit(report))
    assert {key: suite.get(key) for key in ("tests", "failures", "errors")} == {
        "tests": "12",
        "failures": "4",
        "errors": "4",
    }
    assert len(suite.findall("testcase")) == 12
    error = suite.find("testcase[@name='c00000']/error")
    assert error is not None
    assert "<script>" in str(error.get("message"))


async def test_markdown_fits_a_comment_and_nothing_in_it_is_markup() -> None:
    store = Store.from_url(None)
    report = await load_report(await evaluated(store, 600), store=store)
    text = to_markdown(report)
    assert len(text.encode()) < 65_536
    assert "<script>" not in text
    assert "@everyone" not in text.replace("\\@everyone", "")
    rows = [line for line in text.splitlines() if line.startswith("| c0")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {6}
    assert MARKDOWN_LIMIT < 65_536


async def test_many_cases_are_one_line_each_and_the_worst_in_full() -> None:
    store = Store.from_url(None)
    report = await load_report(await evaluated(store, 900), store=store)
    assert (len(report.lines), len(report.cases)) == (900, MOST_CASES)
    assert not any(case.line.passed for case in report.cases)
    assert "The worst 200 of 900 are shown" in Page(to_html(report)).text
    assert len(json.loads(to_json_text(report))["lines"]) == 900


async def test_replicates_that_differ_are_listed_as_flaky() -> None:
    store = Store.from_url(None)
    seen: list[int] = []

    def sometimes(n: int) -> int:
        seen.append(n)
        return n if seen.count(n) > 1 or n else -1

    await aevaluate(
        sometimes,
        dataset=[{"id": f"c{n}", "inputs": n, "expected_output": n} for n in range(3)],
        evaluators=["exact_match"],
        replicates=2,
        store=store,
        run_id="r",
    )
    report = await load_report("r", store=store)
    assert [line.case_id for line in report.flakiest] == ["c0"]


async def test_only_what_has_ended_is_reported() -> None:
    store = Store.from_url(None)
    with pytest.raises(NotFound, match="no run 'x'"):
        await load_report("x", store=store)

    run = await evaluated(store)
    await store.runs.update(run, status="interrupted", result=None)
    with pytest.raises(BadInput, match="agentensor resume r"):
        await load_report(run, store=store)


def test_a_word_diff_keeps_both_texts_whole() -> None:
    before, after = "Answer in one  word.\nBe kind.", "Answer in two words.\nBe very kind."
    pieces = word_diff(before, after)
    assert "".join(text for kind, text in pieces if kind != "added") == before
    assert "".join(text for kind, text in pieces if kind != "removed") == after


async def test_of_very_many_cases_junit_lists_the_worst_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orcheo_agentensor.reporting.report.MOST_TESTS", 5)
    store = Store.from_url(None)
    report = await load_report(await evaluated(store), store=store)
    suite = ElementTree.fromstring(to_junit(report))
    assert suite.get("tests") == "12"
    assert suite.findtext("system-out") == "The worst 5 of 12 cases are listed."
    assert [case.get("name") for case in suite.iter("testcase")] == [
        *("c00000", "c00001", "c00003", "c00006", "c00009")
    ]


def test_no_p_value_is_shown_as_nothing() -> None:
    assert [chance(p) for p in (0.0, 0.00009, 0.0001, 0.03125, 1.0)] == [
        "<0.0001",
        "<0.0001",
        "0.0001",
        "0.0312",
        "1.0000",
    ]
    assert [p_equals(p) for p in (0.0, 0.03125)] == ["p < 0.0001", "p = 0.0312"]


def test_the_beginning_of_a_value_is_one_line_and_cuts_no_secret_in_half() -> None:
    text = glimpse({"q": "a\nb" + "x" * 70 + " sk-abcdefghijklmnop1234567890"})
    assert len(text) <= 90
    assert "\n" not in text
    assert "sk-" not in text

"""The report of a run: one model, written as HTML, Markdown, JUnit XML or JSON."""

from __future__ import annotations

import base64
import difflib
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from orcheo_agentensor.display import (
    again,
    chance,
    clean,
    clean_json,
    interval,
    milliseconds,
    number,
    percent,
    spent,
    when,
)
from orcheo_agentensor.errors import BadInput, MissingExtra
from orcheo_agentensor.evaluation.results import weighted_mean
from orcheo_agentensor.evaluation.statistics import percentile
from orcheo_agentensor.evaluators.context import verdict
from orcheo_agentensor.media import SEEN, label_media, references_in
from orcheo_agentensor.reporting.cases import PHASES, manifest_of
from orcheo_agentensor.reporting.comparison import RunComparison, acompare
from orcheo_agentensor.storage import CandidateRecord, CaseRow, ConfigCheckpoint, RunRecord, Store
from orcheo_agentensor.storage.records import Mark
from orcheo_agentensor.storage.tables import clean_text
from orcheo_agentensor.training.objective import front_lines

MOST_CASES = 200
"""How many cases a report shows in full; the worst ones first."""
MOST_LISTED = 10
MOST_SQUARES = (60, 24)
"""Cases and candidates of the heat map."""
LONGEST = 4_000
"""Characters of an input or output that are shown."""
MOST_PICTURE_BYTES = 2 * 1024 * 1024
MOST_PICTURES_BYTES = 8 * 1024 * 1024
"""Bytes of one picture, and of all pictures, that a page carries; of others it has the label."""
MOST_TESTS = 20_000
"""How many tests a JUnit file lists; the worst cases. Readers of it choke on more."""
MARKDOWN_LIMIT = 60_000
"""A comment on a pull request takes 65,536 characters."""

Words = Sequence[tuple[str, str]]
"""Pieces of a text with "same", "added" or "removed"."""


@dataclass(frozen=True, kw_only=True)
class CaseLine:
    """What a case has scored, its runs taken together; `spread` is how far they differ."""

    case_id: str
    score: float | None
    passed: bool
    failed: bool
    latency_ms: float
    spread: float


@dataclass(frozen=True, kw_only=True)
class CaseView:
    """A case in full, with texts cut to what can be read."""

    line: CaseLine
    inputs: str
    expected_output: str
    output: str
    results: Sequence[tuple[str, str, str]]
    failure: str | None
    images: Sequence[str] = ()
    """SHA-256 of the images in it."""


@dataclass(frozen=True, kw_only=True)
class CandidateView:
    """A candidate of a training; `at` counts the rollouts until its last validation case."""

    number: int
    parents: Sequence[int]
    status: str
    step: int
    objective: float | None
    at: int | None
    reason: str
    version: int | None
    changes: Mapping[str, Words]


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What a report shows of a run.

    Attributes:
        run: The run's record, with its result.
        manifest: What the run was made of.
        usage: What it spent.
        lines: Every case on one line, the worst first.
        cases: The first of them in full.
        comparison: Of a training, its best version against its baseline.
        candidates: Of a training, its candidates in order.
        squares: Case -> the score of each of the candidates on it; None where it was not run.
        diffs: Prompt -> its text from the baseline to the best version, word by word.
        pictures: SHA-256 -> data URL of the images of these cases, as far as a page carries them.
    """

    run: RunRecord
    manifest: Mapping[str, Any]
    usage: Mapping[str, Any]
    lines: Sequence[CaseLine]
    cases: Sequence[CaseView]
    comparison: RunComparison | None = None
    candidates: Sequence[CandidateView] = ()
    squares: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    diffs: Mapping[str, Words] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)

    @property
    def summary(self) -> Mapping[str, Any]:
        """The summary of the run's evaluation, or of its best version on validation."""
        found: Mapping[str, Any] = (self.run.result or {})["summary"]
        return found

    @property
    def front(self) -> list[str]:
        """Of a training with an objective, its best candidates in score, cost, time and length."""
        return front_lines(((self.run.result or {}).get("decision") or {}).get("objective") or {})

    @property
    def slowest(self) -> Sequence[CaseLine]:
        """The cases that took longest."""
        return sorted(self.lines, key=lambda line: -line.latency_ms)[:MOST_LISTED]

    @property
    def flakiest(self) -> Sequence[CaseLine]:
        """The cases whose runs differ most."""
        found = [line for line in self.lines if line.spread > 0]
        return sorted(found, key=lambda line: -line.spread)[:MOST_LISTED]

    @property
    def passed(self) -> int:
        """How many cases passed all of their evaluators."""
        return sum(line.passed for line in self.lines)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON; every case on one line, the worst ones in full."""
        return {
            "run": self.run.model_dump(mode="json"),
            "manifest": dict(self.manifest),
            "usage": dict(self.usage),
            "lines": [vars(line) for line in self.lines],
            "cases": [{**vars(case), "line": case.line.case_id} for case in self.cases],
            "comparison": None if self.comparison is None else self.comparison.to_json(),
            "candidates": [vars(one) for one in self.candidates],
        }


async def load_report(run_id: str, *, store: Store) -> RunReport:
    """Read the report of an evaluation or a training that has ended.

    Raises `NotFound`, or `BadInput` for a run that still works, or that has no result.
    """
    run = await store.runs.get(run_id)
    result = run.result or {}
    if run.status == "running" or "summary" not in result:
        what = "is still at work" if run.status == "running" else f"is {run.status}, without result"
        raise BadInput(
            f"run {run_id!r} {what}; go on with it (agentensor resume {run_id}) and report it when "
            "it has ended",
            field="run",
            value=run_id,
        )
    manifest = await manifest_of(store, run_id)
    weights = {one["name"]: one["weight"] for one in manifest.get("evaluators") or ()}
    marks = await store.runs.marks(run_id)
    candidates = await store.training.candidates(run_id) if run.mode == "train" else []
    numbers = {one.candidate_hash: n for n, one in enumerate(candidates)}
    best = (result.get("best") or {}).get("candidate")
    best_hash = next((key for key in numbers if best and key.startswith(best)), None)
    shown = _of_best(marks, best_hash)
    lines = _lines(shown, weights)
    versions = await _versions(store, run) if run.mode == "train" else {}
    cases, pictures = await _views(store, run, lines[:MOST_CASES], shown)
    return RunReport(
        run=run,
        manifest=manifest,
        usage=(await store.runs.usage(run_id)).to_json(),
        lines=lines,
        cases=cases,
        pictures=pictures,
        comparison=await _against_baseline(store, run, versions, best_hash, candidates),
        candidates=_lineage(candidates, marks, versions),
        squares=_squares(marks, [one.candidate_hash for one in candidates], weights),
        diffs=_diffs(result),
    )


def _of_best(marks: Sequence[Mark], best: str | None) -> list[Mark]:
    """The rollouts that the report is about: of a training, the best on cases it never saw."""
    if best is None:
        return [*marks]
    there = {mark.phase for mark in marks if mark.candidate_hash == best}
    phase = next((phase for phase in PHASES if phase in there), None)
    return [mark for mark in marks if mark.candidate_hash == best and mark.phase == phase]


def _lines(marks: Iterable[Mark], weights: Mapping[str, float]) -> list[CaseLine]:
    by_case: dict[str, list[Mark]] = defaultdict(list)
    for mark in marks:
        by_case[mark.case_id].append(mark)
    found = []
    for case_id, runs in by_case.items():
        scores = [_score(mark, weights) for mark in runs]
        known = [score for score in scores if score is not None]
        failed = any(mark.failed or any(bad for *_, bad in mark.scores.values()) for mark in runs)
        found.append(
            CaseLine(
                case_id=case_id,
                score=math.fsum(known) / len(known) if known and not failed else None,
                passed=not failed and all(_passed(mark) for mark in runs),
                failed=failed,
                latency_ms=math.fsum(mark.latency_ms for mark in runs) / len(runs),
                spread=max(known) - min(known) if known else 0.0,
            )
        )
    return sorted(found, key=_badness)


def _badness(line: CaseLine) -> tuple[bool, bool, float, str]:
    return (not line.failed, line.passed, 2.0 if line.score is None else line.score, line.case_id)


def _score(mark: Mark, weights: Mapping[str, float]) -> float | None:
    return weighted_mean(
        {name: score for name, (score, *_) in mark.scores.items() if score is not None}, weights
    )


def _passed(mark: Mark) -> bool:
    return all(verdict(passed, score) is not False for score, passed, _ in mark.scores.values())


async def _views(
    store: Store, run: RunRecord, lines: Sequence[CaseLine], marks: Sequence[Mark]
) -> tuple[list[CaseView], dict[str, str]]:
    """The cases of these lines in full, of several runs of a case the first of the worst; and their
    pictures."""
    wanted = [line.case_id for line in lines]
    if not wanted:
        return [], {}
    one = next(iter(marks))
    rows = await store.runs.case_rows(
        run.run_id,
        candidate_hash=one.candidate_hash,
        phase=one.phase,
        case_ids=wanted,
        limit=None,
    )
    by_case: dict[str, CaseRow] = {}
    for row in sorted(rows, key=_row_badness):
        by_case.setdefault(row.rollout.case_id, row)
    cases = await store.datasets.cases(str(run.dataset_id), str(run.dataset_version), wanted)
    views = [_view(line, cases[line.case_id], by_case[line.case_id]) for line in lines]
    return views, await _pictures(store, cases.values(), by_case.values())


async def _pictures(
    store: Store, cases: Iterable[Mapping[str, Any]], rows: Iterable[CaseRow]
) -> dict[str, str]:
    """Each image of these cases as a data URL, as far as a page carries them."""
    held = [[one.get("inputs"), one.get("expected_output")] for one in cases]
    found = references_in([*held, *(row.rollout.output for row in rows)])
    pictures: dict[str, str] = {}
    left = MOST_PICTURES_BYTES
    for digest, mime in found.items():
        if mime in SEEN and left > 0:
            content = await store.media.get(digest)
            if len(content) <= min(MOST_PICTURE_BYTES, left):
                left -= len(content)
                pictures[digest] = f"data:{mime};base64,{base64.b64encode(content).decode()}"
    return pictures


def _row_badness(row: CaseRow) -> tuple[bool, float]:
    scores = [score.score for score in row.scores if score.score is not None]
    return row.rollout.failure is None, min(scores, default=0.0)


def _view(line: CaseLine, case: Mapping[str, Any], row: CaseRow) -> CaseView:
    failure = row.rollout.failure
    whole = [case.get("inputs"), case.get("expected_output"), row.rollout.output]
    return CaseView(
        line=line,
        inputs=shown_text(case.get("inputs")),
        expected_output=shown_text(case.get("expected_output")),
        output=shown_text(row.rollout.output),
        results=[
            (
                score.name,
                number(score.score) if score.score is not None else score.label or "failed",
                shown_text((score.failure or {}).get("reason") or score.reason or ""),
            )
            for score in row.scores
        ],
        failure=None if failure is None else f"{failure['kind']}: {failure['reason']}",
        images=[digest for digest, mime in references_in(whole).items() if mime in SEEN],
    )


def glimpse(value: Any, most: int = 90) -> str:
    """The beginning of a value, on one line."""
    text = " ".join(clean(shown_text(value)).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shown_text(value: Any) -> str:
    """A value as a person reads it; the middle of a long one is left out."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
    text = label_media(text)
    if len(text) > LONGEST:
        half = LONGEST // 2
        text = f"{text[:half]}\n… {len(text) - LONGEST} characters left out …\n{text[-half:]}"
    return clean_text(text)


# -- Trainings -------------------------------------------------------------------------------------


async def load_lineage(run: RunRecord, *, store: Store) -> list[CandidateView]:
    """The candidates of a training in order, also of one at work; none of another run."""
    if run.mode != "train":
        return []
    candidates = await store.training.candidates(run.run_id)
    marks = await store.runs.marks(run.run_id)
    return _lineage(candidates, marks, await _versions(store, run))


async def _versions(store: Store, run: RunRecord) -> dict[str, ConfigCheckpoint]:
    """Candidate -> its version, of the versions that a training has made."""
    found = await store.checkpoints.list(run.workflow_id, limit=None)
    return {str(one.metadata.get("candidate")): one for one in found if one.run_id == run.run_id}


async def _against_baseline(
    store: Store,
    run: RunRecord,
    versions: Mapping[str, ConfigCheckpoint],
    best: str | None,
    candidates: Sequence[CandidateRecord],
) -> RunComparison | None:
    baseline = candidates[0].candidate_hash if candidates else None
    if best is None or best == baseline or best not in versions or baseline not in versions:
        return None
    sides = (
        f"{run.workflow_id}@{versions[str(which)].config_version}" for which in (baseline, best)
    )
    return await acompare(*sides, store=store)


def _lineage(
    candidates: Sequence[CandidateRecord],
    marks: Sequence[Mark],
    versions: Mapping[str, ConfigCheckpoint],
) -> list[CandidateView]:
    numbers = {one.candidate_hash: n for n, one in enumerate(candidates)}
    at: dict[str, int] = {}
    for count, mark in enumerate(marks, start=1):
        if mark.phase == "validation":
            at[mark.candidate_hash] = count
    prompts = {one.candidate_hash: one.prompts for one in candidates}
    found = []
    for n, one in enumerate(candidates):
        before = prompts[one.parents[0]] if one.parents and one.parents[0] in prompts else {}
        version = versions.get(one.candidate_hash)
        texts = {name: _prompt_text(value) for name, value in one.prompts.items()}
        old = {name: _prompt_text(value) for name, value in before.items()}
        found.append(
            CandidateView(
                number=n,
                parents=[numbers[parent] for parent in one.parents if parent in numbers],
                status=one.status,
                step=int(one.info.get("step", 0)),
                objective=one.info.get("validation", version and version.metrics["objective"]),
                at=at.get(one.candidate_hash),
                reason=str(one.info.get("reason") or ""),
                version=None if version is None else version.config_version,
                changes={
                    name: word_diff(old[name], text)
                    for name, text in texts.items()
                    if name in old and old[name] != text
                },
            )
        )
    return found


def _prompt_text(value: Any) -> str:
    return str(value.get("text", "")) if isinstance(value, Mapping) else str(value)


def _squares(
    marks: Iterable[Mark], candidates: Sequence[str], weights: Mapping[str, float]
) -> dict[str, list[float | None]]:
    """The heat map: validation cases, those first on which candidates differ most."""
    most_cases, most_candidates = MOST_SQUARES
    shown = candidates[:most_candidates]
    place = {candidate: n for n, candidate in enumerate(shown)}
    found: dict[str, list[float | None]] = {}
    for mark in marks:
        if mark.phase == "validation" and mark.candidate_hash in place:
            row = found.setdefault(mark.case_id, [None] * len(shown))
            row[place[mark.candidate_hash]] = _score(mark, weights)

    def spread(row: Sequence[float | None]) -> float:
        known = [score for score in row if score is not None]
        return max(known) - min(known) if known else 0.0

    order = sorted(found, key=lambda case_id: (-spread(found[case_id]), case_id))
    return {case_id: found[case_id] for case_id in order[:most_cases]}


def _diffs(result: Mapping[str, Any]) -> dict[str, Words]:
    before, after = (
        {
            name: _prompt_text(value)
            for name, value in ((result.get(which) or {}).get("prompts") or {}).items()
        }
        for which in ("baseline", "best")
    )
    return {
        name: word_diff(before.get(name, ""), text)
        for name, text in after.items()
        if before.get(name, "") != text
    }


def word_diff(before: str, after: str) -> Words:
    """What was taken from a text and added to it, word by word."""
    old, new = (re.findall(r"\s+|[^\s]+", text) for text in (before, after))
    found: list[tuple[str, str]] = []
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            found.append(("same", "".join(old[a:b])))
            continue
        if b > a:
            found.append(("removed", "".join(old[a:b])))
        if d > c:
            found.append(("added", "".join(new[c:d])))
    return found


# -- Writers ---------------------------------------------------------------------------------------


def render(template: str, **values: Any) -> str:
    """A page from one of our templates; everything in `values` is escaped.

    Raises `MissingExtra` without Jinja2.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtra("jinja2", extra="report") from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("orcheo_agentensor.reporting"),
        autoescape=True,
        finalize=lambda value: clean(value) if type(value) in (str, dict, list) else value,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "number": number,
        "percent": percent,
        "interval": interval,
        "milliseconds": milliseconds,
        "when": when,
        "spent": spent,
        "again": again,
        "shown": shown_text,
        "glimpse": glimpse,
        "chance": chance,
    }
    return environment.get_template(template).render(**values)


def to_html(report: RunReport) -> str:
    """One page without scripts or network, for any browser, phone and print.

    Everything that comes from prompts, cases and models is escaped.
    """
    return render(
        "report.html.j2",
        report=report,
        summary=report.summary,
        result=report.run.result or {},
        curve=curve(report),
        most=MOST_CASES,
        manifest=json.dumps(report.manifest, ensure_ascii=False, indent=2),
        p50=percentile([line.latency_ms for line in report.lines], 0.5),
    )


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The best validation score over the rollouts of a training, as points of a picture."""

    steps: str
    points: Sequence[tuple[float, float, CandidateView]]
    low: float
    high: float
    last: int
    baseline: float | None


def curve(report: RunReport) -> Curve | None:
    """The points of the picture of a search, in a box of 600 by 200; None without a search."""
    known = [one for one in report.candidates if one.objective is not None and one.at is not None]
    if len(known) < 2:
        return None
    scores = [one.objective or 0.0 for one in known]
    low, high = min(scores), max(scores)
    span = (high - low) or 1.0
    last = max(one.at or 0 for one in known) or 1
    points = [
        (600 * (one.at or 0) / last, 200 - 190 * ((one.objective or 0.0) - low) / span, one)
        for one in sorted(known, key=lambda one: one.at or 0)
    ]
    best, steps = math.inf, []
    for x, y, _ in points:
        if y < best:
            steps.append(f"{x:.1f},{min(best, 200.0):.1f} {x:.1f},{y:.1f}")
            best = y
    steps.append(f"600,{best:.1f}")
    return Curve(
        steps=" ".join(steps),
        points=points,
        low=low,
        high=high,
        last=last,
        baseline=report.candidates[0].objective,
    )


def to_markdown(report: RunReport) -> str:
    """The report as a comment on a pull request; cut, and said so, where it would be too long."""
    run, summary = report.run, report.summary
    lines = [
        f"### {cell_text(run.workflow_id)}: {'training' if run.mode == 'train' else 'evaluation'} "
        f"{cell_text(run.run_id)}",
        "",
        f"{report.passed} of {len(report.lines)} cases passed, coverage "
        f"{percent(summary['coverage'])}; {cell_text(spent(report.usage))}{again(summary)}",
        "",
        "| evaluator | mean | 95 % interval | passed | n | failures |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, entry in summary["evaluators"].items():
        lines.append(
            f"| {cell_text(name)} | {number(entry['mean'])} | {interval(entry['ci95'])} | "
            f"{percent(entry['pass_rate'])} | {entry['n']} | {entry['failures']} |"
        )
    if decision := (run.result or {}).get("decision"):
        lines += ["", f"**{cell_text(decision['status'])}**"]
        told = [*decision["reasons"], *report.front]
        lines += [f"- {cell_text(reason)}" for reason in told]
    for contrast in report.comparison.contrasts if report.comparison else ():
        found = contrast.objective
        lines += [
            "",
            f"Against the baseline: {found.difference.gain:+.3f} {interval(found.difference.ci95)} "
            f"(p {chance(found.difference.p_value)}), {len(contrast.broke)} cases broke, "
            f"{len(contrast.fixed)} were fixed.",
        ]
    missed = [case for case in report.cases if not case.line.passed]
    if missed:
        lines += ["", f"<details><summary>The worst of {len(report.lines)} cases</summary>", ""]
        lines += ["| case | score | expected | output | why |", "|---|---:|---|---|---|"]
        for case in missed[:50]:
            why = case.failure or "; ".join(reason for *_, reason in case.results if reason)
            cells = (case.line.case_id, number(case.line.score), case.expected_output)
            lines.append(
                f"| {' | '.join(cell_text(cell, 120) for cell in (*cells, case.output, why))} |"
            )
        lines += ["", "</details>"]
    for name, words in report.diffs.items():
        lines += ["", f"<details><summary>Prompt {cell_text(name)}</summary>", "", "```diff"]
        lines += [
            f"{sign} {clean(line)}".replace("```", "'''")
            for kind, text in words
            for sign in ({"same": " ", "added": "+", "removed": "-"}[kind],)
            for line in text.splitlines()
            if line.strip()
        ]
        lines += ["```", "", "</details>"]
    return cut_markdown("\n".join(lines) + "\n")


def cut_markdown(text: str) -> str:
    """A text that a comment takes; what was left out is said."""
    if len(text.encode()) <= MARKDOWN_LIMIT:
        return text
    kept = text.encode()[:MARKDOWN_LIMIT].decode(errors="ignore").rsplit("\n", 1)[0]
    fence = "\n```" if kept.count("\n```") % 2 else ""
    return f"{kept}{fence}\n\n</details>\n\nThe rest was left out: it is too long here.\n"


_MARKS = re.compile(r"([\\`*_{}\[\]<>|#~!@&])")


def cell_text(text: object, most: int = 400) -> str:
    """A text as itself in a cell of a table: no markup, mention or line break in it works."""
    flat = clean(" ".join(clean_text(str(text)).split()))
    flat = flat if len(flat) <= most else f"{flat[: most - 1]}…"
    return _MARKS.sub(r"\\\1", flat)


def to_junit(report: RunReport) -> str:
    """JUnit XML with a test for each case: one that did not pass is a failure, a broken one an
    error."""
    run = report.run
    failed = sum(line.failed for line in report.lines)
    suite = ElementTree.Element(
        "testsuite",
        name=xml_text(f"{run.workflow_id} {run.run_id}"),
        tests=str(len(report.lines)),
        failures=str(len(report.lines) - report.passed - failed),
        errors=str(failed),
        time=f"{math.fsum(line.latency_ms for line in report.lines) / 1000:.3f}",
    )
    full = {case.line.case_id: case for case in report.cases}
    if len(report.lines) > MOST_TESTS:
        told = ElementTree.SubElement(suite, "system-out")
        told.text = f"The worst {MOST_TESTS} of {len(report.lines)} cases are listed."
    for line in sorted(report.lines[:MOST_TESTS], key=lambda line: line.case_id):
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=xml_text(run.workflow_id),
            name=xml_text(line.case_id),
            time=f"{line.latency_ms / 1000:.3f}",
        )
        if line.passed:
            continue
        shown = full.get(line.case_id)
        why = "" if shown is None else shown.failure or "; ".join(r for *_, r in shown.results if r)
        told = ElementTree.SubElement(
            case,
            "error" if line.failed else "failure",
            message=xml_text(why or f"score {number(line.score)}"),
        )
        if shown is not None:
            told.text = xml_text(f"expected: {shown.expected_output}\noutput: {shown.output}")
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str) -> str:
    """A text without the characters that XML does not take."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", clean(text))


def to_json_text(report: RunReport) -> str:
    """The report as one JSON document."""
    return clean_json(report.to_json()) + "\n"


WRITERS: Mapping[str, Callable[[RunReport], str]] = {
    ".html": to_html,
    ".md": to_markdown,
    ".xml": to_junit,
    ".json": to_json_text,
}
"""Suffix -> the writer of that format."""

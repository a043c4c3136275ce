"""Progress in a log: its words, and a line now and then however long a run says nothing."""

from __future__ import annotations

from typing import Any

import pytest

from orcheo_agentensor.cli.progress import Lines


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def lines(clock: list[float]) -> Lines:
    return Lines(clock=lambda: clock[0])


def start(lines: Lines, **fields: Any) -> None:
    lines(
        {
            "type": "run_started",
            "run_id": "r",
            "mode": "train",
            "target": "shop",
            "prompts": ["tone"],
            "optimizer": "reflective",
            "splits": {"train": 4},
            "budget": {"rollouts": 100},
            **fields,
        }
    )


def accepted(lines: Lines, validation: float | None, *, best: bool, names: list[str]) -> None:
    lines(
        {
            "type": "candidate_accepted",
            "components": names,
            "validation": validation,
            "new_best": best,
        }
    )


def test_a_silent_run_gets_a_line_with_counts_and_the_time_left(
    lines: Lines, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    start(lines)
    capsys.readouterr()
    for n in range(40):
        clock[0] = float(n + 1)
        lines({"type": "case_finished", "ok": n % 10 != 0})
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "15/100 rollouts, 2 failed, at most 85 s left",
        "30/100 rollouts, 3 failed, at most 70 s left",
    ]


def test_words_tell_a_baseline_a_new_best_and_what_is_only_kept_apart(
    lines: Lines, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted(lines, 0.5, best=True, names=[])
    accepted(lines, 0.711, best=True, names=["tone"])
    accepted(lines, 0.672, best=False, names=["tone"])
    assert capsys.readouterr().err.splitlines() == [
        "baseline measured, validation 0.500",
        "new best: tone rewritten, validation 0.711",
        "tone rewritten, better on its cases and kept to build on, validation 0.672; "
        "the best stays at 0.711",
    ]


def test_an_evaluation_tells_each_quarter(
    lines: Lines, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    start(lines, mode="evaluate", cases=8, evaluators=["exact_match"], budget=None)
    capsys.readouterr()
    for done in range(1, 9):
        clock[0] = float(done)
        lines({"type": "case_finished", "ok": True})
        event = {"done": done, "total": 8, "failed": 0, "mean": 0.5}
        lines({"type": "evaluation_progress", **event})
    assert capsys.readouterr().err.splitlines() == [
        "2/8 cases, score 0.500, 0 failed, about 6 s left",
        "4/8 cases, score 0.500, 0 failed, about 4 s left",
        "6/8 cases, score 0.500, 0 failed, about 2 s left",
        "8/8 cases, score 0.500, 0 failed",
    ]

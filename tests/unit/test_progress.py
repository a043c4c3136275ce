"""Progress in a log: its words, and a line now and then however long a run says nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.console import Console

from orcheo_agentensor.cli.progress import Lines, progress


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
            "checkpoints": {"every": None},
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
        "5/100 rollouts, 1 failed, at most 2 min left",
        "10/100 rollouts, 1 failed, at most 2 min left",
        "15/100 rollouts, 2 failed, at most 85 s left",
        "20/100 rollouts, 2 failed, at most 80 s left",
        "25/100 rollouts, 3 failed, at most 75 s left",
        "30/100 rollouts, 3 failed, at most 70 s left",
        "35/100 rollouts, 4 failed, at most 65 s left",
        "40/100 rollouts, 4 failed, at most 60 s left",
    ]


def test_a_run_in_which_nothing_finishes_says_so_now_and_then(
    lines: Lines, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    start(lines)
    capsys.readouterr()
    for second in range(0, 70, 5):
        clock[0] = float(second)
        lines.still()
    assert capsys.readouterr().err.splitlines() == [
        "nothing has finished for 30 s; 0/100 rollouts, 0 failed",
        "nothing has finished for 30 s; 0/100 rollouts, 0 failed",
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


HOSTILE = "begin \x1b[2J \x9b31m \x7f \u202e\u2066 \u200b\ufeff \u2028 \U000e0041 end"
STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0041]"
)


@pytest.mark.parametrize("terminal", [True, False])
def test_hostile_names_and_reasons_are_told_without_their_effect(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Console(stderr=True, force_terminal=terminal, no_color=True, width=400, markup=False)
    for module in ("progress", "output"):
        monkeypatch.setattr(f"orcheo_agentensor.cli.{module}.console", lambda **_: made)
    told = {"status": "no_change", "reason": HOSTILE, "components": [HOSTILE]}
    with progress(silent=False) as tell:
        tell(
            {"type": "run_started", "run_id": HOSTILE, "mode": "train", "target": HOSTILE}
            | {"prompts": [HOSTILE], "optimizer": HOSTILE, "splits": {HOSTILE: 4}}
            | {"budget": {"rollouts": 9}, "checkpoints": {"every": None}}
        )
        tell({"type": "proposal_rejected", **told})
        tell({"type": "candidate_accepted", "validation": 1.0, "new_best": True, **told})
    said = capsys.readouterr().err
    own = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said).replace("\r", "") if terminal else said
    assert own.count("begin \N{REPLACEMENT CHARACTER}[2J") == 8
    assert STEERING.findall(own) == []

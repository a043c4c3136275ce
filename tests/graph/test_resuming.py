"""A training cut off anywhere and resumed ends as if nothing had happened, and repeats nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from rule_task import PROMPTS, Target, Teacher, dataset, done, outcome_of

from orcheo_agentensor import (
    Budget,
    Limits,
    RandomSearch,
    Reflective,
    TextGrad,
    TrainingResult,
    atrain,
)
from orcheo_agentensor.optimizers import ProposalRequest

BREAKS = {0: {1}, 3: {2}}


class Guesser(Teacher):
    """A proposer that adds rules by the seed of the request."""

    def texts(self, request: ProposalRequest) -> dict[str, str]:
        rules = [f"R{k}" for k in range(4) if request.seed >> k & 1]
        return {c.name: " ".join([c.text, *rules]) for c in request.components}


OPTIMIZERS: dict[str, Any] = {
    "reflective": lambda proposer: Reflective(minibatch=3, proposer=proposer),
    "reflective, 4 at once": lambda proposer: Reflective(
        minibatch=3, parallel=4, proposer=proposer
    ),
    "textgrad": lambda proposer: TextGrad(minibatch=4, proposer=proposer),
    "random_search": lambda proposer: RandomSearch(minibatch=3, parallel=3, proposer=proposer),
}
every = pytest.mark.parametrize("kind", OPTIMIZERS)


class Run:
    """One training on a SQLite file, which may be cut off and resumed; counts all it paid for."""

    def __init__(self, kind: str, path: Path) -> None:
        guessing = kind == "random_search"
        self.target = Target(breaks={} if guessing else BREAKS, hook=self._before)
        self.proposer = Guesser() if guessing else Teacher()
        self._job: dict[str, Any] = {
            "prompts": PROMPTS,
            "dataset": dataset(train=10, validation=6, holdout=6),
            "evaluators": [done],
            "optimizer": OPTIMIZERS[kind](self.proposer),
            "budget": Budget(rollouts=150),
            "limits": Limits(concurrency=1),
            "workflow_id": "w",
            "run_id": "r",
            "store": f"sqlite:///{path}",
            "promote": "auto",
        }
        self._cut = asyncio.Event()
        self._cut_at = 0

    async def _before(self, inputs: dict[str, Any]) -> None:
        if len(self.target.calls) == self._cut_at:
            self._cut.set()
            await asyncio.Event().wait()

    async def go(self, on_event: Any = None) -> TrainingResult:
        events = {"on_event": on_event} if on_event else {}
        return await atrain(self.target, **self._job, **events)

    async def cut_at_rollout(self, number: int) -> None:
        """Go, and be cancelled in the middle of a rollout."""
        self._cut_at = number
        task = asyncio.ensure_future(self.go())
        await self._cut.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        self._cut_at = 0

    async def cut_at_event(self, number: int) -> int:
        """Go, and be cancelled as an event is heard; how many were heard."""
        heard = 0

        def hear(event: dict[str, Any]) -> None:
            nonlocal heard
            heard += event["type"] not in ("case_finished", "evaluation_progress")
            if heard == number:
                task.cancel()

        task = asyncio.ensure_future(self.go(hear))
        await asyncio.wait([task])
        return heard


def spread(count: int) -> range:
    """Where to cut, of so many places: the first, the last, and some between."""
    return range(count, 0, -max(1, (count - 1) // 3))


@every
async def test_cut_off_in_the_middle_of_a_rollout(kind: str, tmp_path: Path) -> None:
    whole = Run(kind, tmp_path / "whole.db")
    expected = outcome_of(await whole.go())
    for number in spread(len(whole.target.calls)):
        run = Run(kind, tmp_path / f"{number}.db")
        await run.cut_at_rollout(number)
        assert len(run.target.calls) == number
        assert outcome_of(await run.go()) == expected
        assert len(run.target.calls) == len(whole.target.calls) + 1  # the one that was cut
        assert len(run.proposer.requests) == len(whole.proposer.requests)


@every
async def test_cut_off_at_a_step_a_version_or_the_decision(kind: str, tmp_path: Path) -> None:
    whole = Run(kind, tmp_path / "whole.db")
    events = await whole.cut_at_event(-1)
    expected = outcome_of(await whole.go())
    for number in spread(events):
        run = Run(kind, tmp_path / f"{number}.db")
        assert await run.cut_at_event(number) >= number
        assert outcome_of(await run.go()) == expected
        assert sorted(run.target.calls) == sorted(whole.target.calls)
        assert len(run.proposer.requests) == len(whole.proposer.requests)

"""A search that is cut off at any step and resumed should end as if nothing had happened."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.evaluation.measure import scratch
from benchmarks.optimizers import ours, peer
from benchmarks.optimizers.play import OURS, spread
from benchmarks.optimizers.proposers import Ours, perfect
from benchmarks.optimizers.results import Plan, Result, Row
from benchmarks.optimizers.sides import Search
from benchmarks.optimizers.simulator import Simulator
from benchmarks.optimizers.suite import RULES
from benchmarks.optimizers.tasks import Example, Task, Texts
from orcheo_agentensor import Store

TASK = Task(name="rule task with a holdout", holdout=20)
BUDGET = 500
RUN = "cut-off"


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """What came of cutting one seed's search off, once per step."""

    cuts: int
    identical: int
    extra: tuple[int, ...]


def run(plan: Plan) -> Result:
    """Both sides, all seeds."""
    seeds = list(range(plan.seeds))
    found = {
        OURS.name: spread(_cancelled, seeds),
        f"{OURS.name}, kill -9": spread(_killed, seeds),
        "gepa": spread(_stopped, seeds),
    }

    def cells(show: Callable[[list[Cuts]], str]) -> dict[str, str]:
        return {name: show(cuts) for name, cuts in found.items()}

    mine = [cuts for name, every in found.items() if name != "gepa" for cuts in every]
    return Result(
        setup="The rule task. Ours is cancelled once at every step, and killed (SIGKILL) at a step "
        "that differs from seed to seed, then resumed from its SQLite store; gepa is stopped in "
        "good order after every iteration, then resumed from its run_dir. Identical: every "
        "candidate in order, for ours also the holdout, the decision and the rollouts counted.",
        rows=(
            Row(
                name="seeds identical at every step",
                cells=cells(
                    lambda every: f"{sum(c.identical == c.cuts for c in every)}/{len(every)}"
                ),
                target="all",
                met=all(c.identical == c.cuts for c in mine),
                numbers={name: [vars(c) for c in every] for name, every in found.items()},
            ),
            Row(
                name="resumptions identical",
                cells=cells(
                    lambda every: f"{sum(c.identical for c in every)}/{sum(c.cuts for c in every)}"
                ),
            ),
            Row(
                name="extra rollouts, most",
                cells=cells(lambda every: f"{max(max(c.extra, default=0) for c in every):+d}"),
                target="0",
                met=all(extra == 0 for c in mine for extra in c.extra),
            ),
        ),
    )


def _search(seed: int) -> Search:
    return Search(budget=BUDGET, seed=seed)


async def _train(
    simulator: Simulator, seed: int, directory: Path, on_event: Callable[[Any], None]
) -> dict[str, Any]:
    """Run or resume one training; what must be the same however it went."""
    async with Store.from_url(f"sqlite:///{directory / 'agentensor.db'}") as store:
        result = await ours.train(
            simulator,
            _search(seed),
            Ours(perfect),
            promote="auto",
            workflow_id="cut",
            run_id=RUN,
            store=store,
            on_event=on_event,
        )
    held = result.holdout or {}
    return {
        "texts": ours.texts(result),
        "versions": [
            {name: tensor.text for name, tensor in version.prompts.items()}
            for version in result.checkpoints
        ],
        "gain": held.get("gain"),
        "decision": (result.decision.status, result.decision.stopped),
        "rollouts": result.usage.rollouts,
    }


def _whole(seed: int) -> tuple[dict[str, Any], int, int]:
    """The uninterrupted run, its rollouts and its steps."""
    simulator, steps = Simulator(TASK), 0

    def hear(event: Any) -> None:
        nonlocal steps
        steps += event["type"] == "training_progress"

    with scratch() as directory:
        whole = asyncio.run(_train(simulator, seed, directory, hear))
    return whole, simulator.calls, steps


def _cancelled(seed: int) -> Cuts:
    whole, calls, steps = _whole(seed)
    identical, extra = 0, []
    for step in range(1, steps + 1):
        simulator = Simulator(TASK)
        with scratch() as directory:
            asyncio.run(_cancel_at(step, simulator, seed, directory))
            again = asyncio.run(_train(simulator, seed, directory, lambda _event: None))
        identical += again == whole
        extra.append(simulator.calls - calls)
    return Cuts(cuts=steps, identical=identical, extra=tuple(extra))


async def _cancel_at(step: int, simulator: Simulator, seed: int, directory: Path) -> None:
    heard = 0

    def hear(event: Any) -> None:
        nonlocal heard
        heard += event["type"] == "training_progress"
        if heard == step:
            training.cancel()

    training = asyncio.create_task(_train(simulator, seed, directory, hear))
    await asyncio.wait([training])


class Logged(Simulator):
    """Writes every call to a file, which outlives the process."""

    def __init__(self, path: Path) -> None:
        super().__init__(TASK)
        self._path = path

    def __call__(self, texts: Texts, example: Example) -> tuple[float, str]:
        """One rollout."""
        with self._path.open("ab") as log:
            log.write(b".")
        return super().__call__(texts, example)


def _killed(seed: int) -> Cuts:
    whole, calls, steps = _whole(seed)
    with scratch() as directory:
        process = multiprocessing.get_context("spawn").Process(
            target=_kill_at, args=(1 + seed % steps, seed, directory)
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, process.exitcode
        simulator = Logged(directory / "calls")
        again = asyncio.run(_train(simulator, seed, directory, lambda _event: None))
        made = (directory / "calls").stat().st_size
    return Cuts(cuts=1, identical=int(again == whole), extra=(made - calls,))


def _kill_at(step: int, seed: int, directory: Path) -> None:
    heard = 0

    def hear(event: Any) -> None:
        nonlocal heard
        heard += event["type"] == "training_progress"
        if heard == step:
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(_train(Logged(directory / "calls"), seed, directory, hear))


def _stopped(seed: int) -> Cuts:
    whole = Simulator(RULES)
    reference = peer.run(whole, _search(seed))
    identical, extra, after = 0, [], 1
    while True:
        simulator = Simulator(RULES)
        with scratch() as directory:
            left = after

            def cut(_state: Any) -> bool:
                nonlocal left
                left -= 1
                return left < 0

            peer.run(simulator, _search(seed), stops=[cut], run_dir=str(directory))
            if simulator.solved_at is not None:
                break
            again = peer.run(simulator, _search(seed), run_dir=str(directory))
        identical += again.details == reference.details
        extra.append(simulator.calls - whole.calls)
        after += 1
    return Cuts(cuts=len(extra), identical=identical, extra=tuple(extra))

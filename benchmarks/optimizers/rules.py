"""Rollouts to the target on the rule task and on harder ones; true value under noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.optimizers.play import (
    GEPA,
    GEPA_ALL,
    GEPA_BEST,
    OURS,
    PEERS,
    TEXTGRAD,
    Contender,
    Job,
    Played,
    mean_value,
    median_solved,
    play,
    solved,
    spread,
)
from benchmarks.optimizers.results import Plan, Result, Row, number
from benchmarks.optimizers.suite import HARDER, INTERFERING, NOISY, RULES
from benchmarks.optimizers.tasks import Task

CONTENDERS = (GEPA, GEPA_ALL, GEPA_BEST, TEXTGRAD, OURS)
BUDGET = 3_000
NOISE_BUDGET = 400
TARGET = 95

Games = dict[str, list[Played]]


def rule_task(plan: Plan) -> Result:
    """The reference task."""
    (games,) = contest([RULES], plan, budget=BUDGET)
    ours = median_solved(games[OURS.name])
    return Result(
        setup=_setup(plan, f"at most {BUDGET:,}"),
        rows=(_to_target("rule task", games, target=f"≤ {TARGET}", met=ours <= TARGET),),
    )


def harder(plan: Plan) -> Result:
    """More components and rules, irrelevant components, harmful rules in the seed."""
    return _never_later(HARDER, plan)


def interference(plan: Plan) -> Result:
    """A rule for one example breaks another until its fix is there too."""
    return _never_later(INTERFERING, plan)


def noise(plan: Plan) -> Result:
    """What the returned prompts are truly worth when some outcomes are flipped."""
    rows = []
    for share in (0.05, 0.10):
        found = contest(NOISY, plan, budget=NOISE_BUDGET, noise=share, stop=False)
        for task, games in zip(NOISY, found, strict=True):
            rows.append(_by_value(f"{task.name}, {share:.0%} flipped", games))
    return Result(
        setup=f"Mean true value (outcomes not flipped) of the prompts returned after "
        f"{NOISE_BUDGET} rollouts, {plan.seeds} seeds; in brackets what the side reports.",
        rows=tuple(rows),
    )


def trouble(plan: Plan) -> Result:
    """A proposer that gives rubbish half of the time, and one whose edits crash the target."""
    (rubbish,) = contest([RULES], plan, budget=BUDGET, proposer="rubbish")
    (crashing,) = contest([RULES], plan, budget=NOISE_BUDGET, proposer="crashing", stop=False)
    return Result(
        setup=f"{_setup(plan, f'at most {BUDGET:,}')} Crashing: half of the edits make the target "
        f"crash on the examples of a rule; mean true value after {NOISE_BUDGET} rollouts.",
        rows=(
            _against("half of the proposals are rubbish", rubbish),
            _by_value("half of the edits crash", crashing),
        ),
    )


def forgetting(plan: Plan) -> Result:
    """A proposer that forgets half of what was learnt at each rewrite."""
    (games,) = contest([RULES], plan, budget=BUDGET, proposer="forgetting")
    return Result(
        setup=_setup(plan, f"at most {BUDGET:,}"),
        rows=(_against("half of the rules are forgotten at each rewrite", games),),
    )


def contest(
    tasks: Sequence[Task],
    plan: Plan,
    *,
    budget: int,
    contenders: Sequence[Contender] = CONTENDERS,
    **settings: Any,
) -> list[Games]:
    """All contenders on all tasks with all seeds: per task, what each one's searches came to."""
    jobs = [
        Job(task=task, contender=contender, seed=seed, budget=budget, **settings)
        for task in tasks
        for contender in contenders
        for seed in range(plan.seeds)
    ]
    played = iter(spread(play, jobs))
    return [
        {contender.name: [next(played) for _ in range(plan.seeds)] for contender in contenders}
        for _ in tasks
    ]


def _setup(plan: Plan, budget: str) -> str:
    return (
        f"Median rollouts until one candidate had scored 1.0 on all validation examples, "
        f"{plan.seeds} seeds, {budget} rollouts; in brackets how many seeds got there, and the "
        "mean true value of the returned prompts where not all did."
    )


def _never_later(tasks: Sequence[Task], plan: Plan) -> Result:
    found = contest(tasks, plan, budget=BUDGET)
    return Result(
        setup=_setup(plan, f"at most {BUDGET:,}"),
        rows=tuple(_against(task.name, games) for task, games in zip(tasks, found, strict=True)),
    )


def _against(name: str, games: Games) -> Row:
    """Met when ours is no later than any setting of gepa, and solves as many seeds."""
    ours = games[OURS.name]
    peers = [games[peer.name] for peer in PEERS]
    met = all(
        median_solved(ours) <= median_solved(peer)
        and solved(ours) >= solved(peer)
        and mean_value(ours) >= mean_value(peer) - 1e-9
        for peer in peers
    )
    return _to_target(name, games, target="never worse than gepa", met=met)


def _to_target(name: str, games: Games, *, target: str, met: bool) -> Row:
    def cell(played: list[Played]) -> str:
        share = f"{solved(played)}/{len(played)}"
        value = "" if solved(played) == len(played) else f", {mean_value(played):.2f}"
        return f"{number(median_solved(played))} ({share}{value})"

    return _row(name, games, cell, target=target, met=met)


def _by_value(name: str, games: Games) -> Row:
    """Met when our prompts are truly worth as much as those of any setting of gepa."""

    def cell(played: list[Played]) -> str:
        reported = _mean(one.found.reported for one in played)
        return f"{mean_value(played):.3f} ({reported:.3f})"

    ours = mean_value(games[OURS.name])
    met = all(ours >= mean_value(games[peer.name]) - 1e-9 for peer in PEERS)
    return _row(name, games, cell, target="never worse than gepa", met=met)


def _row(
    name: str, games: Games, cell: Callable[[list[Played]], str], *, target: str, met: bool
) -> Row:
    return Row(
        name=name,
        cells={side: cell(played) for side, played in games.items()},
        target=target,
        met=met,
        numbers={side: _numbers(played) for side, played in games.items()},
    )


def _numbers(played: list[Played]) -> dict[str, Any]:
    return {
        "median_rollouts": median_solved(played),
        "solved": solved(played),
        "mean_value": mean_value(played),
        "by_seed": [
            {
                "seed": one.seed,
                "solved_at": one.solved_at,
                "rollouts": one.calls,
                "value": one.value,
                "reported": one.found.reported,
                "rewrites": sum(one.found.rewrites.values()),
                "crashes": one.crashes,
                "returned_crashes": one.crashing,
            }
            for one in played
        ],
    }


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)

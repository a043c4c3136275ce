"""2,000 cases with a target that takes no time: what the harness itself costs."""

from __future__ import annotations

from statistics import median

from benchmarks.evaluation import sides
from benchmarks.evaluation.measure import Plan, Result, Row, interleave, paired_ratio

CASES = 2_000
CONCURRENCY = 50
TARGET = 0.55


def run(plan: Plan) -> Result:
    """Wall time against pydantic-evals."""
    count = plan.size(CASES)
    task = sides.instant
    seconds = interleave(
        {
            "ours": sides.ours(task, count=count, concurrency=CONCURRENCY),
            "ours in memory": sides.ours(task, count=count, concurrency=CONCURRENCY, durable=False),
            "pydantic-evals": sides.pydantic_evals(task, count=count, concurrency=None),
            f"pydantic-evals, {CONCURRENCY} at once": sides.pydantic_evals(
                task, count=count, concurrency=CONCURRENCY
            ),
            "bare asyncio": sides.bare(task, count=count, concurrency=CONCURRENCY),
        },
        rounds=plan.rounds,
    )
    peers = [name for name in seconds if name.startswith("pydantic-evals")]
    best = min(peers, key=lambda name: median(seconds[name]))
    ratio, ratios = paired_ratio(seconds["ours"], seconds[best])
    per_case = [
        Row(
            name=f"{name}, per case",
            value=median(values) / count * 1e6,
            unit="µs",
            samples=tuple(value / count * 1e6 for value in values),
        )
        for name, values in seconds.items()
    ]
    return Result(
        setup=(
            f"{count:,} cases, a target that returns at once, one exact-match evaluator. Ours: "
            f"concurrency {CONCURRENCY}, a listener for events, every case durable in a new SQLite "
            "file; the time includes creating the database, checking and storing the dataset, the "
            "summary, and reading the report back. pydantic-evals: "
            "progress bar off, all cases at once (its default) and as many at once as ours; the "
            "time includes making the Dataset; it stores nothing."
        ),
        rows=(
            *per_case,
            Row(
                name=f"ours ÷ {best} (the faster of the two)",
                value=ratio,
                unit="×",
                target=f"≤ {TARGET}",
                met=ratio <= TARGET,
                samples=ratios,
            ),
        ),
    )

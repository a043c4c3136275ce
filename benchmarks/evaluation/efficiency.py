"""Cases that wait 20 ms each, 50 at once: how much of the wait is lost."""

from __future__ import annotations

from statistics import median

from benchmarks.evaluation import sides
from benchmarks.evaluation.measure import Plan, Result, Row, interleave, paired_ratio

CASES = 10_000
CONCURRENCY = 50
SECONDS = 0.020
TARGET = 0.93


def run(plan: Plan) -> Result:
    """Efficiency (ideal ÷ actual) against bare asyncio's."""
    count = plan.size(CASES)
    ideal = count / CONCURRENCY * SECONDS
    task = sides.waiting(SECONDS)
    seconds = interleave(
        {
            "ours": sides.ours(task, count=count, concurrency=CONCURRENCY),
            "pydantic-evals": sides.pydantic_evals(task, count=count, concurrency=CONCURRENCY),
            "bare asyncio": sides.bare(task, count=count, concurrency=CONCURRENCY),
        },
        rounds=plan.rounds,
    )
    ratio, ratios = paired_ratio(seconds["bare asyncio"], seconds["ours"])
    return Result(
        setup=(
            f"{count:,} cases of {SECONDS * 1000:.0f} ms, {CONCURRENCY} at once, from start to "
            f"report as in throughput; ideal is {ideal:.1f} s. In ours a case holds its place "
            "until its rows are committed."
        ),
        rows=(
            *(
                Row(
                    name=f"{name}: ideal ÷ actual",
                    value=ideal / median(values),
                    unit="",
                    samples=tuple(ideal / value for value in values),
                )
                for name, values in seconds.items()
            ),
            Row(
                name="ours ÷ bare asyncio's",
                value=ratio,
                unit="",
                target=f"≥ {TARGET}",
                met=ratio >= TARGET,
                samples=ratios,
            ),
        ),
        details={"seconds": seconds},
    )

"""Cases that wait 20 ms each, 50 at once: how much of the wait is lost."""

from __future__ import annotations

from statistics import median

from benchmarks.evaluation import sides
from benchmarks.evaluation.measure import Plan, Result, Row, interleave, paired_ratio

CASES = 10_000
CONCURRENCY = 50
SECONDS = 0.020
WHOLE = "ours, start to report"
LEAST = 0.85  # of the ideal, from start to report
TARGET = 0.93  # of what bare asyncio reaches


def run(plan: Plan) -> Result:
    """Efficiency (ideal ÷ actual) against bare asyncio's."""
    count = plan.size(CASES)
    ideal = count / CONCURRENCY * SECONDS
    task = sides.waiting(SECONDS)
    running: list[float] = []
    seconds = interleave(
        {
            WHOLE: sides.ours(task, count=count, concurrency=CONCURRENCY, running=running),
            "pydantic-evals, start to report": sides.pydantic_evals(
                task, count=count, concurrency=CONCURRENCY
            ),
            "bare asyncio": sides.bare(task, count=count, concurrency=CONCURRENCY),
        },
        rounds=plan.rounds,
    )
    seconds = {"ours, while cases run": running[-plan.rounds :], **seconds}
    ratio, ratios = paired_ratio(seconds["bare asyncio"], seconds["ours, while cases run"])
    return Result(
        setup=(
            f"{count:,} cases of {SECONDS * 1000:.0f} ms, {CONCURRENCY} at once, each durable in "
            f"SQLite; ideal is {ideal:.1f} s. A case that has returned gives its place to the next "
            "and waits for its commit, as many as may run. While cases run: from the event that "
            "starts the run to that of the last case, without preparing the dataset and adding up."
        ),
        rows=(
            *(
                Row(
                    name=f"{name}: ideal ÷ actual",
                    value=ideal / median(values),
                    unit="",
                    samples=tuple(ideal / value for value in values),
                    target=f"≥ {LEAST}" if name == WHOLE else "",
                    met=ideal / median(values) >= LEAST if name == WHOLE else None,
                )
                for name, values in seconds.items()
            ),
            Row(
                name="ours, while cases run ÷ bare asyncio",
                value=ratio,
                unit="",
                target=f"≥ {TARGET}",
                met=ratio >= TARGET,
                samples=ratios,
            ),
        ),
        details={"seconds": seconds},
    )
